//! Sockets that the service manager has bound (sd_listen_fds(3)).

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::Command;

use http::Method;

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::fleet::READY;
use crate::support::http::{get, h1};
use crate::support::process::{BINARY, Folder, Process, free_port};

/// One node whose sockets come from outside.
struct Activated {
    folder: Folder,
    http: u16,
    admin: u16,
}

impl Activated {
    fn new() -> Activated {
        let activated = Activated { folder: Folder::new(), http: free_port(), admin: free_port() };
        let folder = activated.folder.path();
        let toml = format!(
            "[node]\nname = \"a\"\ndata_dir = \"{0}/data\"\nworkers = 3\n[admin]\nlisten = \"127.0.0.1:{2}\"\n\
             [drain]\nsettle_ms = 0\ndeadline_ms = 5000\n[[listeners]]\naddress = \"0.0.0.0:{1}\"\n\
             [[listeners]]\naddress = \"unix:{0}/http\"\n",
            folder.display(),
            activated.http,
            activated.admin
        );
        std::fs::write(folder.join("a.toml"), toml).expect("the configuration is written");
        activated
    }

    /// Starts the node as systemd does, the sockets from descriptor 3 on.
    fn start(&self, sockets: &[&OwnedFd]) -> Process {
        let mut script = String::new();
        // Held until the child has them.
        let mut inherited = Vec::new();
        for (index, socket) in sockets.iter().enumerate() {
            // Far above 3, so that no redirection hits another one's source.
            let high = rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 100).expect("a free descriptor");
            rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).expect("it is ours");
            let number = high.as_raw_fd();
            script.push_str(&format!("exec {}<&{number} {number}<&-; ", 3 + index));
            inherited.push(high);
        }
        let config = self.folder.path().join("a.toml");
        script.push_str(&format!(
            "LISTEN_PID=$$ LISTEN_FDS={} exec {BINARY} serve --config {} --exit-with-parent",
            sockets.len(),
            config.display()
        ));
        let mut command = Command::new("bash");
        command.args(["-c", &script]);
        Process::start(command, self.folder.path().join("log"))
    }

    async fn until_ready(&self) {
        let api = Api(([127, 0, 0, 1], self.admin).into());
        eventually("the node is ready", READY, async || {
            let answer = api.send(Method::GET, "/readyz", None).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// What the node says when it does not start.
    fn refused(&self, sockets: &[&OwnedFd]) -> String {
        let mut process = self.start(sockets);
        assert!(!process.wait(READY).success(), "{}", process.log());
        process.log()
    }
}

#[tokio::test]
async fn given_sockets_are_used_and_serve_through_a_restart() {
    let node = Activated::new();
    // What systemd makes of ListenStream=PORT: both families on one socket.
    let http: OwnedFd = TcpListener::bind(("::", node.http)).expect("the port is free").into();
    let admin: OwnedFd = TcpListener::bind(("127.0.0.1", node.admin)).expect("the port is free").into();
    let path = node.folder.path().join("http");
    let unix: OwnedFd = UnixListener::bind(&path).expect("a new path").into();

    let mut process = node.start(&[&http, &admin, &unix]);
    node.until_ready().await;
    // 421: a node without a route. It came through the given socket, since nothing else can be bound there.
    let address = ([127, 0, 0, 1], node.http).into();
    assert_eq!(h1(address, get("/", "")).await.expect("an answer").status, 421);
    tokio::net::UnixStream::connect(&path).await.expect("the socket in the file system listens");
    process.signal("TERM");
    let wait = move || (process.wait(READY), process);
    let (status, _) = tokio::task::spawn_blocking(wait).await.expect("the wait ends");
    assert!(status.success(), "{status}");

    // Nobody is there, and nobody is refused: the request waits in the queue for the next process.
    let waiting = tokio::spawn(async move { h1(address, get("/", "")).await });
    let admin_waits = tokio::net::TcpStream::connect(("127.0.0.1", node.admin)).await;
    assert!(admin_waits.is_ok() && path.exists());
    let _process = node.start(&[&http, &admin, &unix]);
    let answer = tokio::time::timeout(READY, waiting).await.expect("it is answered").expect("no panic");
    assert_eq!(answer.expect("an answer").status, 421);
}

#[tokio::test]
async fn a_given_socket_that_cannot_be_used_is_an_error_that_says_what_to_do() {
    let node = Activated::new();
    let stranger: OwnedFd = TcpListener::bind(("127.0.0.1", 0)).expect("a free port").into();
    let log = node.refused(&[&stranger]);
    assert!(log.contains("where the configuration has nothing") && log.contains("admin.listen"), "{log}");

    let datagrams: OwnedFd = std::net::UdpSocket::bind(("0.0.0.0", node.http)).expect("a free port").into();
    let log = node.refused(&[&datagrams]);
    assert!(log.contains("descriptor 3 is not a stream socket") && log.contains("ListenStream="), "{log}");

    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let to = listener.local_addr().expect("it is bound");
    let connected: OwnedFd = std::net::TcpStream::connect(to).expect("it listens").into();
    let log = node.refused(&[&connected]);
    assert!(log.contains("does not listen") && log.contains("Accept=no"), "{log}");

    let first: OwnedFd = TcpListener::bind(("0.0.0.0", node.http)).expect("the port is free").into();
    let log = node.refused(&[&first, &first]);
    assert!(log.contains("one socket is enough"), "{log}");
}

#[tokio::test]
async fn sockets_for_another_process_are_left_alone() {
    let node = Activated::new();
    let config = node.folder.path().join("a.toml").display().to_string();
    let mut command = Command::new(BINARY);
    command.args(["serve", "--config", &config, "--exit-with-parent"]).env("LISTEN_PID", "1").env("LISTEN_FDS", "2");
    let _process = Process::start(command, node.folder.path().join("log"));
    node.until_ready().await;
}
