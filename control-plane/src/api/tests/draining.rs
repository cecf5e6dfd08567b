use super::*;

const DRAIN: &str = "/v1/pools/app/endpoints/app-1/drain";
const APP_1: EndpointId = EndpointId(2);

#[tokio::test]
async fn a_drain_lives_from_its_request_to_the_last_stream() {
    let (node, client) = ready().await;
    populate(&client).await;
    node.count(APP_1, 2);
    let request = r#"{"mode":"streams","deadline_seconds":300,"reason":"deploy"}"#;
    let id = client.post(DRAIN, request).await.expect(200)["drain"].as_str().unwrap().to_owned();
    let path = format!("/v1/drains/{id}");

    let drain = client.get(&path).await.expect(200);
    assert_eq!(
        (&drain["state"], &drain["reason"], &drain["safe"]),
        (&json!("draining"), &json!("deploy"), &json!(false))
    );
    assert_eq!(drain["deadline_ms"].as_u64().unwrap() - drain["started_ms"].as_u64().unwrap(), 300_000);
    let pool = client.get("/v1/pools/app").await.expect(200);
    assert_eq!((&pool["endpoints"][0]["phase"], &pool["endpoints"][0]["drain"]), (&json!("draining"), &json!(id)));

    // Not safe while a stream lives; the answer at the time-out says what is left.
    let waited = client.get(&format!("{path}?wait=safe&timeout_seconds=1")).await.expect(202);
    assert_eq!((&waited["requests"], &waited["nodes"][0]["node"]), (&json!(2), &json!("a")));

    let waiting = format!("{path}?wait=safe&timeout_seconds=15");
    let (waited, ()) = tokio::join!(client.get(&waiting), async { node.count(APP_1, 0) });
    assert_eq!(waited.expect(200)["safe"], true);
    // The leader has ended it, or is about to.
    let mut events = client.events("/v1/events").await;
    let ended = events.until(|status| status["drains"][0]["state"] == "drained").await;
    assert_eq!(ended["pools"][0]["endpoints"][0]["phase"], "drained");
    assert_eq!(client.get(&waiting).await.expect(200)["safe"], true);
}

