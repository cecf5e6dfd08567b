//! The same API over real Raft.

use super::*;
use crate::fleet::leave::LeaveState;
use crate::fleet::tests::real::{Disk, RealNode};

fn client(node: &RealNode) -> Client {
    Client::new(node.plane.admin_addr())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_comes_back_with_what_was_written() {
    let disk = Disk::new();
    let node = RealNode::alone(&disk).await.unwrap();
    populate(&client(&node)).await;
    let before = client(&node).get("/v1/status?consistency=linearizable").await.expect(200);
    let second = RealNode::alone(&disk).await;
    assert!(second.is_err(), "two processes on one data directory");
    node.plane.shutdown().await;

    let node = RealNode::alone(&disk).await.unwrap();
    node.table(|table| !table.pools.is_empty()).await;
    let mut events = client(&node).events("/v1/events").await;
    let after = events.until(|status| status["quorum"] == true).await;
    for part in ["pools", "routes"] {
        assert_eq!(after[part], before[part]);
    }
    client(&node).delete("/v1/routes/web").await.expect(200);
    node.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_drain_together_and_name_who_is_away() {
    let disks = [Disk::new(), Disk::new(), Disk::new()];
    let mut nodes = RealNode::fleet(&disks).await;
    let mut events = client(&nodes[0]).events("/v1/events").await;
    let whole = |status: &serde_json::Value| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.len() == 3 && nodes.iter().all(|node| node["reachable"] == true) && status["leader"].is_string()
    };
    events.until(whole).await;

    // Any node takes a write, whoever leads.
    for (at, node) in nodes.iter().enumerate() {
        let written = client(node).put(&format!("/v1/pools/pool-{at}?wait=fleet"), "{}").await.expect(200);
        assert_eq!((&written["lagging"], &written["missing"]), (&json!([]), &json!([])));
    }
    for node in &nodes {
        assert_eq!(node.plane.table().borrow().pools.len(), 3);
    }

    // A stream on one node holds the drain that another node is asked about.
    let endpoint = "/v1/pools/pool-0/endpoints/e";
    client(&nodes[0]).put(endpoint, r#"{"address":"10.0.0.1:4000"}"#).await.expect(200);
    let pool = client(&nodes[0]).get("/v1/pools/pool-0").await.expect(200);
    let id = EndpointId(pool["endpoints"][0]["id"].as_u64().unwrap());
    nodes[1].reports.send_modify(|report| _ = report.endpoints.insert(id, one_request()));
    events.until(|status| status["pools"][0]["endpoints"][0]["requests"] == 1).await;
    let started = client(&nodes[2]).post(&format!("{endpoint}/drain"), "").await.expect(200);
    let drain = format!("/v1/drains/{}?wait=safe&timeout_seconds=15", started["drain"].as_str().unwrap());
    let held = events.until(|status| status["drains"][0]["missing"] == json!([])).await;
    assert_eq!((&held["drains"][0]["safe"], &held["drains"][0]["requests"]), (&json!(false), &json!(1)));
    nodes[1].reports.send_modify(|report| report.endpoints.clear());
    assert_eq!(client(&nodes[0]).get(&drain).await.expect(200)["safe"], true);
    events.until(|status| status["drains"][0]["state"] == "drained").await;

    // A node that is gone is named, by its name.
    client(&nodes[0]).delete(&format!("{endpoint}/drain")).await.expect(200);
    nodes.pop().unwrap().plane.shutdown().await;
    events.until(|status| status["nodes"][2]["reachable"] == false && status["quorum"] == true).await;
    let started = client(&nodes[1]).post(&format!("{endpoint}/drain"), "").await.expect(200);
    let path = format!("/v1/drains/{}?wait=safe&timeout_seconds=1", started["drain"].as_str().unwrap());
    assert_eq!(client(&nodes[1]).get(&path).await.expect(202)["missing"], json!(["c"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_alone_serves_its_last_table() {
    let disks = [Disk::new(), Disk::new(), Disk::new()];
    let nodes = RealNode::fleet(&disks).await;
    client(&nodes[0]).put("/v1/pools/first?wait=fleet", "{}").await.expect(200);
    // The next entry tells every disk that the one before is committed.
    client(&nodes[0]).put("/v1/pools/second?wait=fleet", "{}").await.expect(200);
    for node in nodes {
        node.plane.shutdown().await;
    }
    let [node] = RealNode::fleet(&disks[..1]).await.try_into().ok().unwrap();
    node.table(|table| table.pools.iter().any(|pool| pool.name.as_str() == "first")).await;
    let mut events = client(&node).events("/v1/events").await;
    let status = events.until(|status| status["nodes"][2]["epoch"].is_u64()).await;
    assert_eq!((&status["quorum"], &status["nodes"][2]["self"]), (&json!(false), &json!(true)));
    assert_eq!(client(&node).get("/readyz").await.text(), "ok\n", "it can route");
    node.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_leaves_hands_over_and_a_fleet_without_majority_says_so() {
    let disks = [Disk::new(), Disk::new(), Disk::new()];
    let mut nodes = RealNode::fleet(&disks).await;
    let mut events = client(&nodes[0]).events("/v1/events").await;
    let status = events.until(|status| status["leader"].is_string() && status["epoch"] != 0).await;
    let leader = "abc".find(status["leader"].as_str().unwrap()).unwrap();
    // The hand-over needs to know who stays.
    let mut watched = client(&nodes[leader]).events("/v1/events").await;
    watched.until(|status| status["nodes"].as_array().unwrap().iter().all(|node| node["reachable"] == true)).await;
    client(&nodes[leader]).post("/v1/nodes/self/leave", "").await.expect(202);
    let name = status["leader"].clone();
    let handed = watched.until(|status| status["leader"].is_string() && status["leader"] != name).await;
    assert_eq!(handed["nodes"][leader]["leaving"], true);
    nodes[leader].plane.leave().advance(LeaveState::Left);

    let last = nodes.pop().unwrap();
    for node in nodes {
        node.plane.shutdown().await;
    }
    let mut events = client(&last).events("/v1/events").await;
    events.until(|status| status["quorum"] == false).await;
    assert_eq!(client(&last).get("/livez").await.status, 200);
    client(&last).get("/v1/pools").await.expect(200);
    let answer = client(&last).put("/v1/pools/late", "{}").await;
    let code = answer.problem(503);
    assert!(code == "no-leader" || code == "unknown-outcome", "{code}");
    last.plane.shutdown().await;
}

fn one_request() -> tidelock_core::report::Counts {
    tidelock_core::report::Counts { requests: 1, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_explains_and_says_what_it_finds_down_itself() {
    let disks = [Disk::new(), Disk::new(), Disk::new()];
    let nodes = RealNode::fleet(&disks).await;
    let mut events = client(&nodes[0]).events("/v1/events").await;
    events.until(|status| status["leader"].is_string()).await;
    populate(&client(&nodes[0])).await;
    let pool = client(&nodes[1]).get("/v1/pools/app?consistency=linearizable").await.expect(200);
    let id = EndpointId(pool["endpoints"][0]["id"].as_u64().unwrap());
    nodes[1].reports.send_modify(|report| {
        let down = tidelock_core::report::Observed::Down { detail: "refused".into() };
        report.health.insert(id, down);
    });
    let told = async {
        loop {
            let told = client(&nodes[0]).get("/v1/explain?host=example.com").await.expect(200);
            // The node reports a moment later, and reads the table when it does; each takes the last entry in its own time.
            let same = told["nodes"].as_array().unwrap().iter().all(|node| node["same"] == true);
            if same && told["agree"] == true && told["nodes"][1]["explains"]["finds_down"] == json!(["app-1"]) {
                return told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(crate::fleet::tests::node::PATIENCE, told).await.expect("in time");
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        let node = &told["nodes"][at];
        assert_eq!((&node["node"], &node["not_reached"], &node["same"]), (&json!(name), &json!(null), &json!(true)));
        assert_eq!(node["explains"]["placement"], "new", "{node}");
        // No fleet's word: the choice does not go by it.
        assert_eq!(node["explains"]["finds_down"].as_array().unwrap().len(), usize::from(at == 1));
    }
    assert_eq!(told["endpoints"][0]["health"], "up");
    for node in nodes {
        node.plane.shutdown().await;
    }
}
