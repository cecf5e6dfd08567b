//! Bad input is a clear error and nothing else: nothing changes, nobody else notices.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::fleet::Fleet;
use crate::support::http::{H2, get, h1};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_says_what_is_wrong_and_changes_nothing() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let api = fleet.nodes[0].api;
    let before = api.get("/v1/status").await;
    let cases: &[(Method, &str, &str, u16, &str)] = &[
        (Method::PUT, "/v1/pools/x", r#"{"protocl":"h2c"}"#, 400, "protocl"),
        (Method::PUT, "/v1/pools/x", r#"{"protocol":7}"#, 400, "protocol"),
        (Method::PUT, "/v1/pools/x", "{", 400, ""),
        (Method::PUT, "/v1/pools/BAD", "{}", 400, "name"),
        (Method::PUT, "/v1/pools/demo/endpoints/y", r#"{"address":"nonsense"}"#, 400, "address"),
        (Method::PUT, "/v1/pools/demo/endpoints/y", r#"{"address":"h:1","weight":0}"#, 400, "weight"),
        (Method::PUT, "/v1/pools/nope/endpoints/y", r#"{"address":"h:1"}"#, 404, "nope"),
        (Method::PUT, "/v1/routes/second", r#"{"pool":"demo"}"#, 409, "demo"),
        (Method::DELETE, "/v1/pools/demo", "", 409, "demo"),
        (Method::GET, "/v1/nothing", "", 404, ""),
        (Method::PATCH, "/v1/pools", "", 405, ""),
    ];
    for (method, path, body, status, mentions) in cases {
        let answer = api.send_raw(method.clone(), path, Bytes::from(body.to_string())).await.expect("an answer");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), *status, "{method} {path} {body}: {text}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
        assert!(text.contains(mentions), "{method} {path} {body}: {text}");
    }
    let address = fleet.endpoints[0].address.to_string();
    let twin = api.send(Method::PUT, "/v1/pools/demo/endpoints/twin", Some(json!({ "address": address }))).await;
    assert_eq!(twin.expect("an answer").status, 409, "an address is one endpoint's");
    let after = api.get("/v1/status").await;
    assert_eq!((&before["pools"], &before["routes"]), (&after["pools"], &after["routes"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_cookie_and_a_huge_header_harm_nobody() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let node = &fleet.nodes[0];
    let h2 = H2::connect(node.http).await.expect("a connection");
    let real = h2.get("/counter", "").await.expect("an answer").cookie("tidelock").expect("a pin");
    let mut forged = real.clone().into_bytes();
    let last = forged.len() - 5;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("ASCII");
    let long = format!("tidelock={}", "A".repeat(3_000));
    for cookie in [forged.as_str(), "tidelock=", "tidelock=;;;", long.as_str()] {
        let answer = h2.get("/counter", cookie).await.expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.header("tidelock-affinity")), (200, Some("new")), "{cookie}");
    }

    let mut stream = tokio::net::TcpStream::connect(node.http).await.expect("a connection");
    let huge = format!("GET / HTTP/1.1\r\nHost: demo.test\r\nX-Huge: {}\r\n\r\n", "x".repeat(1 << 20));
    // The balancer may answer and close before it has read all of it.
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{:?}", String::from_utf8_lossy(&answer));

    let mut request = get("/counter", "");
    request.headers_mut().insert("x-huge", "x".repeat(40_000).parse().expect("a header"));
    match h2.exchange(request, 1).await {
        Ok(answer) => assert_eq!(answer.status, 431),
        Err(error) => panic!("the stream should be answered: {error:?}"),
    }
    let answer = h2.get("/counter", &real).await.expect("the same connection goes on");
    assert_eq!(answer.header("tidelock-affinity"), Some("kept"));
    let answer = h1(node.http, get("/counter", &real)).await.expect("and so do others");
    assert_eq!(answer.status, 200);
}
