//! A balancer with its control plane played by the test: commands change the state, each change
//! publishes a new table. Its endpoints are listeners that the test answers for.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidelock_balancer::{Balancer, Config, Limits, ListenAddress, ListenerConfig, Timeouts};
use tidelock_core::affinity::{CookieKey, KeySecret};
use tidelock_core::command::{Command, DrainMode, LEVEL, Proposal};
use tidelock_core::id::{EndpointId, Epoch, Name, NodeId};
use tidelock_core::report::{Counts, NodeReport};
use tidelock_core::spec::{PoolSpec, Protocol, RouteSpec};
use tidelock_core::state::{Outcome, Phase, State};
use tidelock_core::table::Table;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::frames::{Peer, soon};
use crate::http1::Http1;

pub(crate) use Speaks::{H1, H2c};

/// What scripted endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    H1,
    H2c,
}

impl From<Speaks> for Protocol {
    fn from(speaks: Speaks) -> Protocol {
        match speaks {
            H1 => Protocol::Http1,
            H2c => Protocol::H2c,
        }
    }
}

/// How long the end of an upload is held back where a test does not ask for it.
const HOLD_BACK: Duration = Duration::from_millis(20);
/// How long a request's rest is read after an early response.
pub(crate) const DRAIN: Duration = Duration::from_millis(300);

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A free port.
pub(crate) fn anywhere() -> ListenAddress {
    ListenAddress::Ip("127.0.0.1:0".parse().unwrap())
}

pub(crate) fn config() -> Config {
    Config {
        node: NodeId(1),
        workers: 1,
        listeners: vec![ListenerConfig { address: anywhere(), tls: None, proxy_protocol: false }],
        endpoint_identity: None,
        limits: Limits::default(),
        timeouts: Timeouts { body_hold_back: HOLD_BACK, early_response_drain: DRAIN, ..Timeouts::default() },
        access_log: false,
        trusted: Vec::new(),
    }
}

pub(crate) struct Fleet {
    pub(crate) balancer: Balancer,
    state: RefCell<State>,
    epoch: Cell<u64>,
    tables: watch::Sender<Arc<Table>>,
}

impl Fleet {
    pub(crate) fn start(config: Config) -> Fleet {
        let (tables, seen) = watch::channel(Arc::new(Table::empty()));
        let balancer = Balancer::start(config, seen).expect("port zero is free");
        let fleet = Fleet { balancer, state: RefCell::default(), epoch: Cell::new(1), tables };
        fleet.apply(Command::SetLevel { level: LEVEL });
        let secret = KeySecret([7; 32]);
        fleet.apply(Command::PutCookieKey { key: CookieKey { id: 1, secret, promoted: true } });
        fleet
    }

    /// One pool `app` with the route `web` to it, whose responses say where they came from.
    pub(crate) async fn serving(config: Config, speaks: Speaks, endpoints: &[&Endpoint]) -> Fleet {
        Fleet::with_pool(config, PoolSpec { protocol: speaks.into(), ..PoolSpec::default() }, endpoints).await
    }

