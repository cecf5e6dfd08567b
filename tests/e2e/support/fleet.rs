//! Three nodes and three endpoints, each a process, on ports of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::api::{Api, TOKEN};
use super::eventually;
use super::network::{ENDPOINTS, Network};
use super::process::{Folder, Process, free_port};

pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// None: everything is on the loopback interface.
    network: Option<Network>,
    folder: Folder,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) http: SocketAddr,
    peer: SocketAddr,
    pub(crate) api: Api,
    /// None while it is down.
    pub(crate) process: Option<Process>,
    /// None: this build's.
    pub(crate) binary: Option<PathBuf>,
    /// The command that starts it elsewhere: in its namespaces, in another time.
    pub(crate) enter: Vec<String>,
    pub(crate) data: PathBuf,
    config: PathBuf,
    pub(crate) log: PathBuf,
}

pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

pub(crate) const READY: Duration = Duration::from_secs(30);

impl Fleet {
    /// Nodes that have found each other and elected a leader.
    pub(crate) async fn start(nodes: usize) -> Fleet {
        let mut fleet = Fleet::configured(nodes, None);
        fleet.start_all().await;
        fleet
    }

    /// The same with the nodes in the namespaces of a network.
    pub(crate) async fn start_in(network: Network) -> Fleet {
        let mut fleet = Fleet::configured(network.size(), Some(network));
        fleet.start_all().await;
        fleet
    }

    /// With three demo endpoints in pool `demo`, and a route for every host.
    pub(crate) async fn with_demo(nodes: usize, affinity: Value) -> Fleet {
        let mut fleet = Fleet::start(nodes).await;
        fleet.add_demo(affinity).await;
        fleet
    }

    /// The same of another build.
    pub(crate) async fn with_demo_of(binary: &Path, nodes: usize, affinity: Value) -> Fleet {
        let mut fleet = Fleet::configured(nodes, None);
        fleet.nodes.iter_mut().for_each(|node| node.binary = Some(binary.to_owned()));
        fleet.start_all().await;
        fleet.add_demo(affinity).await;
        fleet
    }

    pub(crate) async fn with_demo_in(network: Network) -> Fleet {
        let mut fleet = Fleet::start_in(network).await;
        fleet.add_demo(json!({ "kind": "cookie" })).await;
        fleet
    }

    /// Nodes that have not been started yet.
    pub(crate) fn configured(nodes: usize, network: Option<Network>) -> Fleet {
        let folder = Folder::new();
        std::fs::write(folder.path().join("secret"), [b's'; 48]).expect("the secret is written");
        std::fs::write(folder.path().join("token"), TOKEN).expect("the token is written");
        let mut fleet = Fleet { nodes: Vec::new(), endpoints: Vec::new(), network, folder };
        let peers: Vec<SocketAddr> = (0..nodes).map(|i| fleet.free_address(i)).collect();
        for (i, peer) in peers.iter().enumerate() {
            let node = fleet.configure(i, *peer, &peers);
            fleet.nodes.push(node);
        }
        fleet
    }

