//! Nodes join, are replaced and leave for good, while the fleet goes on.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::traffic::Steady;

/// The node's line in the list that node `from` shows.
async fn seen(fleet: &Fleet, from: usize, name: &str) -> Option<Value> {
    let answer = fleet.nodes[from].api.send(Method::GET, "/v1/nodes", None).await.ok()?;
    let nodes = answer.json();
    let mut called = nodes["nodes"].as_array()?.iter().filter(|node| node["name"] == name);
    called.next().cloned()
}

async fn until_role(fleet: &Fleet, from: usize, name: &str, roles: &[&str]) {
    eventually(&format!("{name} is one of {roles:?}"), READY, async || {
        let node = seen(fleet, from, name).await?;
        roles.contains(&node["role"].as_str()?).then_some(())
    })
    .await;
}

const VOTES: &[&str] = &["leader", "follower"];

/// A node dies for good; another one joins by a token and takes its place. Then the fleet survives
/// what it could not have survived before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_by_one_that_joins() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let leader = fleet.leader().await;
    let dead = (0..3).find(|i| *i != leader).expect("there are three");
    let other = (0..3).find(|i| ![leader, dead].contains(i)).expect("there are three");
    let steady = Steady::start(&[fleet.nodes[leader].http, fleet.nodes[other].http], 6);
    let dead_name = fleet.nodes[dead].name.clone();
    let dead_id =
        seen(&fleet, leader, &dead_name).await.expect("it is there")["id"].as_str().expect("an id").to_owned();
    fleet.nodes[dead].kill();

    // Through a node that does not lead.
    let wish = json!({ "role": "voter", "ttl_seconds": 60 });
    let made = fleet.nodes[other].api.send(Method::POST, "/v1/join-tokens", Some(wish)).await.expect("an answer");
    assert_eq!(made.status, StatusCode::OK);
    let token = made.json()["token"].as_str().expect("a token").to_owned();
    fleet.join(Some(&token));
    until_role(&fleet, leader, "d", VOTES).await;
    fleet.nodes[3].until_ready().await;
    let path = format!("/v1/nodes/{dead_name}");
    let removed = fleet.nodes[other].api.write(Method::DELETE, &path, None).await;
    assert!(removed["epoch"].as_u64().is_some());
    eventually("the dead node is no member", READY, async || {
        seen(&fleet, leader, &dead_name).await.is_none().then_some(())
    })
    .await;

    // A second node to shut up shop: two of {leader, other, d} are left, which is a majority.
    fleet.nodes[3].api.put("/v1/pools/through-d", json!({})).await;
    let account = steady.stop().await;
    account.assert_clean().await;
    fleet.nodes[other].kill();
    eventually("a write with the new majority", READY, async || {
        let answer = fleet.nodes[3].api.send(Method::PUT, "/v1/pools/after", Some(json!({}))).await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;

    // A token is good once, and a removed node stays out.
    fleet.nodes[other].start();
    fleet.nodes[other].until_ready().await;
    fleet.join(Some(&token));
    until_role(&fleet, leader, "e", &["outsider"]).await;
    // It missed its own removal, serves nobody when it hears of it, and ends.
    fleet.nodes[dead].start();
    fleet.nodes[dead].until_ended().await;
    let role = json!({ "role": "voter" });
    let path = format!("/v1/nodes/{dead_id}");
    let refused = fleet.nodes[leader].api.send(Method::PUT, &path, Some(role)).await.expect("an answer");
    assert_eq!(refused.status, StatusCode::CONFLICT, "{:?}", refused.body);
    assert_eq!(refused.json()["type"], "urn:tidelock:problem:node-gone");
}

/// A lost volume: the node comes back with its name and address and another id, and is added again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_added_again() {
    let mut fleet = Fleet::start(3).await;
    let leader = fleet.leader().await;
    let wiped = (0..3).find(|i| *i != leader).expect("there are three");
    let name = fleet.nodes[wiped].name.clone();
    let old = seen(&fleet, leader, &name).await.expect("it is there")["id"].as_str().expect("an id").to_owned();
    fleet.nodes[wiped].kill();
    fleet.wipe(wiped);
    fleet.nodes[wiped].start();
    let new = eventually("the stranger is seen", READY, async || {
        let answer = fleet.nodes[leader].api.get("/v1/nodes").await;
        let nodes = answer["nodes"].as_array()?.clone();
        let stranger = nodes.iter().find(|node| node["role"] == "outsider" && node["name"] == json!(name))?.clone();
        Some(stranger["id"].as_str()?.to_owned())
    })
    .await;
    assert_ne!(old, new);
    let api = fleet.nodes[leader].api;
    // Two nodes have the name now: it takes an id to say which one is meant, and one that is there.
    let ambiguous = api.send(Method::PUT, &format!("/v1/nodes/{name}"), Some(json!({"role": "learner"}))).await;
    assert_eq!(ambiguous.expect("an answer").status, StatusCode::NOT_FOUND);
    for stranger in ["00000000000000ff", &new] {
        let gone = api.send(Method::DELETE, &format!("/v1/nodes/{stranger}"), None).await.expect("an answer");
        assert_eq!(gone.status, StatusCode::NOT_FOUND, "only a member can be removed");
    }
    api.put(&format!("/v1/nodes/{new}"), json!({ "role": "voter" })).await;
    api.write(Method::DELETE, &format!("/v1/nodes/{old}"), None).await;
    eventually("the new one votes and the old one is gone", READY, async || {
        let answer = api.get("/v1/nodes").await;
        let nodes = answer["nodes"].as_array()?.clone();
        let is_in = |id: &str| nodes.iter().any(|n| n["id"] == id && VOTES.contains(&n["role"].as_str().unwrap_or("")));
        (is_in(&new) && !nodes.iter().any(|n| n["id"] == json!(old))).then_some(())
    })
    .await;
    fleet.nodes[wiped].until_ready().await;
}

