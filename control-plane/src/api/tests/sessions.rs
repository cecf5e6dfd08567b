use super::*;
use crate::fleet::tests::node::PATIENCE;

#[tokio::test]
async fn a_pod_is_drained_by_its_address() {
    let (node, client) = ready().await;
    populate(&client).await;
    let address = client.get("/v1/pools/app").await.expect(200)["endpoints"][0]["address"].as_str().unwrap().to_owned();
    let path = format!("/v1/prestop?address={address}");
    let nobody = client.post("/v1/prestop?address=10.9.9.9:1", "").await.expect(200);
    assert_eq!((&nobody["safe"], &nobody["drains"]), (&json!(true), &json!([])), "nobody is sent there");
    for bad in ["", "?address=x", "?address=a:1&timeout_seconds=0", "?address=a:1&deadline_seconds=0"] {
        assert_eq!(client.post(&format!("/v1/prestop{bad}"), "").await.problem(400), "invalid-request", "{bad}");
    }

    let endpoint = EndpointId(2);
    node.count(endpoint, 2);
    let left = client.post(&format!("{path}&timeout_seconds=1"), "").await.expect(202);
    assert_eq!((&left["safe"], &left["drains"][0]["requests"]), (&json!(false), &json!(2)));
    assert_eq!((&left["drains"][0]["reason"], &left["drains"][0]["pace"]), (&json!("prestop"), &json!(50)));
    // Said again it waits for the same drain.
    let (again, ()) = tokio::join!(client.post(&path, ""), async { node.count(endpoint, 0) });
    let again = again.expect(200);
    assert_eq!((&again["safe"], &again["drains"][0]["id"]), (&json!(true), &left["drains"][0]["id"]));
}