    /// Peers know each other by certificates of one authority, which the environment names, and not by the
    /// secret. The nodes have not been started.
    pub(crate) fn certify_by_environment(&mut self) {
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authorities = authority.self_signed(&authority_key).expect("an authority").pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("a key");
        let mut own = CertificateParams::new(["nodes.example".to_owned()]).expect("a name");
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = own.signed_by(&key, &issuer).expect("a certificate").pem();
        let write = |name: &str, pem: String| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, pem).expect("it is written");
            path.display().to_string()
        };
        let enter = [
            "env".to_owned(),
            format!("TIDELOCK_FLEET_TLS_AUTHORITIES={}", write("ca.crt", authorities)),
            format!("TIDELOCK_FLEET_TLS_CERTIFICATE={}", write("tls.crt", certificate)),
            format!("TIDELOCK_FLEET_TLS_KEY={}", write("tls.key", key.serialize_pem())),
            "TIDELOCK_FLEET_TLS_NAME=nodes.example".to_owned(),
        ];
        for node in &mut self.nodes {
            let toml = std::fs::read_to_string(&node.config).expect("it was written");
            let toml: Vec<&str> = toml.lines().filter(|line| !line.starts_with("secret_file")).collect();
            std::fs::write(&node.config, toml.join("\n")).expect("it is written");
            node.enter = enter.to_vec();
        }
    }

    pub(crate) async fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
        self.until_led().await;
    }

    pub(crate) async fn add_demo(&mut self, affinity: Value) {
        for i in 1..=3 {
            self.add_endpoint(&format!("app-{i}")).await;
        }
        let api = self.nodes[0].api;
        api.put("/v1/pools/demo", json!({ "protocol": "h2c" })).await;
        for endpoint in &self.endpoints {
            let path = format!("/v1/pools/demo/endpoints/{}", endpoint.name);
            api.put(&path, json!({ "address": endpoint.address.to_string() })).await;
        }
        let route = json!({ "pool": "demo", "affinity": affinity, "expose": true });
        let last = api.put("/v1/routes/demo", route).await;
        self.until_epoch(last["epoch"].as_u64().expect("an epoch")).await;
    }

    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().expect("a fleet in a network")
    }

    /// An address for node `i` to listen on.
    fn free_address(&self, i: usize) -> SocketAddr {
        let host = self.network.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |network| network.address(i));
        (host, free_port()).into()
    }

    fn configure(&self, i: usize, peer: SocketAddr, peers: &[SocketAddr]) -> Node {
        let name = ["a", "b", "c", "d", "e"][i].to_owned();
        let (http, admin) = (self.free_address(i), self.free_address(i));
        let folder = self.folder.path();
        let data = folder.join(&name);
        // Only one that can be reached from elsewhere needs it, and browsers come without.
        let token =
            self.network.as_ref().map(|_| format!("token_file = {:?}", folder.join("token").display().to_string()));
        let token = token.unwrap_or_default();
        let founders: Vec<String> = peers.iter().map(|peer| format!("{:?}", peer.to_string())).collect();
        let toml = format!(
            r#"
[node]
name = "{name}"
data_dir = "{data}"
workers = 2

[fleet]
listen = "{peer}"
advertise = "{peer}"
founders = [{founders}]
secret_file = "{secret}"

[admin]
listen = "{admin}"
{token}

[access_log]
format = "json"

[drain]
settle_ms = 200
deadline_ms = 20000

[[listeners]]
address = "{http}"
"#,
            data = data.display(),
            secret = folder.join("secret").display(),
            founders = founders.join(", "),
        );
        let config = folder.join(format!("{name}.toml"));
        std::fs::write(&config, toml).expect("the configuration is written");
        let log = folder.join(format!("{name}.log"));
        let enter = self.network.as_ref().map(|network| network.enter(i)).unwrap_or_default();
        Node { name, http, peer, api: Api(admin), process: None, binary: None, enter, data, config, log }
    }

    /// Starts one more node, which knows the others and shows `token` if it has one.
    pub(crate) fn join(&mut self, token: Option<&str>) {
        let i = self.nodes.len();
        let peers: Vec<SocketAddr> = self.nodes.iter().map(|node| node.peer).collect();
        let mut node = self.configure(i, self.free_address(i), &peers);
        let toml = std::fs::read_to_string(&node.config).expect("it was written");
        let mut toml = toml.replace("founders = [", "join = [");
        if let Some(token) = token {
            let file = self.folder.path().join(format!("{}.token", node.name));
            std::fs::write(&file, token).expect("the token is written");
            let file = format!("join_token_file = {:?}\nsecret_file", file.display().to_string());
            toml = toml.replace("secret_file", &file);
        }
        std::fs::write(&node.config, toml).expect("the configuration is written");
        node.start();
        self.nodes.push(node);
    }

    /// What `tidelock recover` says about the node's data directory.
    pub(crate) async fn recover(&self, i: usize, confirm: Option<&str>) -> String {
        let data = &self.nodes[i].data;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidelock"));
        command.arg("recover").arg("--data-dir").arg(data);
        if let Some(id) = confirm {
            command.args(["--confirm", id]);
        }
        let output = command.output().expect("the binary runs");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Empties the data directory of a node that is down: it comes back as a stranger.
    pub(crate) fn wipe(&self, i: usize) {
        assert!(self.nodes[i].process.is_none(), "it runs");
        std::fs::remove_dir_all(&self.nodes[i].data).expect("it had a data directory");
    }

    pub(crate) async fn add_endpoint(&mut self, name: &str) {
        let host = self.network.as_ref().map_or(Ipv4Addr::LOCALHOST, |_| ENDPOINTS);
        let address = SocketAddr::from((host, free_port()));
        let listen = address.to_string();
        let log = self.folder.path().join(format!("{name}.log"));
        let process = Process::tidelock(&["demo-endpoint", "--listen", &listen, "--name", name], log);
        until_listening(name, address).await;
        self.endpoints.push(Endpoint { name: name.to_owned(), address, process });
    }

    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    pub(crate) fn endpoint(&mut self, name: &str) -> &mut Endpoint {
        self.endpoints.iter_mut().find(|endpoint| endpoint.name == name).expect("an endpoint of this name")
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.process.is_some())
    }

    /// The leader's place among the nodes.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", READY, async || {
            for node in self.running() {
                let Ok(answer) = node.api.send(http::Method::GET, "/v1/status", None).await else { continue };
                let status: Value = serde_json::from_slice(&answer.body).ok()?;
                let leader = status["leader"].as_str().unwrap_or_default();
                let found = self.nodes.iter().position(|node| node.name == leader && node.process.is_some());
                if found.is_some() {
                    return found;
                }
            }
            None
        })
        .await
    }

    pub(crate) async fn until_led(&self) {
        self.leader().await;
        for node in self.running() {
            node.until_ready().await;
        }
    }

    /// Every running node serves this epoch or a newer one.
    pub(crate) async fn until_epoch(&self, epoch: u64) {
        eventually(&format!("every node at epoch {epoch}"), READY, async || {
            let node = self.running().next()?;
            let nodes = node.api.get("/v1/nodes").await;
            let names: Vec<&str> = self.running().map(|node| node.name.as_str()).collect();
            let there = nodes["nodes"].as_array()?.iter().filter(|node| {
                node["name"].as_str().is_some_and(|name| names.contains(&name))
                    && node["epoch"].as_u64().is_some_and(|at| at >= epoch)
            });
            (there.count() == names.len()).then_some(())
        })
        .await;
    }
}

