//! Control planes over real Raft: disks in a temporary directory, peers over loopback.

use std::path::Path;

use super::node::config;
use super::*;

/// A data directory that goes away with the test.
pub(crate) struct Disk(PathBuf);

impl Disk {
    pub(crate) fn new() -> Disk {
        Disk(std::env::temp_dir().join(format!("tidelock-test-{:032x}", rand::random::<u128>())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct RealNode {
    pub(crate) plane: ControlPlane,
    pub(crate) reports: watch::Sender<NodeReport>,
}

impl RealNode {
    /// A fleet of one on this disk.
    pub(crate) async fn alone(disk: &Disk) -> Result<RealNode, StartError> {
        let config = ControlPlaneConfig { data_dir: disk.path().to_owned(), ..config() };
        let (reports, receiver) = watch::channel(NodeReport::default());
        let plane = ControlPlane::start(config, receiver).await?;
        Ok(RealNode::routing(plane, reports))
    }

    /// Founders named a, b, c and so on, one a disk.
    pub(crate) async fn fleet(disks: &[Disk]) -> Vec<RealNode> {
        let mut listeners = Vec::new();
        for _ in disks {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let founders: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let mut nodes = Vec::new();
        for (at, (disk, listener)) in disks.iter().zip(listeners).enumerate() {
            let name = char::from(b'a' + u8::try_from(at).unwrap()).to_string();
            let config = ControlPlaneConfig { name: super::name(&name), data_dir: disk.path().to_owned(), ..config() };
            let fleet = FleetConfig {
                listen: listener.local_addr().unwrap(),
                advertise: founders[at].clone(),
                founders: founders.clone(),
                credentials: raft::Credentials::Secret { secret: vec![7; raft::MIN_SECRET], previous: None },
                join_token: None,
            };
            let (reports, receiver) = watch::channel(NodeReport::default());
            let place = place(&config, &fleet, listener);
            let plane = ControlPlane::replicated(config, Some(place), receiver).await.unwrap();
            nodes.push(RealNode::routing(plane, reports));
        }
        nodes
    }

    /// Waits for a table that fulfils the condition.
    pub(crate) async fn table(&self, condition: impl FnMut(&Arc<Table>) -> bool) {
        let mut table = self.plane.table();
        let waited = tokio::time::timeout(PATIENCE, table.wait_for(condition)).await;
        waited.expect("the table comes in time").expect("the node lives");
    }

    /// With a data plane that takes every table at once.
    fn routing(plane: ControlPlane, reports: watch::Sender<NodeReport>) -> RealNode {
        let (mut table, sender) = (plane.table(), reports.clone());
        tokio::spawn(async move {
            loop {
                let epoch = table.borrow_and_update().epoch;
                sender.send_modify(|report| report.epoch = (epoch.0 > 0).then_some(epoch));
                if table.changed().await.is_err() {
                    return;
                }
            }
        });
        RealNode { plane, reports }
    }
}