#[tokio::test]
async fn keys_are_rotated_one_at_a_time_and_never_shown() {
    let node = TestNode::start(config(), &[1, 2]).await;
    let client = Client::new(node.addr());
    node.route_by_every_table();
    let heard = |epoch| NodeReport { epoch: Some(Epoch(epoch)), ..NodeReport::default() };
    node.hear(2, "b", heard(2)).await;
    let first = client.get("/v1/cookie-keys").await.expect(200);
    assert_eq!(first["keys"], json!([{"id": 1, "state": "seals", "missing": []}]));
    client.post("/v1/cookie-keys", "").await.expect(200);
    // The other node has an old table: it could not open what the new key seals.
    let keys = client.get("/v1/cookie-keys").await.expect(200);
    assert_eq!((&keys["keys"][1]["id"], &keys["keys"][1]["state"]), (&json!(2), &json!("waiting")));
    assert!(keys["keys"][1]["missing"].as_array().unwrap().contains(&json!("b")), "{keys}");
    assert_eq!(client.post("/v1/cookie-keys", "").await.problem(409), "key-waiting");
    assert!(!client.get("/v1/cookie-keys").await.text().contains("secret"));
    node.hear(2, "b", heard(1_000)).await;
    let promoted = async {
        loop {
            let keys = client.get("/v1/cookie-keys").await.expect(200)["keys"].clone();
            if keys[1]["state"] == "seals" {
                return keys;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let keys = tokio::time::timeout(PATIENCE, promoted).await.expect("it is promoted");
    assert_eq!(keys[0]["state"], "opens");
}

#[tokio::test]
async fn pins_are_revoked_of_a_pool_or_an_endpoint() {
    let (_node, client) = ready().await;
    populate(&client).await;
    for query in ["pool=app", "pool=app&endpoint=app-1"] {
        client.delete(&format!("/v1/pins?{query}")).await.expect(200);
    }
    assert_eq!(client.delete("/v1/pins?pool=none").await.problem(404), "unknown-pool");
    assert_eq!(client.delete("/v1/pins?pool=app&endpoint=none").await.problem(404), "unknown-endpoint");
    assert_eq!(client.delete("/v1/pins").await.problem(400), "invalid-request");
}

#[tokio::test]
async fn a_request_is_explained_by_the_table_that_decides_it() {
    let (_node, client) = ready().await;
    populate(&client).await;
    let none = client.get("/v1/explain?host=nowhere.test").await.expect(200);
    assert!(none["verdict"].as_str().unwrap().starts_with("421"), "{none}");
    let new = client.get("/v1/explain?host=EXAMPLE.com&path=/x%3Fq=1").await.expect(200);
    assert_eq!((&new["route"], &new["pool"], &new["placement"]), (&json!("web"), &json!("app"), &json!("new")));
    assert_eq!(new["affinity"], json!({"kind": "cookie"}));
    let candidate = json!({"endpoint": "app-1", "phase": "active", "health": "up",
        "takes_new_sessions": true, "takes_pinned_sessions": true});
    assert_eq!(new["endpoints"][0], candidate);
    assert_eq!(new["nodes"][0]["node"], "a");
    // A cookie that this fleet did not give is no pin.
    let strange = client.get("/v1/explain?host=example.com&cookie=tidelock%3Dxyz").await.expect(200);
    assert_eq!((&strange["pin"], &strange["placement"]), (&json!(null), &json!("new")));
    let keyed = r#"{"pool":"app","host":"example.com","affinity":{"kind":"header","name":"x-user"}}"#;
    client.put("/v1/routes/web", keyed).await.expect(200);
    let path = "/v1/explain?host=example.com&header=X-User:%207";
    let first = client.get(path).await.expect(200);
    assert_eq!((&first["placement"], &first["endpoint"]), (&json!("key"), &client.get(path).await.json()["endpoint"]));
    for endpoint in ["app-1", "app-2"] {
        client.post(&format!("/v1/pools/app/endpoints/{endpoint}/drain"), "").await.expect(200);
    }
    let nowhere = client.get(path).await.expect(200);
    assert_eq!((&nowhere["endpoint"], &nowhere["placement"]), (&json!(null), &json!(null)));
    assert!(nowhere["verdict"].as_str().unwrap().contains("2000 ms, then 503"), "{nowhere}");
    for bad in ["", "?host=a&path=x", "?host=a&header=x", "?host=a&client=b", "?host=a&what=b"] {
        assert_eq!(client.get(&format!("/v1/explain{bad}")).await.problem(400), "invalid-request", "{bad}");
    }
}

/// A quiet moment of an endpoint whose sessions may come back is no end: the hook ends them.
#[tokio::test]
async fn a_pod_that_drains_with_its_sessions_is_not_safe_until_they_have_gone() {
    let (node, client) = ready().await;
    populate(&client).await;
    let id = client.post("/v1/pools/app/endpoints/app-1/drain", r#"{"mode":"sessions"}"#).await.expect(200);
    let id = id["drain"].as_str().unwrap();
    let drain = client.get(&format!("/v1/drains/{id}")).await.expect(200);
    assert_eq!((&drain["requests"], &drain["safe"]), (&json!(0), &json!(false)));
    let address = client.get("/v1/pools/app").await.expect(200)["endpoints"][0]["address"].as_str().unwrap().to_owned();
    node.count(EndpointId(2), 1);
    let path = format!("/v1/prestop?address={address}");
    let left = client.post(&format!("{path}&timeout_seconds=1"), "").await.expect(202);
    assert_eq!((&left["drains"][0]["id"], &left["drains"][0]["mode"]), (&json!(id), &json!("streams")));
    let (safe, ()) = tokio::join!(client.post(&path, ""), async { node.count(EndpointId(2), 0) });
    assert_eq!(safe.expect(200)["safe"], true);
}

/// A drain that nobody remembers says nothing of what is left: that is no "nothing".
#[tokio::test]
async fn a_pod_whose_drain_has_been_forgotten_is_not_called_safe() {
    let (node, client) = ready().await;
    populate(&client).await;
    let address = client.get("/v1/pools/app").await.expect(200)["endpoints"][0]["address"].as_str().unwrap().to_owned();
    node.count(EndpointId(2), 1);
    let path = format!("/v1/prestop?address={address}&timeout_seconds=30");
    let forget = async {
        while client.get("/v1/drains").await.expect(200)["drains"].as_array().is_none_or(Vec::is_empty) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.delete("/v1/pools/app/endpoints/app-1").await.expect(200);
        for _ in 0..64 {
            client.post("/v1/pools/app/endpoints/app-2/drain", "").await.expect(200);
            client.delete("/v1/pools/app/endpoints/app-2/drain").await.expect(200);
        }
    };
    let (told, ()) = tokio::join!(client.post(&path, ""), forget);
    let told = told.expect(202);
    assert_eq!((&told["safe"], &told["drains"]), (&json!(false), &json!([])));
}

#[tokio::test]
async fn a_drain_tells_how_many_sessions_still_come() {
    let node = TestNode::start(config(), &[1, 2]).await;
    let client = Client::new(node.addr());
    node.route_by_every_table();
    let heard = |sessions: &[(u64, u64)]| NodeReport {
        epoch: Some(Epoch(1_000)),
        sessions: sessions.iter().map(|(endpoint, sessions)| (EndpointId(*endpoint), *sessions)).collect(),
        ..NodeReport::default()
    };
    node.hear(2, "b", heard(&[])).await;
    populate(&client).await;
    let pool = client.get("/v1/pools/app").await.expect(200);
    let id = client.post("/v1/pools/app/endpoints/app-1/drain", r#"{"mode":"sessions"}"#).await.expect(200);
    let path = format!("/v1/drains/{}", id["drain"].as_str().unwrap());
    assert_eq!(client.get(&path).await.expect(200)["sessions"], 0, "{pool}");
    let endpoint = node.table(|table| table.epoch >= Epoch(2)).await.endpoints().map(|(_, e)| e.id.0).min().unwrap();
    node.hear(2, "b", heard(&[(endpoint, 5), (endpoint + 1, 7)])).await;
    assert_eq!(client.get(&path).await.expect(200)["sessions"], 5);
    client.post("/v1/prestop?address=10.0.0.1:4000&timeout_seconds=1", "").await.expect(200);
    assert_eq!(client.get(&path).await.expect(200)["sessions"], json!(null), "they are not let in any more");
}