impl Node {
    pub(crate) fn start(&mut self) {
        let config = self.config.display().to_string();
        let arguments = ["serve", "--config", &config];
        self.process = Some(match &self.binary {
            Some(binary) => Process::of(binary, &arguments, self.log.clone()),
            None => Process::tidelock_within(&self.enter, &arguments, self.log.clone()),
        });
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Its process has ended, by itself and in order.
    pub(crate) async fn until_ended(&mut self) {
        let process = self.process.take().expect("it runs");
        let wait = move || {
            let mut process = process;
            process.wait(READY)
        };
        let status = tokio::task::spawn_blocking(wait).await.expect("the wait ends");
        assert!(status.success(), "{status}");
    }

    /// Its admin API answers, whatever it says.
    pub(crate) async fn until_ready_or_not(&self) {
        eventually("an answer", READY, async || self.api.send(http::Method::GET, "/livez", None).await.ok()).await;
    }

    /// One number of its metrics.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let answer = self.api.send(http::Method::GET, "/metrics", None).await.expect("the metrics");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    pub(crate) async fn until_ready(&self) {
        eventually(&format!("node {} is ready", self.name), READY, async || {
            let answer = self.api.send(http::Method::GET, "/readyz", None).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

pub(crate) async fn until_listening(what: &str, address: SocketAddr) {
    eventually(&format!("{what} listens on {address}"), READY, async || {
        tokio::net::TcpStream::connect(address).await.ok().map(drop)
    })
    .await;
}
