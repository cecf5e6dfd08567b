//! What `explain` says is what happens, on every node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::{H2, get};

/// A request as it is explained and then sent.
#[derive(Default)]
struct Sent<'a> {
    path: &'a str,
    query: &'a str,
    cookie: &'a str,
    user: &'a str,
}

impl Sent<'_> {
    fn question(&self) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let target = format!("{}{}", self.path, self.query);
        let mut question = format!("/v1/explain?host=demo.test&client=127.0.0.1&path={}", encoded(&target));
        if !self.cookie.is_empty() {
            question += &format!("&cookie={}", encoded(self.cookie));
        }
        if !self.user.is_empty() {
            question += &format!("&header={}", encoded(&format!("x-user: {}", self.user)));
        }
        question
    }

    fn request(&self) -> Request<Bytes> {
        let mut request = get(&format!("{}{}", self.path, self.query), self.cookie);
        if !self.user.is_empty() {
            request.headers_mut().insert("x-user", self.user.parse().expect("a value"));
        }
        request
    }
}

/// Asks node `by` about the request, sends it through node `through`, and holds the access log's event
/// against the answer. Gives the word that both have, and our cookie if one came.
async fn told_and_done(fleet: &Fleet, sent: Sent<'_>) -> (String, Option<String>) {
    let told = fleet.nodes[0].api.get(&sent.question()).await;
    assert_eq!(told["agree"], true, "{told}");
    let through = &fleet.nodes[1];
    let h2 = H2::connect(through.http).await.expect("a connection");
    let answer = h2.exchange(sent.request(), usize::MAX).await.expect("an answer");
    let event = eventually("the event", READY, async || {
        let log = through.process.as_ref()?.log();
        let mut events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.rfind(|event| event["path"] == sent.path)
    })
    .await;
    assert_eq!(event["affinity"], told["placement"], "{event} {told}");
    assert_eq!((&event["route"], &event["pool"]), (&told["route"], &told["pool"]));
    let word = event["affinity"].as_str().expect("a word").to_owned();
    // Of these the endpoint is drawn.
    if !["new", "none"].contains(&word.as_str()) {
        assert_eq!(event["endpoint"], told["endpoint"], "{event} {told}");
    }
    for node in told["nodes"].as_array().expect("nodes") {
        assert_eq!(node["explains"]["placement"], event["affinity"], "{node}");
    }
    (word, answer.cookie("tidelock"))
}

async fn route(fleet: &Fleet, affinity: Value) {
    let put = fleet.nodes[0].api.put("/v1/routes/demo", json!({ "pool": "demo", "affinity": affinity })).await;
    fleet.until_epoch(put["epoch"].as_u64().expect("an epoch")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_words_of_explain_are_those_of_the_access_log() {
    let fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let api = fleet.nodes[0].api;
    let (new, pin) = told_and_done(&fleet, Sent { path: "/new", ..Sent::default() }).await;
    let pin = pin.expect("a pin");
    let cookie = pin.as_str();
    let (kept, _) = told_and_done(&fleet, Sent { path: "/kept", cookie, ..Sent::default() }).await;
    assert_eq!((new.as_str(), kept.as_str()), ("new", "kept"));
    let told = api.get(&Sent { path: "/", cookie, ..Sent::default() }.question()).await;
    let home = told["endpoint"].as_str().expect("its home").to_owned();

    // What moves a session, one after the other, until its home is gone.
    let endpoint = format!("/v1/pools/demo/endpoints/{home}");
    let mut moves = BTreeSet::new();
    for (path, method, change) in
        [("/drained", Method::POST, format!("{endpoint}/drain")), ("/gone", Method::DELETE, endpoint.clone())]
    {
        let body = (method == Method::POST).then(|| json!({}));
        let done = api.write(method, &change, body).await;
        fleet.until_epoch(done["epoch"].as_u64().expect("an epoch")).await;
        moves.insert(told_and_done(&fleet, Sent { path, cookie, ..Sent::default() }).await.0);
    }
    assert_eq!(moves, BTreeSet::from(["moved:draining".to_owned(), "moved:gone".to_owned()]));

    let one = Sent::default;
    let kinds = [
        (json!({ "kind": "none" }), Sent { path: "/none", ..one() }, "none"),
        (json!({ "kind": "app-cookie", "name": "sid" }), Sent { path: "/app", cookie: "sid=7", ..one() }, "key"),
        (json!({ "kind": "app-cookie", "name": "sid" }), Sent { path: "/no-app", cookie: "s=7", ..one() }, "none"),
        (json!({ "kind": "header", "name": "x-user" }), Sent { path: "/header", user: "7", ..one() }, "key"),
        (json!({ "kind": "query", "name": "id" }), Sent { path: "/query", query: "?a=1&id=7", ..one() }, "key"),
        (json!({ "kind": "path-segment", "number": 2 }), Sent { path: "/of/7", ..one() }, "key"),
        (json!({ "kind": "client-ip" }), Sent { path: "/client", ..one() }, "key"),
    ];
    for (affinity, sent, expected) in kinds {
        route(&fleet, affinity.clone()).await;
        assert_eq!(told_and_done(&fleet, sent).await.0, expected, "{affinity}");
    }
    for node in &fleet.nodes {
        let log = node.process.as_ref().expect("it runs").log();
        let value = pin.split_once('=').expect("a pair").1;
        assert!(!log.contains(value), "node {} has written a cookie into its log", node.name);
    }
}

/// What the command prints.
async fn printed(fleet: &Fleet, by: usize) -> String {
    let url = format!("http://{}", fleet.nodes[by].api.0);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidelock"));
    let output = command.args(["explain", "demo.test/x", "--api", &url]).output().await.expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_or_is_gone_is_named_in_time() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let all = printed(&fleet, 0).await;
    assert!(all.ends_with("all 3 nodes agree\n"), "{all}");

    // One that is connected and says nothing.
    fleet.nodes[2].process.as_ref().expect("it runs").freeze();
    let begun = Instant::now();
    let told = fleet.nodes[0].api.get("/v1/explain?host=demo.test").await;
    assert!(begun.elapsed() < Duration::from_secs(4), "2 s for all nodes: {:?}", begun.elapsed());
    assert_eq!(told["agree"], Value::Null, "{told}");
    let silent = &told["nodes"][2];
    assert_eq!((&silent["node"], &silent["not_reached"]), (&json!("c"), &json!("it did not answer in time")));
    assert_eq!(told["nodes"][1]["explains"]["placement"], "new", "{told}");

    fleet.nodes[2].kill();
    eventually("the connection's end", READY, async || {
        let told = fleet.nodes[0].api.get("/v1/explain?host=demo.test").await;
        (told["nodes"][2]["not_reached"] == "no connection to it is open").then_some(())
    })
    .await;
    let some = printed(&fleet, 0).await;
    assert!(some.contains("the nodes that were reached agree\nNODE"), "{some}");
    assert!(some.contains("not reached: no connection to it is open\n"), "{some}");
}
