use tidelock_core::affinity::{CookieKey, KeySecret, Pin, SessionId};
use tidelock_core::id::{EndpointId, Epoch, PoolId};
use tidelock_core::spec::{EndpointSpec, PoolSpec};
use tidelock_core::state::Outcome;

use super::*;
use node::{PATIENCE, TestNode, config};
use roster::Bulletin;

pub(crate) mod node;
pub(crate) mod real;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn initial() -> Vec<Command> {
    let spec: EndpointSpec = serde_json::from_str(r#"{"address":"127.0.0.1:4000"}"#).unwrap();
    vec![
        Command::PutPool { name: name("app"), spec: PoolSpec::default() },
        Command::PutEndpoint { pool: name("app"), name: name("app-1"), spec },
        Command::PutRoute { name: name("all"), spec: serde_json::from_str(r#"{"pool":"app"}"#).unwrap() },
    ]
}

#[tokio::test]
async fn a_new_fleet_gets_its_configuration_in_one_entry() {
    let node = TestNode::start(ControlPlaneConfig { initial: initial(), ..config() }, &[1]).await;
    let table = node.table(|table| !table.pools.is_empty()).await;
    assert!(table.route("any.host", "/").is_ok(), "the pool came with its route");
    assert_eq!(table.pools[0].endpoints.len(), 1);
    node.plane.shutdown().await;
}

#[tokio::test]
async fn a_refused_configuration_leaves_a_fleet_that_works() {
    let route = Command::PutRoute { name: name("all"), spec: serde_json::from_str(r#"{"pool":"none"}"#).unwrap() };
    let node = TestNode::start(ControlPlaneConfig { initial: vec![route], ..config() }, &[1]).await;
    node.ready().await;
    assert!(node.plane.table().borrow().pools.is_empty());
    node.plane.shutdown().await;
}

#[tokio::test]
async fn the_first_key_seals_at_once_and_a_later_one_when_every_live_node_has_it() {
    let node = TestNode::start(config(), &[1, 2]).await;
    let table = node.table(|table| table.sealer.can_seal()).await;
    node.hear(2, "b", NodeReport::default()).await;
    node.route_by_every_table();
    let key = CookieKey { id: 2, secret: KeySecret([9; 32]), promoted: false };
    let put = node.plane.consensus.propose(Command::PutCookieKey { key }, None).await.unwrap();
    assert!(matches!(put, Outcome::Applied { .. }), "{put:?}");
    let pin = Pin { session: SessionId([1; 16]), pool: PoolId(1), endpoint: EndpointId(1), revision: 0, issued: 1 };
    let opens = |by: &Table, sealed: &Table| by.sealer.open(sealed.sealer.seal(pin, [0; 12]).unwrap().as_bytes());
    // Node 2 is live and has no table: until it has the new key, the old one seals.
    let seals_anew = |now: &Arc<Table>| opens(&table, now).is_none();
    let early = tokio::time::timeout(Duration::from_millis(600), node.table(seals_anew));
    assert!(early.await.is_err(), "promoted without node 2");
    node.hear(2, "b", NodeReport { epoch: Some(Epoch(100)), ..NodeReport::default() }).await;
    node.table(seals_anew).await;
    node.plane.shutdown().await;
}

#[tokio::test]
async fn reports_go_to_the_peers_when_they_change_and_as_a_sign_of_life() {
    let node = TestNode::alone().await;
    let mut sent = node.raft.sent.subscribe();
    let reports = |sent: &Vec<Vec<u8>>| -> Vec<NodeReport> {
        sent.iter().map(|bytes| Bulletin::decode(bytes).unwrap().report).collect()
    };
    let at = std::time::Instant::now();
    node.reports.send_modify(|report| report.version = "9.9.9".into());
    let changed = sent.wait_for(|sent| reports(sent).iter().any(|report| report.version == "9.9.9"));
    let count = tokio::time::timeout(PATIENCE, changed).await.unwrap().unwrap().len();
    assert!(at.elapsed() < Duration::from_secs(1), "a change does not wait for the sign of life");
    let again = sent.wait_for(|sent| sent.len() > count);
    tokio::time::timeout(PATIENCE, again).await.unwrap().unwrap();
    node.plane.shutdown().await;
}

#[tokio::test]
async fn shutdown_ends_every_task() {
    let node = TestNode::alone().await;
    let addr = node.addr();
    let table = node.plane.table();
    tokio::time::timeout(PATIENCE, node.plane.shutdown()).await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "the socket is closed");
    drop((node.raft, node.reports));
    assert!(table.has_changed().is_err(), "nobody holds the publisher any more");
}
