//! A network that is the test's own: each node in a network namespace on one bridge, with links
//! that can be cut in one direction or both.
//!
//! The test's thread moves into a namespace of its own too, so addresses and names are the same in
//! every test and meet nobody else's. A namespace lives as long as a process that holds it, which
//! ends with the test however that ends; the kernel then takes links, rules and mounts away.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the test itself is, and where endpoints are: cutting nodes off from each other cuts them
/// off from neither.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
pub(crate) const ENDPOINTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);

pub(crate) struct Network {
    nodes: Vec<Namespace>,
    _own: Namespace,
}

/// Runs `story` in a network of `nodes` namespaces, with threads that are in none of them but on
/// their bridge.
pub(crate) fn in_a_network(nodes: usize, story: impl AsyncFnOnce(Network)) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root makes network namespaces");
        return;
    }
    let network = Network::new(nodes);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(story(network));
}

impl Network {
    /// Moves this thread, and those it starts from now on, onto the bridge.
    fn new(nodes: usize) -> Network {
        let own = Namespace::new();
        let file = File::open(own.path("ns/net")).expect("the namespace can be opened");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("the thread moves");
        run("ip link set lo up");
        run("ip link add fleet type bridge");
        run(&format!("ip address add {CLIENTS}/24 dev fleet"));
        run(&format!("ip address add {ENDPOINTS}/24 dev fleet"));
        run("ip link set fleet up");
        let mut network = Network { nodes: Vec::new(), _own: own };
        for i in 0..nodes {
            let namespace = Namespace::new();
            run(&format!("ip link add node-{i} type veth peer name uplink netns {}", namespace.holder.id()));
            run(&format!("ip link set node-{i} master fleet up"));
            network.nodes.push(namespace);
            network.within(i, "ip link set lo up");
            network.within(i, &format!("ip address add {}/24 dev uplink", network.address(i)));
            network.within(i, "ip link set uplink up");
        }
        network
    }

    pub(crate) fn address(&self, i: usize) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, 1 + i as u8).into()
    }

    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The command that runs another one where node `i` lives, with its network and its mounts.
    pub(crate) fn enter(&self, i: usize) -> Vec<String> {
        let holder = self.nodes[i].holder.id();
        format!("nsenter --target {holder} --net --mount --").split(' ').map(str::to_owned).collect()
    }

    /// Runs `line` where node `i` lives.
    pub(crate) fn within(&self, i: usize, line: &str) {
        run(&format!("{} {line}", self.enter(i).join(" ")));
    }

    /// The file that node `i` sees at `path`: it may have mounts of its own there.
    pub(crate) fn path_within(&self, i: usize, path: &Path) -> PathBuf {
        let root = self.nodes[i].path("root");
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// Node `i` hears nothing more from `other`, without a word to either: packets are dropped.
    pub(crate) fn deafen(&self, i: usize, other: impl Into<IpAddr>) {
        self.within(i, &format!("iptables -w -A INPUT -s {} -j DROP", other.into()));
    }

    /// Parts the nodes of `group` from all others, in both directions.
    pub(crate) fn part(&self, group: &[usize]) {
        for i in group {
            for other in (0..self.size()).filter(|other| !group.contains(other)) {
                self.deafen(*i, self.address(other));
                self.deafen(other, self.address(*i));
            }
        }
    }

    /// Node `i` hears no other node.
    pub(crate) fn deafen_to_all(&self, i: usize) {
        self.others(i).for_each(|other| self.deafen(i, self.address(other)));
    }

    /// No other node hears node `i`.
    pub(crate) fn silence(&self, i: usize) {
        self.others(i).for_each(|other| self.deafen(other, self.address(i)));
    }

    /// A share of the packets between node `i` and the others is lost, in both directions.
    pub(crate) fn lose(&self, i: usize, share: f64) {
        let lossy = |at: usize, from: IpAddr| {
            let rule = format!("-m statistic --mode random --probability {share} -j DROP");
            self.within(at, &format!("iptables -w -A INPUT -s {from} {rule}"));
        };
        for other in self.others(i) {
            lossy(i, self.address(other));
            lossy(other, self.address(i));
        }
    }

    /// Everybody hears everybody.
    pub(crate) fn heal(&self) {
        (0..self.nodes.len()).for_each(|i| self.within(i, "iptables -w -F"));
    }

    fn others(&self, i: usize) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(move |other| *other != i)
    }
}

/// A network namespace and a mount namespace, held by a process that ends when its input does.
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Namespace {
        let mut command = Command::new("unshare");
        let holder = command.args(["--net", "--mount", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let namespace = Namespace { holder: holder.expect("unshare (util-linux) starts") };
        // The new namespaces are there when the process is in others than this thread.
        let own = |kind: &str| std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).expect("a namespace");
        let end = Instant::now() + Duration::from_secs(10);
        let there =
            |kind: &str| std::fs::read_link(namespace.path(&format!("ns/{kind}"))).is_ok_and(|ns| ns != own(kind));
        while !(there("net") && there("mnt")) {
            assert!(Instant::now() < end, "unshare made no namespace: is this root?");
            std::thread::park_timeout(Duration::from_millis(2));
        }
        namespace
    }

    /// The holder's `name` in /proc.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.holder.id()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
