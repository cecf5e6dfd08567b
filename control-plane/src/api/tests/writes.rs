use tidelock_core::command::Command;
use tidelock_core::state::Rejection;

use super::*;
use crate::api::error::Problem;

#[tokio::test]
async fn a_write_is_applied_at_an_epoch_and_seen_by_the_next_read() {
    let (node, client) = ready().await;
    let answer = client.put("/v1/pools/app", r#"{"protocol":"h2c"}"#).await;
    let written = answer.expect(200);
    assert_eq!(written["outcome"], "applied");
    assert_eq!(answer.header("tidelock-epoch").unwrap(), written["epoch"].to_string());
    assert_eq!(node.plane.table().borrow().epoch.0, written["epoch"].as_u64().unwrap());
    assert_eq!(client.get("/v1/pools/app").await.expect(200)["spec"]["protocol"], "h2c");
    client.delete("/v1/pools/app").await.expect(200);
    assert_eq!(client.get("/v1/pools/app").await.problem(404), "not-found");
}

#[tokio::test]
async fn what_the_state_forbids_is_rejected() {
    let (_node, client) = ready().await;
    populate(&client).await;
    assert_eq!(client.delete("/v1/pools/none").await.problem(404), "unknown-pool");
    assert_eq!(client.delete("/v1/pools/app").await.problem(409), "pool-in-use");
    assert_eq!(client.delete("/v1/routes/none").await.problem(404), "unknown-route");
    assert_eq!(client.delete("/v1/pools/app/endpoints/none").await.problem(404), "unknown-endpoint");
    let spec = r#"{"address":"10.0.0.9:4000"}"#;
    assert_eq!(client.put("/v1/pools/none/endpoints/a", spec).await.problem(404), "unknown-pool");
    assert_eq!(client.put("/v1/routes/other", r#"{"pool":"none"}"#).await.problem(409), "unknown-pool");
    let twin = r#"{"host":"example.com","pool":"app"}"#;
    assert_eq!(client.put("/v1/routes/other", twin).await.problem(409), "duplicate-route");
    let address = r#"{"address":"10.0.0.1:4000"}"#;
    assert_eq!(client.put("/v1/pools/app/endpoints/app-3", address).await.problem(409), "duplicate-address");
    assert_eq!(client.delete("/v1/pools/app/endpoints/app-1/drain").await.problem(409), "not-draining");
}

#[test]
fn a_bound_of_the_fleet_is_unprocessable() {
    let reason = Rejection::LimitReached { what: "pools".into(), limit: 5 };
    let command = Command::DeletePool { name: "p".parse().unwrap() };
    let problem = Problem::rejected(&reason, &command);
    assert_eq!((problem.status.as_u16(), problem.kind.as_str()), (422, "urn:tidelock:problem:limit-reached"));
}

#[tokio::test]
async fn without_an_outcome_the_answer_says_what_is_known() {
    let (node, client) = ready().await;
    for (failure, code, title) in [
        (ProposeError::Unknown, "unknown-outcome", "Outcome unknown"),
        (ProposeError::Stopped, "unknown-outcome", "Outcome unknown"),
        (ProposeError::NoLeader, "no-leader", "Not written"),
        (ProposeError::Busy, "busy", "Not written"),
    ] {
        node.raft.fail(Some(failure));
        let answer = client.put("/v1/pools/app", "{}").await;
        assert_eq!((answer.problem(503).as_str(), &answer.json()["title"]), (code, &json!(title)));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    client.get("/v1/pools").await.expect(200);
    assert_eq!(client.get("/v1/pools?consistency=linearizable").await.problem(503), "no-leader");
    node.raft.fail(None);
    client.get("/v1/pools?consistency=linearizable").await.expect(200);
}

#[tokio::test]
async fn a_repeated_key_writes_once() {
    let (_node, client) = ready().await;
    populate(&client).await;
    let keyed = client.with("idempotency-key", "11111111-2222-4333-8444-555555555555");
    let first = keyed.post("/v1/pools/app/endpoints/app-1/drain", "").await.expect(200);
    let again = keyed.post("/v1/pools/app/endpoints/app-1/drain", "").await.expect(200);
    assert_eq!(first, again);
    assert_eq!(client.get("/v1/drains").await.expect(200)["drains"].as_array().unwrap().len(), 1);
    assert_eq!(client.post("/v1/pools/app/endpoints/app-1/drain", "").await.problem(409), "not-active");
}

#[tokio::test]
async fn a_dry_run_tells_the_verdict_and_writes_nothing() {
    let (node, client) = ready().await;
    let before = node.plane.table().borrow().epoch;
    let answer = client.put("/v1/pools/app?dry_run=true", "{}").await.expect(200);
    assert_eq!(answer, json!({"outcome": "would-apply", "epoch": before.0}));
    assert_eq!(client.delete("/v1/pools/app?dry_run=true").await.problem(404), "unknown-pool");
    assert_eq!(node.plane.table().borrow().epoch, before);
}

#[tokio::test]
async fn waiting_for_the_fleet_names_who_lags_and_who_is_away() {
    let node = TestNode::start(config(), &[1, 2, 3]).await;
    let client = Client::new(node.addr());
    node.route_by_every_table();
    node.hear(2, "b", NodeReport { epoch: Some(Epoch(1)), ..NodeReport::default() }).await;
    let answer = client.put("/v1/pools/app?wait=fleet&timeout_seconds=1", "{}").await.expect(202);
    assert_eq!((&answer["outcome"], &answer["lagging"]), (&json!("applied"), &json!(["b"])));
    assert_eq!(answer["missing"], json!(["0000000000000003"]));
    // Node 2 catches up, and is heard of, while the write waits.
    let (answer, ()) = tokio::join!(client.put("/v1/pools/app?wait=fleet", r#"{"protocol":"h2c"}"#), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.hear(2, "b", NodeReport { epoch: Some(Epoch(1_000)), ..NodeReport::default() }).await;
    });
    assert_eq!(answer.expect(200)["lagging"], json!([]));
}
