use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::api::events::LISTENERS_MAX;
use crate::fleet::LAST_ANSWERS;
use crate::fleet::leave::LeaveState;
use crate::raft::Role;

#[tokio::test]
async fn resources_have_the_shapes_of_the_contract() {
    let (node, client) = ready().await;
    populate(&client).await;
    node.count(EndpointId(3), 3);
    let mut events = client.events("/v1/events").await;
    let status = events.until(|status| status["pools"][0]["endpoints"][1]["requests"] == 3).await;
    let epoch = status["epoch"].clone();
    assert_eq!(status["node"], "a");
    assert_eq!((&status["leader"], &status["quorum"]), (&json!("a"), &json!(true)));
    assert_eq!(
        status["pools"][0]["endpoints"],
        json!([
            {"name": "app-1", "id": 2, "address": "10.0.0.1:4000", "weight": 1, "revision": "v1", "node": null, "phase": "active",
             "requests": 0, "websockets": 0, "event_streams": 0, "drain": null, "health": null, "by_node": []},
            {"name": "app-2", "id": 3, "address": "10.0.0.2:4000", "weight": 2, "revision": null, "node": null, "phase": "active",
             "requests": 3, "websockets": 0, "event_streams": 0, "drain": null, "health": null,
             "by_node": [{"node": "a", "requests": 3, "websockets": 0, "event_streams": 0}]},
        ])
    );
    let pools = client.get("/v1/pools").await.expect(200);
    assert_eq!((&pools["epoch"], &pools["pools"]), (&epoch, &status["pools"]));
    assert_eq!(client.get("/v1/pools/app").await.expect(200), pools["pools"][0]);
    let route = json!({"name": "web", "spec": {
        "host": "example.com", "path_prefix": "/", "pool": "app", "affinity": {"kind": "cookie"}}});
    assert_eq!(client.get("/v1/routes").await.expect(200), json!({"epoch": epoch, "routes": [route]}));
    assert_eq!(client.get("/v1/routes/web").await.expect(200), route);
    let nodes = client.get("/v1/nodes").await.expect(200);
    let (node, id) = (&nodes["nodes"][0], "0000000000000001");
    assert_eq!((&node["id"], &node["role"], &node["self"]), (&json!(id), &json!("leader"), &json!(true)));
    assert_eq!((&node["reachable"], &node["epoch"], &node["leaving"]), (&json!(true), &epoch, &json!(false)));
    assert!(node["last_seen_ms"].as_u64().unwrap() < 3_000);
    assert_eq!(client.get("/v1/drains").await.expect(200), json!({"epoch": epoch, "drains": []}));
}