    pub(crate) async fn with_pool(config: Config, spec: PoolSpec, endpoints: &[&Endpoint]) -> Fleet {
        let fleet = Fleet::start(config);
        fleet.apply(Command::PutPool { name: name("app"), spec });
        for endpoint in endpoints {
            fleet.add(endpoint);
        }
        fleet.apply(Command::PutRoute { name: name("web"), spec: route(r#"{"pool":"app","expose":true}"#) });
        fleet.adopted().await;
        fleet
    }

    /// Applies a command and publishes the table.
    pub(crate) fn apply(&self, command: Command) {
        self.epoch.set(self.epoch.get() + 1);
        let mut state = self.state.borrow_mut();
        let proposal = Proposal { at_ms: 0, key: None, command };
        let outcome = state.apply(Epoch(self.epoch.get()), &proposal);
        assert!(matches!(outcome, Outcome::Applied { .. }), "{:?}: {outcome:?}", proposal.command);
        let before = self.tables.borrow().clone();
        self.tables.send_replace(Arc::new(Table::compile(&state, Some(&before))));
    }

    /// The newest epoch.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Every worker reads the newest table.
    pub(crate) async fn adopted(&self) {
        let epoch = Epoch(self.epoch.get());
        self.reported(|report| report.epoch >= Some(epoch)).await;
    }

    pub(crate) async fn reported(&self, is: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let mut reports = self.balancer.reports();
        soon("a report", reports.wait_for(is)).await.expect("the feed runs").clone()
    }

    /// What the balancer says of `endpoint` when it says it.
    pub(crate) async fn counted(&self, endpoint: &Endpoint, counts: Counts) {
        let id = self.id(endpoint);
        self.reported(|report| report.endpoints.get(&id).copied().unwrap_or_default() == counts).await;
    }

    pub(crate) fn count_now(&self, endpoint: &Endpoint) -> Counts {
        self.balancer.reports().borrow().endpoints.get(&self.id(endpoint)).copied().unwrap_or_default()
    }

    pub(crate) fn id(&self, endpoint: &Endpoint) -> EndpointId {
        self.state.borrow().pools[&name("app")].endpoints[&name(&endpoint.name)].id
    }

    /// Changes the pool's spec.
    pub(crate) async fn change(&self, spec: serde_json::Value) {
        self.apply(Command::PutPool { name: name("app"), spec: serde_json::from_value(spec).unwrap() });
        self.adopted().await;
    }

    pub(crate) fn add(&self, endpoint: &Endpoint) {
        let spec = serde_json::json!({ "address": endpoint.address.to_string() });
        let spec = serde_json::from_value(spec).unwrap();
        self.apply(Command::PutEndpoint { pool: name("app"), name: name(&endpoint.name), spec });
    }

    pub(crate) async fn drain(&self, endpoint: &Endpoint, mode: DrainMode, deadline: Option<Duration>) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let deadline_ms = deadline.map(|deadline| (now + deadline).as_millis() as u64);
        let (pool, endpoint) = (name("app"), name(&endpoint.name));
        self.apply(Command::StartDrain { pool, endpoint, mode, deadline_ms, reason: String::new(), pace: None });
        self.adopted().await;
    }

    /// The fleet says that it is over.
    pub(crate) async fn force_drain(&self, endpoint: &Endpoint) {
        let phase = self.state.borrow().pools[&name("app")].endpoints[&name(&endpoint.name)].phase;
        let Phase::Draining { drain, .. } = phase else { panic!("{phase:?}") };
        self.apply(Command::FinishDrain { drain, forced: true });
        self.adopted().await;
    }

    pub(crate) async fn cancel_drain(&self, endpoint: &Endpoint) {
        self.apply(Command::CancelDrain { pool: name("app"), endpoint: name(&endpoint.name) });
        self.adopted().await;
    }

    pub(crate) async fn remove(&self, endpoint: &Endpoint) {
        self.apply(Command::DeleteEndpoint { pool: name("app"), name: name(&endpoint.name) });
        self.adopted().await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.balancer.addresses()[0].ip().expect("an IP listener")
    }

    pub(crate) async fn h2(&self) -> Peer {
        Peer::connect(self.address()).await
    }

    pub(crate) async fn h1(&self) -> Http1 {
        Http1::connect(self.address()).await
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        self.balancer.metrics().write(&mut text);
        let line = text.lines().find(|line| line.split(' ').next() == Some(name)).expect("a known metric");
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

pub(crate) fn route(json: &str) -> RouteSpec {
    serde_json::from_str(json).expect("a route")
}

/// A listener for the balancer's connections.
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    /// Accepted to see who was first.
    waiting: RefCell<Option<TcpStream>>,
    /// HTTP/2 connections that tell of no WebSockets on streams, held open.
    asked: RefCell<Vec<Peer>>,
}

impl Endpoint {
    pub(crate) async fn listen(name: &str) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Endpoint {
            name: name.to_owned(),
            address: listener.local_addr().unwrap(),
            listener,
            waiting: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// One that comes back where it was.
    pub(crate) async fn bind(name: &str, address: SocketAddr) -> Endpoint {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Endpoint { address, listener, ..Endpoint::listen(name).await }
    }

    /// One that somebody else listens for.
    pub(crate) async fn elsewhere(name: &str, address: SocketAddr) -> Endpoint {
        Endpoint { address, ..Endpoint::listen(name).await }
    }

    /// Whether a connection comes here, and not to `other`.
    pub(crate) async fn is_first(&self, other: &Endpoint) -> bool {
        let first = async {
            tokio::select! {
                accepted = self.listener.accept() => (self, accepted),
                accepted = other.listener.accept() => (other, accepted),
            }
        };
        let (first, accepted) = soon("a connection from the balancer", first).await;
        first.waiting.replace(Some(accepted.unwrap().0));
        std::ptr::eq(first, self)
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        if let Some(stream) = self.waiting.take() {
            return stream;
        }
        let (stream, _) = soon("a connection from the balancer", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// For a loop that ends when its test does.
    pub(crate) async fn accept_patiently(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    pub(crate) async fn h2(&self) -> Peer {
        Peer::endpoint(self.accept().await, &[]).await
    }

    pub(crate) async fn h1(&self) -> Http1 {
        Http1::over(self.accept().await)
    }

    /// The connection on which a WebSocket is asked for by an upgrade. An endpoint that speaks HTTP/2
    /// may be asked first whether it takes them on streams; it does not.
    pub(crate) async fn upgrade(&self) -> Http1 {
        loop {
            let stream = self.accept().await;
            let mut first = [0; 3];
            soon("the first bytes", async {
                while stream.peek(&mut first).await.is_ok_and(|n| n < first.len()) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            if &first != b"PRI" {
                return Http1::over(stream);
            }
            let asked = Peer::endpoint(stream, &[]).await;
            self.asked.borrow_mut().push(asked);
        }
    }

    /// Closes the connections on which it was asked.
    pub(crate) fn forget(&self) {
        self.asked.borrow_mut().clear();
    }

    /// No connection waits to be accepted.
    pub(crate) fn nobody(&self) -> bool {
        socket2::SockRef::from(&self.listener)
            .accept()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
