//! A session stays on its endpoint, whichever node it comes through, and moves once when it must.

use serde_json::json;

use crate::support::fleet::Fleet;
use crate::support::http::H2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_through_any_node_and_moves_once_by_a_drain() {
    let fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let mut clients = Vec::new();
    for node in &fleet.nodes {
        clients.push(H2::connect(node.http).await.expect("a connection"));
    }
    let first = clients[0].get("/counter", "").await.expect("an answer");
    let home = first.json()["endpoint"].as_str().expect("a name").to_owned();
    let pin = first.cookie("tidelock").expect("a pin");
    let mut cookie = format!("{pin}; {}", first.cookie("demo_session").expect("the app's session"));
    for count in 2..8 {
        let answer = clients[count % 3].get("/counter", &cookie).await.expect("an answer");
        let seen = answer.json();
        assert_eq!((seen["endpoint"].as_str(), seen["count"].as_u64()), (Some(home.as_str()), Some(count as u64)));
        assert_eq!((answer.header("tidelock-affinity"), answer.cookie("tidelock")), (Some("kept"), None));
    }

    let drain = fleet.nodes[1].api.drain("demo", &home, json!({})).await;
    fleet.until_epoch(drain.trim_start_matches('d').parse().expect("a drain is named for its epoch")).await;
    let mut homes = std::collections::BTreeSet::new();
    for client in &clients {
        let moved = client.get("/counter", &cookie).await.expect("an answer");
        assert_eq!(moved.header("tidelock-affinity"), Some("moved:draining"));
        homes.insert(moved.json()["endpoint"].as_str().expect("a name").to_owned());
    }
    assert_eq!(homes.len(), 1, "every node picks the same new home");
    let moved = clients[0].get("/counter", &cookie).await.expect("an answer");
    cookie = moved.cookie("tidelock").expect("a new pin");
    for client in &clients {
        let answer = client.get("/counter", &cookie).await.expect("an answer");
        assert_eq!(answer.header("tidelock-affinity"), Some("kept"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apps_own_cookie_finds_the_same_endpoint_on_every_node() {
    let fleet = Fleet::with_demo(3, json!({ "kind": "app-cookie", "name": "sid" })).await;
    let mut used = std::collections::BTreeSet::new();
    for user in 0..20 {
        let mut homes = std::collections::BTreeSet::new();
        for node in &fleet.nodes {
            let h2 = H2::connect(node.http).await.expect("a connection");
            let answer = h2.get("/counter", &format!("sid=user-{user}")).await.expect("an answer");
            homes.insert(answer.json()["endpoint"].as_str().expect("a name").to_owned());
        }
        assert_eq!(homes.len(), 1, "user {user}: equal epochs choose alike");
        used.extend(homes);
    }
    assert_eq!(used.len(), 3, "sessions are spread");
}
