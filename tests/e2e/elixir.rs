//! Real endpoints on the BEAM: Elixir and Cowboy. What Cowboy itself records of each upload tells
//! whether a request that was not whole ever looked whole to it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::beam::{Beam, beam};
use crate::support::eventually;
use crate::support::fleet::Fleet;
use crate::support::http::{H2, get, h1, post};
use crate::support::process::Folder;
use crate::support::websocket::WebSocket;

/// What Cowboy has seen of the upload with this tag.
async fn account(beams: &[Beam], tag: &str) -> Option<Value> {
    for beam in beams {
        let log = h1(beam.address, get("/log", "")).await.expect("the endpoint answers").json();
        let entries = log.as_array().expect("a list");
        if let Some(entry) = entries.iter().find(|entry| entry["tag"] == tag) {
            return Some(entry.clone());
        }
    }
    None
}

/// How Cowboy saw the upload with this tag end; None while it has not.
async fn ended(beams: &[Beam], tag: &str) -> Option<Value> {
    account(beams, tag).await.filter(|entry| entry["ended"] != "open")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cowboy_keeps_its_sessions_and_sees_aborts_as_resets() {
    let folder = Folder::new();
    let (one, two) = tokio::join!(beam("cow-1", &folder), beam("cow-2", &folder));
    let mut beams = [one, two];
    let fleet = Fleet::start(1).await;
    let node = &fleet.nodes[0];
    node.api.put("/v1/pools/beam", json!({ "protocol": "h2c" })).await;
    for beam in &beams {
        let path = format!("/v1/pools/beam/endpoints/{}", beam.name);
        node.api.put(&path, json!({ "address": beam.address.to_string() })).await;
    }
    let last = node.api.put("/v1/routes/beam", json!({ "pool": "beam", "expose": true })).await;
    fleet.until_epoch(last["epoch"].as_u64().expect("an epoch")).await;
    let h2 = H2::connect(node.http).await.expect("a connection");

    // A session stays, over HTTP/2, HTTP/1.1 and a WebSocket.
    let first = h2.get("/counter?sid=s1", "").await.expect("an answer");
    let (pin, home) = (first.cookie("tidelock").expect("a pin"), first.json()["endpoint"].clone());
    for count in 2..6 {
        let seen = h2.get("/counter?sid=s1", &pin).await.expect("an answer").json();
        assert_eq!((&seen["endpoint"], &seen["count"]), (&home, &json!(count)));
    }
    let seen = h1(node.http, get("/counter?sid=s1", &pin)).await.expect("an answer").json();
    assert_eq!(seen["endpoint"], home);
    let mut socket = WebSocket::open(node.http, &pin).await.expect("a WebSocket");
    socket.echo("through the balancer").await.expect("an echo");
    // On a stream (RFC 8441), which Cowboy takes.
    let at_home = beams.iter().find(|beam| home == beam.name).expect("one of the two");
    let entries = h1(at_home.address, get("/log", "")).await.expect("the log").json();
    let sockets = entries.as_array().expect("a list").iter().filter(|entry| entry["kind"] == "websocket");
    assert_eq!(sockets.map(|entry| &entry["version"]).collect::<Vec<_>>(), ["HTTP/2"], "{entries}");

    // Whole uploads are whole, of every shape of frames.
    for (i, size) in [1, 200, 16_384, 16_385, 40_000, 300_000].into_iter().enumerate() {
        let tag = format!("whole-{i}");
        let body = Bytes::from(vec![b'x'; size]);
        let answer = h2.exchange(post(&format!("/upload?tag={tag}"), &pin, body), 7_000).await.expect("an answer");
        assert_eq!((answer.status.as_u16(), &answer.json()["bytes"]), (200, &json!(size)));
        let seen = eventually("Cowboy's account", Duration::from_secs(10), async || ended(&beams, &tag).await).await;
        assert_eq!((&seen["ended"], &seen["bytes"]), (&json!("complete"), &json!(size)), "{seen}");
    }

    // Half of an upload, then RST_STREAM(CANCEL) from the client.
    let stream = tokio::net::TcpStream::connect(node.http).await.expect("a connection");
    let (send, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    let request = http::Request::post("http://demo.test/upload?tag=half").header("content-length", 20_000);
    let mut send = send.ready().await.expect("a stream");
    let (response, mut body) = send.send_request(request.body(()).expect("fixed parts"), false).expect("it is sent");
    body.send_data(Bytes::from(vec![1; 10_000]), false).expect("half of it");
    eventually("the first half reaches Cowboy", Duration::from_secs(10), async || {
        account(&beams, "half").await.filter(|entry| entry["bytes"].as_u64() == Some(10_000))
    })
    .await;
    body.send_reset(h2::Reason::CANCEL);
    drop(response);
    let seen =
        eventually("Cowboy's account of the half", Duration::from_secs(10), async || ended(&beams, "half").await).await;
    assert_eq!((&seen["ended"], &seen["end_stream"]), (&json!("reset"), &json!(false)), "{seen}");
    assert_eq!(seen["code"], "cancel", "{seen}");

    // An early refusal comes back whole, whatever of the request is still on its way.
    for size in [40_000, 1_000_000] {
        let body = Bytes::from(vec![2; size]);
        let answer = h2.exchange(post("/upload-ignored", &pin, body), 16_000).await.expect("a whole answer");
        assert_eq!(answer.status.as_u16(), 429);
    }

    // Uploads that their app does not read yet, of more than the connection's window, hold up nobody.
    let body = Bytes::from(vec![4; 100_000]);
    let late = (0..8).map(|_| h2.exchange(post("/upload?tag=late&read_ms=3000", &pin, body.clone()), 16_000));
    let late = futures_util::future::join_all(late);
    let beside = async {
        eventually("Cowboy has begun with them", Duration::from_secs(10), async || account(&beams, "late").await).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let asked = std::time::Instant::now();
        let body = Bytes::from(vec![5; 30_000]);
        let answer = h2.exchange(post("/upload?tag=beside", &pin, body), 16_000).await.expect("an answer");
        assert_eq!(answer.json()["bytes"], 30_000);
        socket.echo("not held up").await.expect("an echo");
        asked.elapsed()
    };
    let (late, beside) = tokio::join!(late, beside);
    for answer in late {
        assert_eq!(answer.expect("an answer").json()["bytes"], 100_000);
    }
    assert!(beside < Duration::from_secs(1), "{beside:?}");

    // A drain: the WebSocket goes on, the session moves, and then the node may stop.
    let home = home.as_str().expect("a name").to_owned();
    let drain = node.api.drain("beam", &home, json!({ "pace": 0 })).await;
    // The gate closes first, and a moment later the worker has the table that says why.
    let moved = eventually("the session moves", Duration::from_secs(10), async || {
        let answer = h2.get("/counter?sid=s1", &pin).await.expect("an answer");
        (answer.header("tidelock-affinity") == Some("moved:draining")).then_some(answer)
    })
    .await;
    assert_ne!(moved.json()["endpoint"], json!(home));
    socket.echo("still here").await.expect("the WebSocket goes on");
    assert_eq!(node.api.get(&format!("/v1/drains/{drain}")).await["safe"], false);
    socket.close().await.expect("a clean close");
    eventually("the drain is safe", Duration::from_secs(20), async || {
        (node.api.get(&format!("/v1/drains/{drain}")).await["safe"] == true).then_some(())
    })
    .await;
    let gone = beams.iter_mut().find(|beam| beam.name == home).expect("one of the two");
    gone.process.signal("TERM");
    for _ in 0..20 {
        let answer = h2.get("/counter?sid=s1", "").await.expect("an answer");
        assert_eq!(answer.status.as_u16(), 200);
    }
}
