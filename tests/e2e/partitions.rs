//! The network between the nodes fails, in one direction or both: clients notice nothing, the
//! majority goes on, and what was acknowledged stays.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::network::{ENDPOINTS, in_a_network};
use crate::support::traffic::Steady;
use crate::support::writes::{Writes, until_agreed};

fn everybody(fleet: &Fleet) -> Vec<SocketAddr> {
    fleet.nodes.iter().map(|node| node.http).collect()
}

/// How node `i` shows the node called `name`.
async fn shown(fleet: &Fleet, i: usize, name: &str) -> Value {
    let status = fleet.nodes[i].api.get("/v1/status").await;
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["name"] == name).expect("a member").clone()
}

#[test]
fn a_leader_that_is_cut_off_goes_on_serving_and_acknowledges_nothing() {
    in_a_network(3, async |network| {
        let fleet = Fleet::with_demo_in(network).await;
        let old = fleet.leader().await;
        let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
        let (cut, other) = (&fleet.nodes[old], &fleet.nodes[others[0]]);
        let steady = Steady::start(&everybody(&fleet), 6);
        let everywhere: Vec<_> = fleet.nodes.iter().map(|node| node.api).collect();
        let before = Writes::start("before", &everywhere);
        before.until_more(10).await;
        fleet.network().part(&[old]);
        let mut acknowledged = before.stop().await;

        // It still thinks that it leads, and takes its time to know better.
        let api = cut.api;
        let asked = tokio::spawn(async move { api.send(Method::PUT, "/v1/pools/lost", Some(json!({}))).await });
        eventually("the others have a leader of their own", READY, async || {
            let status = other.api.get("/v1/status").await;
            status["leader"].as_str().is_some_and(|name| name != cut.name).then_some(())
        })
        .await;
        let majority: Vec<_> = others.iter().map(|i| fleet.nodes[*i].api).collect();
        let during = Writes::start("during", &majority);
        during.until_more(10).await;
        acknowledged.extend(during.stop().await);

        // Whoever looks sees it, on both sides.
        eventually("the cut-off node says that nobody leads", READY, async || {
            (cut.api.get("/v1/status").await["quorum"] == false).then_some(())
        })
        .await;
        assert_eq!(fleet.nodes[old].metric("tidelock_raft_has_leader").await, 0);
        assert_eq!(fleet.nodes[others[0]].metric("tidelock_raft_has_leader").await, 1);
        let (behind, ahead) =
            (fleet.nodes[old].metric("tidelock_epoch").await, fleet.nodes[others[0]].metric("tidelock_epoch").await);
        assert!(behind < ahead, "{behind} is behind {ahead}");
        eventually("the others see that it is away", READY, async || {
            (shown(&fleet, others[0], &cut.name).await["reachable"] == false).then_some(())
        })
        .await;
        let read = cut.api.send(Method::GET, "/v1/pools?consistency=linearizable", None).await.expect("an answer");
        assert_eq!(read.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", read.body);
        let answer = asked.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", answer.body);
        let problem = answer.json()["type"].as_str().expect("a type").to_owned();
        assert!(problem.ends_with(":unknown-outcome") || problem.ends_with(":no-leader"), "{problem}");

        fleet.network().heal();
        until_agreed(&fleet, &acknowledged).await;
        steady.stop().await.assert_clean().await;
    });
}

#[test]
fn five_nodes_parted_into_two_and_three_go_on_with_the_three() {
    in_a_network(5, async |network| {
        let fleet = Fleet::with_demo_in(network).await;
        let leader = fleet.leader().await;
        let two = [leader, (leader + 1) % 5];
        let apis =
            |of: &dyn Fn(usize) -> bool| -> Vec<_> { (0..5).filter(|i| of(*i)).map(|i| fleet.nodes[i].api).collect() };
        let steady = Steady::start(&everybody(&fleet), 5);
        fleet.network().part(&two);
        // The leader and one more hear each other, and can agree on nothing.
        let of_two = Writes::start("two", &apis(&|i| two.contains(&i)));
        let of_three = Writes::start("three", &apis(&|i| !two.contains(&i)));
        of_three.until_more(20).await;
        for i in two {
            eventually("the two know that nobody leads them", READY, async || {
                (fleet.nodes[i].api.get("/v1/status").await["quorum"] == false).then_some(())
            })
            .await;
        }
        let by_two = of_two.stop().await;
        assert!(by_two.is_empty(), "two of five acknowledged {by_two:?}");
        let acknowledged = of_three.stop().await;
        fleet.network().heal();
        until_agreed(&fleet, &acknowledged).await;
        steady.stop().await.assert_clean().await;
    });
}

/// How a follower's link fails.
enum Cut {
    /// It sends and hears nobody.
    Deaf,
    /// It hears and nobody hears it.
    Mute,
}

/// Terms over some seconds of a partition that began a moment ago, while writes go on.
const WATCHED: Duration = Duration::from_secs(5);

async fn one_direction(fleet: Fleet, cut: Cut) {
    let leader = fleet.leader().await;
    let follower = (0..3).find(|i| *i != leader).expect("there are three");
    let majority: Vec<_> = (0..3).filter(|i| *i != follower).map(|i| fleet.nodes[i].api).collect();
    let steady = Steady::start(&everybody(&fleet), 6);
    let writes = Writes::start("write", &majority);
    writes.until_more(5).await;
    let term = fleet.nodes[leader].metric("tidelock_raft_term").await;
    match cut {
        Cut::Deaf => fleet.network().deafen_to_all(follower),
        Cut::Mute => fleet.network().silence(follower),
    }
    eventually("the follower has no leader", READY, async || {
        (fleet.nodes[follower].api.get("/v1/status").await["quorum"] == false).then_some(())
    })
    .await;
    let watched = Instant::now();
    while watched.elapsed() < WATCHED {
        writes.until_more(20).await;
        // Its calls for an election move nobody: the same leader in the same term.
        assert_eq!(fleet.nodes[leader].metric("tidelock_raft_term").await, term);
        assert_eq!(fleet.nodes[leader].metric("tidelock_raft_is_leader").await, 1);
    }
    fleet.network().heal();
    writes.until_more(5).await;
    let acknowledged = writes.stop().await;
    until_agreed(&fleet, &acknowledged).await;
    assert_eq!(fleet.nodes[leader].metric("tidelock_raft_term").await, term, "its return disturbs nobody");
    steady.stop().await.assert_clean().await;
}

#[test]
fn a_follower_that_hears_nobody_does_not_disturb_the_others() {
    in_a_network(3, async |network| one_direction(Fleet::with_demo_in(network).await, Cut::Deaf).await);
}

#[test]
fn a_follower_that_nobody_hears_does_not_disturb_the_others() {
    in_a_network(3, async |network| one_direction(Fleet::with_demo_in(network).await, Cut::Mute).await);
}

#[test]
fn a_follower_on_a_link_that_loses_packets_keeps_up() {
    in_a_network(3, async |network| {
        let fleet = Fleet::with_demo_in(network).await;
        let leader = fleet.leader().await;
        let follower = (0..3).find(|i| *i != leader).expect("there are three");
        let steady = Steady::start(&everybody(&fleet), 6);
        let majority: Vec<_> = (0..3).filter(|i| *i != follower).map(|i| fleet.nodes[i].api).collect();
        let term = fleet.nodes[leader].metric("tidelock_raft_term").await;
        fleet.network().lose(follower, 0.2);
        let writes = Writes::start("write", &majority);
        let through = Writes::start("through", &[fleet.nodes[follower].api]);
        writes.until_more(50).await;
        through.until_more(2).await;
        let mut acknowledged = writes.stop().await;
        acknowledged.extend(through.stop().await);
        let epoch = fleet.nodes[leader].metric("tidelock_epoch").await;
        eventually("the follower has everything over its bad link", READY, async || {
            (fleet.nodes[follower].metric("tidelock_epoch").await >= epoch).then_some(())
        })
        .await;
        assert_eq!(fleet.nodes[leader].metric("tidelock_raft_term").await, term, "nobody calls for an election");
        until_agreed(&fleet, &acknowledged).await;
        steady.stop().await.assert_clean().await;
    });
}

/// What the fleet says of an endpoint.
async fn health(fleet: &Fleet, i: usize, endpoint: &str) -> Value {
    let pool = fleet.nodes[i].api.get("/v1/pools/demo").await;
    let endpoints = pool["endpoints"].as_array().expect("a list");
    endpoints.iter().find(|known| known["name"] == endpoint).expect("an endpoint")["health"].clone()
}

/// How many observers see each of the endpoints like this.
async fn observers(fleet: &Fleet, sees: &str) -> Vec<usize> {
    let mut counts = Vec::new();
    for endpoint in &fleet.endpoints {
        let health = health(fleet, 0, &endpoint.name).await;
        let observers = health["observers"].as_array().expect("a list");
        counts.push(observers.iter().filter(|observer| observer["sees"] == sees).count());
    }
    counts
}

#[test]
fn one_node_that_reaches_no_endpoint_takes_none_away_from_the_others() {
    in_a_network(3, async |network| {
        let fleet = Fleet::with_demo_in(network).await;
        let check = json!({"kind": "http", "path": "/counter"});
        let checks = json!({"check": check, "interval_ms": 100, "timeout_ms": 200, "unhealthy_threshold": 2});
        fleet.nodes[0].api.put("/v1/pools/demo", json!({ "protocol": "h2c", "health": checks })).await;
        eventually("three observers see each endpoint up", READY, async || {
            (observers(&fleet, "up").await == [3, 3, 3]).then_some(())
        })
        .await;
        let cut = (fleet.leader().await + 1) % 3;
        let served: Vec<_> = (0..3).filter(|i| *i != cut).map(|i| fleet.nodes[i].http).collect();
        let steady = Steady::start(&served, 4);
        fleet.network().deafen(cut, ENDPOINTS);
        eventually("the cut-off node sees each endpoint down", READY, async || {
            (observers(&fleet, "down").await == [1, 1, 1]).then_some(())
        })
        .await;
        // Nor does anything follow from it while the others look again and again.
        let watched = Instant::now();
        while watched.elapsed() < Duration::from_secs(1) {
            for endpoint in &fleet.endpoints {
                let health = health(&fleet, 0, &endpoint.name).await;
                assert_eq!((&health["verdict"], &health["falls"]), (&json!("up"), &json!(0)), "{health}");
            }
        }
        fleet.network().heal();
        eventually("all observers see each endpoint up", READY, async || {
            (observers(&fleet, "up").await == [3, 3, 3]).then_some(())
        })
        .await;
        steady.stop().await.assert_clean().await;
    });
}
