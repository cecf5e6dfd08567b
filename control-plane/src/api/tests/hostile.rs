use super::*;
use crate::hostile::mutate::{Damage, cases};

const REQUESTS: [(&str, &str, &str); 9] = [
    ("PUT", "/v1/pools/app", r#"{"protocol":"h2c","timeouts":{"connect_ms":100},"limits":{"max_requests":8}}"#),
    ("PUT", "/v1/pools/app/endpoints/app-1", r#"{"address":"10.0.0.1:4000","weight":2,"revision":"v1"}"#),
    ("PUT", "/v1/routes/web", r#"{"host":"example.com","pool":"app","affinity":{"kind":"header","name":"x-user"}}"#),
    ("POST", "/v1/pools/app/endpoints/app-1/drain", r#"{"mode":"streams","deadline_ms":5000,"reason":"x"}"#),
    ("POST", "/v1/join-tokens", r#"{"role":"voter","ttl_seconds":60}"#),
    ("PUT", "/v1/nodes/a", r#"{"role":"voter"}"#),
    ("DELETE", "/v1/join-tokens/3fa1b2c4d5e6", ""),
    ("DELETE", "/v1/pools/app", ""),
    ("GET", "/v1/drains/d9?wait=no&timeout_seconds=1", ""),
];

/// Whatever a client sends is answered, and is never this node's own fault.
#[tokio::test]
async fn damaged_requests_are_answered_and_are_no_internal_errors() {
    let (_node, client) = ready().await;
    populate(&client).await;
    let client = client.with("content-type", "application/json");
    // A request is a hundred times as dear as a decoder.
    for case in 0..cases() / 10 {
        let mut damage = Damage(case);
        let (method, path, _) = REQUESTS[case as usize % REQUESTS.len()];
        let bodies: Vec<Vec<u8>> = REQUESTS.iter().map(|(_, _, body)| body.as_bytes().to_vec()).collect();
        let body = match case % 2 {
            0 => damage.damaged(&[bodies[case as usize % REQUESTS.len()].clone()]),
            _ => damage.damaged(&bodies),
        };
        let path = if case % 5 == 0 { escaped(&damage.damaged(&[path.as_bytes().to_vec()])) } else { path.into() };
        let answer = client.call(method, &path, &body).await;
        let expected = [200, 202, 400, 404, 405, 409, 413, 414, 415, 422].contains(&answer.status);
        assert!(expected, "case {case}: {method} {path} {body:?}: {} {}", answer.status, answer.text());
    }
    client.get("/v1/status").await.expect(200);
}

/// Of the characters that end a path or a line nothing is left; the rest is as it is.
fn escaped(path: &[u8]) -> String {
    let character = |byte: &u8| match byte {
        b'#' | 0..=b' ' | 0x7f.. => format!("%{byte:02x}"),
        byte => char::from(*byte).to_string(),
    };
    let path: String = path.iter().take(4_000).map(character).collect();
    if path.starts_with('/') { path } else { format!("/{path}") }
}
