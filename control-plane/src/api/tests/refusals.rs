use super::*;

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let (_node, client) = ready().await;
    for path in ["/v1", "/v1/", "/v1/nothing", "/v1/pools/app/endpoints", "/nothing.txt", "/v1/pools/app/"] {
        assert_eq!(client.get(path).await.problem(404), "not-found", "{path}");
    }
    let answer = client.call("PATCH", "/v1/pools/app", b"").await;
    assert_eq!(answer.problem(405), "method-not-allowed");
    let allow = answer.header("allow").unwrap();
    assert!(["GET", "PUT", "DELETE"].iter().all(|method| allow.contains(method)), "{allow}");
    assert_eq!(client.post("/livez", "").await.problem(405), "method-not-allowed");
    assert_eq!(client.post("/nothing", "").await.problem(405), "method-not-allowed");
}

#[tokio::test]
async fn bad_names_are_named() {
    let (_node, client) = ready().await;
    for path in ["/v1/pools/App", "/v1/pools/-a", "/v1/routes/a%20b", "/v1/pools/%ff", "/v1/drains/9", "/v1/drains/dx"]
    {
        let answer = client.get(path).await;
        assert_eq!(answer.problem(400), "invalid-request", "{path}");
        assert_eq!(answer.json()["problems"][0]["field"], "path");
    }
    let detail = client.get("/v1/pools/App").await.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("\"App\" is not a name"), "{detail}");
}

#[tokio::test]
async fn bodies_that_do_not_fit_name_the_field_and_the_line() {
    let (_node, client) = ready().await;
    let cases = [
        ("/v1/pools/app", "{", "", "EOF"),
        ("/v1/pools/app", "", "", "EOF"),
        ("/v1/pools/app", "[]", "", "is a JSON object"),
        ("/v1/pools/app", "7", "", "invalid type: integer"),
        ("/v1/pools/app", "{} {}", "", "trailing"),
        ("/v1/pools/app", "{\n\"protokol\":\"h2c\"}", "protokol", "unknown field `protokol`"),
        ("/v1/pools/app", r#"{"protocol":"spdy"}"#, "protocol", "unknown variant `spdy`"),
        ("/v1/pools/app", r#"{"timeouts":{"connect_ms":"5"}}"#, "timeouts.connect_ms", "invalid type"),
        ("/v1/pools/app", r#"{"timeouts":{"connect_ms":0}}"#, "timeouts.connect_ms", "milliseconds"),
        ("/v1/pools/app/endpoints/a", "{}", "", "missing field `address`"),
        ("/v1/pools/app/endpoints/a", r#"{"address":"nonsense"}"#, "address", "is not an address"),
        ("/v1/pools/app/endpoints/a", r#"{"address":"a:1","weight":0}"#, "weight", "is not a weight"),
        ("/v1/routes/web", r#"{"pool":"app","affinity":{"kind":"luck"}}"#, "affinity.kind", "unknown variant"),
        ("/v1/routes/web", r#"{"pool":"App"}"#, "pool", "is not a name"),
    ];
    for (path, body, field, detail) in cases {
        let answer = client.put(path, body).await;
        assert_eq!(answer.problem(400), "invalid-request", "{body}");
        let problem = &answer.json()["problems"][0];
        assert_eq!(problem["field"].as_str().unwrap(), field, "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{body}: {problem}");
    }
    let lines = client.put("/v1/pools/app", "{\n\"protokol\":\"h2c\"}").await.json()["detail"].to_string();
    assert!(lines.contains("line 2"), "{lines}");
}

#[tokio::test]
async fn bodies_of_another_type_or_size_are_refused() {
    let (_node, client) = ready().await;
    let form = client.with("content-type", "application/x-www-form-urlencoded");
    assert_eq!(form.call("PUT", "/v1/pools/app", b"{}").await.problem(415), "not-json");
    assert_eq!(client.call("PUT", "/v1/pools/app", b"{}").await.problem(415), "not-json");
    let vendor = client.with("content-type", "application/vnd.x+json; charset=utf-8");
    vendor.call("PUT", "/v1/pools/app", b"{}").await.expect(200);
    let blanks = " ".repeat(crate::api::BODY_MAX + 1);
    assert_eq!(client.put("/v1/pools/app", &blanks).await.problem(413), "body-too-large");
    let exact = format!("{{}}{}", " ".repeat(crate::api::BODY_MAX - 2));
    client.put("/v1/pools/app", &exact).await.expect(200);
}

#[tokio::test]
async fn misspelt_parameters_are_refused_and_write_nothing() {
    let (_node, client) = ready().await;
    for query in
        ["dryrun=true", "dry_run=maybe", "wait=forever", "wait=fleet&timeout_seconds=0", "wait=fleet&wait=fleet"]
    {
        assert_eq!(
            client.put(&format!("/v1/pools/app?{query}"), "{}").await.problem(400),
            "invalid-request",
            "{query}"
        );
    }
    assert_eq!(client.get("/v1/status?consistency=strong").await.problem(400), "invalid-request");
    assert_eq!(client.get("/v1/events?since=3").await.problem(400), "invalid-request");
    assert_eq!(client.get("/v1/pools/app").await.problem(404), "not-found");
}

#[tokio::test]
async fn idempotency_keys_are_checked() {
    let (_node, client) = ready().await;
    for bad in ["", "with blank", &"x".repeat(129), "ü"] {
        let answer = client.with("idempotency-key", bad).put("/v1/pools/app", "{}").await;
        assert_eq!(answer.problem(400), "invalid-request", "{bad:?}");
        assert_eq!(answer.json()["problems"][0]["field"], "idempotency-key");
    }
    let twice = client.with("idempotency-key", "a").with("idempotency-key", "b");
    assert_eq!(twice.put("/v1/pools/app", "{}").await.problem(400), "invalid-request");
}