#[tokio::test]
async fn answers_carry_the_epoch_and_are_not_cached() {
    let (_node, client) = ready().await;
    populate(&client).await;
    let answer = client.get("/v1/pools/app").await;
    let epoch = answer.header("tidelock-epoch").unwrap();
    assert_eq!(answer.header("etag").unwrap(), format!("W/\"{epoch}\""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(client.get("/livez").await.header("tidelock-epoch"), Some(epoch));
}

#[tokio::test]
async fn the_stream_sends_each_change_once_and_ends_with_the_node() {
    let (node, client) = ready().await;
    let mut events = client.with("last-event-id", "7").events("/v1/events").await;
    let head = events.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
    let first = events.next().await.unwrap();
    assert_eq!(first["pools"], json!([]));
    let written = client.put("/v1/pools/app", "{}").await.expect(200);
    let event = events.until(|status| status["pools"][0]["name"] == "app").await;
    assert_eq!(event["epoch"], written["epoch"]);
    let stopping = Instant::now();
    let (_, rest) = tokio::join!(node.plane.shutdown(), async {
        let mut rest = 0;
        while events.next().await.is_some() {
            rest += 1;
        }
        rest
    });
    assert!(stopping.elapsed() < LAST_ANSWERS, "the stream was cut, it did not end");
    assert!(rest < 5, "{rest} more events came without a change");
}

#[tokio::test]
async fn waits_that_outlast_the_node_are_cut() {
    let (node, client) = ready().await;
    populate(&client).await;
    node.count(EndpointId(2), 1);
    let drain = client.post("/v1/pools/app/endpoints/app-1/drain", "").await.expect(200)["drain"].clone();
    let path = format!("/v1/drains/{}?wait=safe&timeout_seconds=600", drain.as_str().unwrap());
    let mut waiting = client.events(&path).await;
    // A round trip in which the wait arrives.
    client.put("/v1/pools/other", "{}").await.expect(200);
    let stopping = Instant::now();
    tokio::join!(node.plane.shutdown(), async { assert!(waiting.next().await.is_none(), "answered, not cut") });
    assert!(stopping.elapsed() < LAST_ANSWERS * 2, "{:?}", stopping.elapsed());
}

#[tokio::test]
async fn streams_are_bounded_and_all_get_the_same_event() {
    let (_node, client) = ready().await;
    let mut streams = Vec::new();
    for _ in 0..LISTENERS_MAX {
        let mut stream = client.events("/v1/events").await;
        stream.next().await.expect("the first event");
        streams.push(stream);
    }
    assert_eq!(client.get("/v1/events").await.problem(503), "too-many");
    client.put("/v1/pools/app", "{}").await.expect(200);
    let first = streams[0].until(|status| status["pools"][0]["name"] == "app").await;
    for stream in &mut streams[1..] {
        let event = stream.until(|status| status["pools"][0]["name"] == "app").await;
        assert_eq!(event, first, "last_seen_ms shows that it was written once");
    }
    // A place is free again when its client has gone.
    streams.pop();
    client.put("/v1/pools/other", "{}").await.expect(200);
    let mut tries = 0;
    while client.events("/v1/events").await.head().await.starts_with("HTTP/1.1 503") {
        tries += 1;
        assert!(tries < 500, "the place of a gone client stays taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_lost_leader_is_shown() {
    let (node, client) = ready().await;
    let mut events = client.events("/v1/events").await;
    node.raft.status.send_modify(|raft| (raft.role, raft.leader) = (Role::Candidate, None));
    let status = events.until(|status| status["leader"].is_null()).await;
    assert_eq!((&status["quorum"], &status["nodes"][0]["role"]), (&json!(false), &json!("candidate")));
}

#[tokio::test]
async fn readiness_says_why_not() {
    let node = TestNode::alone().await;
    let client = Client::new(node.addr());
    node.raft.fail(Some(ProposeError::NoLeader));
    assert_eq!(client.get("/livez").await.text(), "ok\n");
    let code = client.get("/readyz").await.problem(503);
    assert!(code == "no-table" || code == "table-not-taken", "{code}");
    node.raft.fail(None);
    client.put("/v1/pools/app", "{}").await.expect(200);
    assert_eq!(client.get("/readyz").await.problem(503), "table-not-taken");
    node.ready().await;
    let mut events = client.events("/v1/events").await;
    events.until(|status| status["nodes"][0]["epoch"].is_u64()).await;
    assert_eq!(client.get("/readyz").await.text(), "ok\n");
    node.plane.leave().request();
    assert_eq!(client.get("/readyz").await.problem(503), "leaving");
    assert_eq!(client.get("/livez").await.status, 200);
}

#[tokio::test]
async fn leaving_is_asked_for_carried_out_and_waited_for() {
    let (node, client) = ready().await;
    assert_eq!(client.post("/v1/nodes/self/leave", "").await.expect(202), json!({"node": "a", "state": "leaving"}));
    let wiring = async {
        let leave = node.plane.leave();
        leave.requested().await;
        leave.advance(LeaveState::Left);
    };
    let (answer, ()) = tokio::join!(client.post("/v1/nodes/self/leave?wait=true", ""), wiring);
    assert_eq!(answer.expect(200), json!({"node": "a", "state": "left"}));
}

#[tokio::test]
async fn metrics_hold_both_planes() {
    let mut config = config();
    config.metrics = Some(Arc::new(|text: &mut String| text.push_str("# TYPE extra gauge\nextra 1\n")));
    let node = TestNode::start(config, &[1]).await;
    node.ready().await;
    let client = Client::new(node.addr());
    populate(&client).await;
    let mut events = client.events("/v1/events").await;
    node.count(EndpointId(2), 4);
    events.until(|status| status["pools"][0]["endpoints"][0]["requests"] == 4).await;
    let answer = client.get("/metrics").await;
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = answer.text();
    for line in [
        "tidelock_endpoint_requests{pool=\"app\",endpoint=\"app-1\"} 4\n",
        "tidelock_endpoint_websockets{pool=\"app\",endpoint=\"app-2\"} 0\n",
        "tidelock_raft_is_leader 1\n",
        "tidelock_raft_has_leader 1\n",
        "tidelock_drains 0\n",
        "tidelock_build_info{version=",
        "extra 1\n# EOF\n",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(text.contains(&format!("tidelock_epoch {}\n", answer.header("tidelock-epoch").unwrap())));
}