/// The leader itself is taken out: it hands over first, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_removed_after_it_has_handed_over() {
    let mut fleet = Fleet::start(3).await;
    let leader = fleet.leader().await;
    let other = (0..3).find(|i| *i != leader).expect("there are three");
    let name = fleet.nodes[leader].name.clone();
    fleet.nodes[leader].api.write(Method::DELETE, &format!("/v1/nodes/{name}"), None).await;
    fleet.nodes[leader].until_ended().await;
    eventually("it is no member", READY, async || seen(&fleet, other, &name).await.is_none().then_some(())).await;
    let written = fleet.nodes[other].api.put("/v1/pools/after", json!({})).await;
    assert!(written["epoch"].as_u64().is_some());
    // A voter is asked to lead, by the node that does.
    let now = eventually("a leader among the others", READY, async || {
        let status = fleet.nodes[other].api.get("/v1/status").await;
        status["leader"].as_str().map(str::to_owned)
    })
    .await;
    let at = fleet.nodes.iter().position(|node| node.name == now).expect("one of the nodes");
    let next = (0..3).find(|i| ![at, leader].contains(i)).expect("there are three");
    let path = format!("/v1/nodes/{}/lead", fleet.nodes[next].name);
    let refused = fleet.nodes[next].api.send(Method::POST, &path, None).await.expect("an answer");
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let asked = fleet.nodes[at].api.send(Method::POST, &path, None).await.expect("an answer");
    assert_eq!(asked.status, StatusCode::ACCEPTED);
    eventually("it leads", READY, async || {
        let status = fleet.nodes[other].api.get("/v1/status").await;
        (status["leader"] == json!(fleet.nodes[next].name)).then_some(())
    })
    .await;
}

/// Two of three are lost for good: the third goes on alone, by a person's word, with all it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_of_a_lost_majority_is_made_a_fleet() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let survivor = fleet.leader().await;
    for i in (0..3).filter(|i| *i != survivor) {
        fleet.nodes[i].kill();
    }
    let name = fleet.nodes[survivor].name.clone();
    let id = seen(&fleet, survivor, &name).await.expect("itself")["id"].as_str().expect("an id").to_owned();
    // It must not run, and it must be the one that is meant.
    let running = fleet.recover(survivor, None).await;
    assert!(running.contains("another process has"), "{running}");
    fleet.nodes[survivor].kill();
    let told = fleet.recover(survivor, None).await;
    assert!(told.contains(&format!("--confirm {id}")) && told.contains("Nothing has been changed"), "{told}");
    let wrong = fleet.recover(survivor, Some("00000000000000ff")).await;
    assert!(wrong.contains("nothing has been changed"), "{wrong}");
    fleet.nodes[survivor].start();
    fleet.nodes[survivor].until_ready_or_not().await;
    assert_eq!(fleet.nodes[survivor].api.get("/v1/status").await["quorum"], false, "nothing was changed");
    fleet.nodes[survivor].kill();

    let done = fleet.recover(survivor, Some(&id)).await;
    assert!(done.contains("is a fleet of one now"), "{done}");
    fleet.nodes[survivor].start();
    fleet.nodes[survivor].until_ready().await;
    let api = fleet.nodes[survivor].api;
    api.put("/v1/pools/after", json!({})).await;
    assert_eq!(api.get("/v1/pools/demo").await["endpoints"].as_array().map(Vec::len), Some(3), "it has what it had");
    // Another one joins, emptied.
    let lost = (0..3).find(|i| *i != survivor).expect("there are three");
    fleet.wipe(lost);
    fleet.nodes[lost].start();
    let lost_name = fleet.nodes[lost].name.clone();
    until_role(&fleet, survivor, &lost_name, &["outsider"]).await;
    api.put(&format!("/v1/nodes/{lost_name}"), json!({ "role": "voter" })).await;
    until_role(&fleet, survivor, &lost_name, VOTES).await;
    fleet.nodes[lost].until_ready().await;
}
