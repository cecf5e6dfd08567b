//! A whole control plane in the test's process, over a Raft that agrees with itself.

use std::net::SocketAddr;
use std::time::Duration;

use tidelock_core::id::EndpointId;
use tidelock_core::report::Counts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::fleet::GivenSockets;
use crate::fleet::consensus::local::Local;
use crate::fleet::roster::Bulletin;

/// A test that has not got what it waits for by then has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct TestNode {
    pub(crate) plane: ControlPlane,
    pub(crate) raft: Local,
    /// What this node's data plane says.
    pub(crate) reports: watch::Sender<NodeReport>,
    /// What other nodes say.
    peers: mpsc::Sender<Report>,
    /// Nobody asks.
    _questions: mpsc::Sender<Question>,
}

pub(crate) fn config() -> ControlPlaneConfig {
    ControlPlaneConfig {
        name: "a".parse().unwrap(),
        data_dir: PathBuf::new(),
        fleet: None,
        admin: AdminConfig { listen: ([127, 0, 0, 1], 0).into(), advertise: None, token: None },
        initial: Vec::new(),
        metrics: None,
        sockets: GivenSockets::default(),
        answers_from: Epoch(0),
        leave: Leave::default(),
    }
}

impl TestNode {
    /// A fleet of this node (id 1, name a) alone.
    pub(crate) async fn alone() -> TestNode {
        TestNode::start(config(), &[1]).await
    }

    pub(crate) async fn start(config: ControlPlaneConfig, members: &[u64]) -> TestNode {
        let (publisher, published) = publish::channel();
        let raft = Local::new(Machine::new(publisher), members);
        let (reports, reports_rx) = watch::channel(NodeReport::default());
        let (peers, received) = mpsc::channel(16);
        let (asked, questions) = mpsc::channel(1);
        let agreement = Agreement { consensus: Consensus::Local(raft.clone()), published, received, questions };
        let plane = ControlPlane::assemble(config, reports_rx, agreement).await.unwrap();
        TestNode { plane, raft, reports, peers, _questions: asked }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.plane.admin_addr()
    }

    /// A data plane that takes every table at once. It ends with the node.
    pub(crate) fn route_by_every_table(&self) {
        let (mut table, reports) = (self.plane.table(), self.reports.clone());
        tokio::spawn(async move {
            loop {
                let epoch = table.borrow_and_update().epoch;
                reports.send_modify(|report| report.epoch = (epoch.0 > 0).then_some(epoch));
                if table.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// So many requests are alive on an endpoint through this node.
    pub(crate) fn count(&self, endpoint: EndpointId, requests: u64) {
        let counts = Counts { requests, ..Default::default() };
        self.reports.send_modify(|report| {
            report.endpoints.retain(|id, _| *id != endpoint);
            if requests > 0 {
                report.endpoints.insert(endpoint, counts);
            }
        });
    }

    /// Another node says something.
    pub(crate) async fn hear(&self, node: u64, name: &str, report: NodeReport) {
        let bulletin = Bulletin {
            name: name.parse().unwrap(),
            admin: None,
            level: tidelock_core::command::LEVEL,
            removed: Vec::new(),
            report,
        };
        self.hear_bytes(node, bulletin.encode()).await;
    }

    pub(crate) async fn hear_bytes(&self, node: u64, bytes: Vec<u8>) {
        self.peers.send(Report { from: node, bytes }).await.unwrap();
    }

    /// Waits for a table that fulfils the condition.
    pub(crate) async fn table(&self, condition: impl FnMut(&Arc<Table>) -> bool) -> Arc<Table> {
        let mut table = self.plane.table();
        let waited = tokio::time::timeout(PATIENCE, table.wait_for(condition)).await;
        waited.expect("the table comes in time").expect("the node lives").clone()
    }

    /// A node that has done its first chores: it has a sealing key.
    pub(crate) async fn ready(&self) {
        self.route_by_every_table();
        self.table(|table| table.sealer.can_seal()).await;
        // Readiness comes from the roster, which hears of the table a moment later.
        let routes = async {
            while !self.says_ready().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, routes).await.expect("the table is taken in time");
    }

    async fn says_ready(&self) -> bool {
        let mut stream = tokio::net::TcpStream::connect(self.addr()).await.unwrap();
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.starts_with("HTTP/1.1 200 ")
    }
}