#[tokio::test]
async fn a_drain_has_a_pace_unless_it_is_told_not_to() {
    let (node, client) = ready().await;
    populate(&client).await;
    node.count(APP_1, 200);
    for (request, pace) in [("", json!(50)), (r#"{"pace":0}"#, json!(null)), (r#"{"pace":7}"#, json!(7))] {
        let id = client.post(DRAIN, request).await.expect(200)["drain"].as_str().unwrap().to_owned();
        let drain = client.get(&format!("/v1/drains/{id}")).await.expect(200);
        assert_eq!((&drain["pace"], &drain["event_streams"]), (&pace, &json!(0)), "{request}");
        client.delete(DRAIN).await.expect(200);
    }
}

#[tokio::test]
async fn a_switchover_lives_from_its_request_to_its_end() {
    let (node, client) = ready().await;
    populate(&client).await;
    const START: &str = "/v1/pools/app/switchovers";
    for (body, code, status) in [
        (r#"{"from":{"revision":"v1"},"to":{"revision":"v1"}}"#, "invalid-request", 400),
        (r#"{"from":{"revision":"v1"}}"#, "invalid-request", 400),
        (r#"{"from":{"revision":"v1"},"to":{"revision":"v2"},"wait_seconds":0}"#, "invalid-request", 400),
        (r#"{"from":{"revision":"v1"},"to":{"revision":"v2"},"pace":0}"#, "invalid-request", 400),
        (r#"{"from":{"revision":"v0"},"to":{"revision":"v2"}}"#, "nothing-to-replace", 409),
    ] {
        assert_eq!(client.post(START, body).await.problem(status), code, "{body}");
    }
    assert_eq!(client.get("/v1/switchovers/s9").await.problem(404), "not-found");
    assert_eq!(client.delete("/v1/switchovers/s9").await.problem(404), "unknown-switchover");

    node.count(APP_1, 2);
    let body = r#"{"from":{"endpoints":["app-1"]},"to":{"endpoints":["app-2"]},"pace":9,"reason":"deploy"}"#;
    let id = client.post(START, body).await.expect(200)["switchover"].as_str().unwrap().to_owned();
    assert_eq!(client.post(START, body).await.problem(409), "switchover-under-way");
    let path = format!("/v1/switchovers/{id}");
    let waited = client.get(&format!("{path}?wait=end&timeout_seconds=1")).await.expect(202);
    assert_eq!((&waited["stage"], &waited["requests"]), (&json!("draining"), &json!(2)));
    assert_eq!((&waited["pace"], &waited["reason"], &waited["ready"]), (&json!(9), &json!("deploy"), &json!(1)));
    assert_eq!(waited["drains"][0]["switchover"], json!(id));
    let waiting = format!("{path}?wait=end&timeout_seconds=15");
    let (ended, ()) = tokio::join!(client.get(&waiting), async { node.count(APP_1, 0) });
    assert_eq!(ended.expect(200)["stage"], "done");
    assert_eq!(client.get("/v1/switchovers").await.expect(200)["switchovers"][0]["id"], json!(id));

    // Back, while there is something to go back to.
    let body = r#"{"from":{"endpoints":["app-2"]},"to":{"endpoints":["app-1"]},"min_ready":1}"#;
    let id = client.post(START, body).await.expect(200)["switchover"].as_str().unwrap().to_owned();
    client
        .with("content-type", "application/json")
        .call("DELETE", &format!("/v1/switchovers/{id}"), br#"{"reason":"x"}"#)
        .await
        .expect(200);
    let back = client.get(&format!("/v1/switchovers/{id}")).await.expect(200);
    assert_eq!((&back["stage"], &back["detail"]), (&json!("rolled-back"), &json!("x")));
    assert_eq!(client.get("/v1/pools/app").await.expect(200)["endpoints"][1]["phase"], "active");
}

#[tokio::test]
async fn a_cancelled_drain_is_never_safe() {
    let (node, client) = ready().await;
    populate(&client).await;
    node.count(APP_1, 1);
    let id = client.post(DRAIN, "").await.expect(200)["drain"].as_str().unwrap().to_owned();
    let waiting = format!("/v1/drains/{id}?wait=safe");
    let (waited, cancelled) = tokio::join!(client.get(&waiting), client.delete(DRAIN));
    cancelled.expect(200);
    assert_eq!(waited.problem(409), "drain-cancelled");
    // Quiet on every node, and still not to be stopped: it gets new sessions.
    node.count(APP_1, 0);
    let mut events = client.events("/v1/events").await;
    events.until(|status| status["drains"][0]["requests"] == 0 && status["drains"][0]["missing"] == json!([])).await;
    let drain = client.get(&format!("/v1/drains/{id}")).await.expect(200);
    assert_eq!((&drain["state"], &drain["safe"]), (&json!("cancelled"), &json!(false)));
    assert_eq!(client.get("/v1/pools/app").await.expect(200)["endpoints"][0]["phase"], "active");
}

#[tokio::test]
async fn a_node_that_is_away_is_named_and_never_counted_as_zero() {
    let node = TestNode::start(config(), &[1, 2, 3]).await;
    let client = Client::new(node.addr());
    node.route_by_every_table();
    populate(&client).await;
    node.hear(2, "b", NodeReport { epoch: Some(Epoch(1_000)), ..NodeReport::default() }).await;
    let id = client.post(DRAIN, "").await.expect(200)["drain"].as_str().unwrap().to_owned();
    let waited = client.get(&format!("/v1/drains/{id}?wait=safe&timeout_seconds=1")).await.expect(202);
    assert_eq!((&waited["safe"], &waited["missing"]), (&json!(false), &json!(["0000000000000003"])));
    node.hear(3, "c", NodeReport { epoch: Some(Epoch(2)), ..NodeReport::default() }).await;
    let status = client.events("/v1/events").await.until(|status| status["drains"][0]["missing"] == json!(["c"])).await;
    assert_eq!(status["drains"][0]["safe"], false, "its table is older than the drain");
    let waiting = format!("/v1/drains/{id}?wait=safe&timeout_seconds=15");
    let (waited, ()) = tokio::join!(client.get(&waiting), async {
        let report = NodeReport { epoch: Some(Epoch(1_000)), ..NodeReport::default() };
        node.hear(2, "b", report.clone()).await;
        node.hear(3, "c", report).await;
    });
    assert_eq!(waited.expect(200)["missing"], json!([]));
}

#[tokio::test]
async fn drain_requests_are_checked() {
    let (_node, client) = ready().await;
    populate(&client).await;
    for (body, field) in [
        (r#"{"deadline_seconds":0}"#, "deadline_seconds"),
        (r#"{"deadline_seconds":604801}"#, "deadline_seconds"),
        (r#"{"mode":"gently"}"#, "mode"),
        (r#"{"pace":100001}"#, "pace"),
        (r#"{"speed":3}"#, "speed"),
        (&format!(r#"{{"reason":"{}"}}"#, "x".repeat(501)), "reason"),
    ] {
        let answer = client.post(DRAIN, body).await;
        assert_eq!(answer.problem(400), "invalid-request", "{body}");
        assert_eq!(answer.json()["problems"][0]["field"], field);
    }
    assert_eq!(client.get("/v1/drains/d99?wait=safe").await.problem(404), "not-found");
    assert_eq!(client.get("/v1/drains/d99?wait=safe&timeout_seconds=3601").await.problem(400), "invalid-request");
    assert_eq!(client.post("/v1/pools/none/endpoints/a/drain", "").await.problem(404), "unknown-pool");
}
