use super::*;
use crate::BearerToken;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What is open, and what is not: every kind of path, with and without the token.
#[tokio::test]
async fn the_token_is_asked_for_everywhere_but_at_probes_and_the_dashboard() {
    let mut config = config();
    config.admin.token = Some(BearerToken::new(TOKEN).unwrap());
    let node = TestNode::start(config, &[1]).await;
    node.ready().await;
    let anonymous = Client::new(node.addr());
    let wrong = anonymous.with("authorization", "Bearer fedcba9876543210fedcba9876543210");
    let right = anonymous.with("authorization", &format!("Bearer {TOKEN}"));
    let closed = [
        ("GET", "/v1/status"),
        ("GET", "/v1/pools"),
        ("GET", "/v1/pools/app"),
        ("PATCH", "/v1/pools/app"),
        ("PUT", "/v1/pools/app"),
        ("DELETE", "/v1/pools/app"),
        ("GET", "/v1/events"),
        ("POST", "/v1/nodes/self/leave"),
        ("GET", "/v1/nothing"),
        ("GET", "/v1"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    ];
    for (method, path) in closed {
        for client in [&anonymous, &wrong] {
            let answer = client.call(method, path, b"").await;
            assert_eq!(answer.problem(401), "unauthorized", "{method} {path}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"tidelock\""));
        }
    }
    for path in ["/v1/status", "/metrics", "/openapi.json"] {
        assert_eq!(right.get(path).await.status, 200, "{path}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(anonymous.get(path).await.status, 200, "{path}");
    }
    assert_ne!(anonymous.get("/").await.status, 401);
    assert_eq!(anonymous.get("/missing.js").await.status, 404);
}

#[tokio::test]
async fn pages_of_other_sites_get_nothing_from_a_node_without_a_token() {
    let (node, client) = ready().await;
    let rebound = client.with("host", "attacker.example:9900");
    assert_eq!(rebound.get("/v1/status").await.problem(403), "forbidden");
    let foreign = client.with("origin", "https://attacker.example");
    assert_eq!(foreign.post("/v1/nodes/self/leave", "").await.problem(403), "forbidden");
    assert_eq!(client.with("sec-fetch-site", "cross-site").delete("/v1/pools/a").await.problem(403), "forbidden");
    assert_eq!(node.plane.leave().state(), crate::LeaveState::Serving);
    let own = client.with("origin", &format!("http://{}", node.addr()));
    own.put("/v1/pools/app", "{}").await.expect(200);
}
