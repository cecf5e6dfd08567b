//! What the node reports of its endpoints: what is alive on them, by kind, and which sessions still come.

use std::time::Duration;

use tidelock_core::command::{Command, DrainMode};
use tidelock_core::report::{Counts, NodeReport};

use crate::drains::{closed, counts};
use crate::fleet::{Endpoint, Fleet, H2c, config, name, route};
use crate::frames::{Event, Peer};

/// Several workers: the report speaks for all of them.
#[tokio::test]
async fn reports_speak_for_every_worker() {
    let a = Endpoint::listen("a").await;
    let fleet = Fleet::serving(tidelock_balancer::Config { workers: 4, ..config() }, H2c, &[&a]).await;
    let (finish, finished) = tokio::sync::watch::channel(false);
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = fleet.h2().await;
        let stream = client.get("/").await;
        clients.push((client, stream));
    }
    let serve = async {
        // Each worker has a connection of its own; which worker got which client is the kernel's
        // choice.
        loop {
            let mut upstream = Peer::endpoint(a.accept_patiently().await, &[]).await;
            let mut finished = finished.clone();
            tokio::spawn(async move {
                let mut streams = Vec::new();
                while !*finished.borrow_and_update() {
                    for event in upstream.ping().await {
                        if let Event::Headers { stream, .. } = event {
                            upstream.headers(stream, &[(":status", "200")], false).await;
                            streams.push(stream);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                for stream in streams {
                    upstream.data(stream, b"end", true).await;
                }
                closed(&mut upstream).await;
            });
        }
    };
    let check = async {
        fleet.counted(&a, counts(12, 0)).await;
        fleet.drain(&a, DrainMode::Streams, None).await;
        assert_eq!(fleet.count_now(&a), counts(12, 0));
        finish.send_replace(true);
        for (client, stream) in &mut clients {
            assert_eq!(client.response(*stream).await.whole(), ("200", &b"end"[..]));
        }
        fleet.counted(&a, counts(0, 0)).await;
    };
    tokio::select! {
        () = serve => unreachable!(),
        () = check => {}
    }
}

/// Who drains with sessions is told about how many still come.
#[tokio::test]
async fn sessions_that_come_to_a_drain_are_reported() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut upstream = None;
    let mut cookies = Vec::new();
    for _ in 0..3 {
        let stream = client.get("/").await;
        if upstream.is_none() {
            upstream = Some(endpoint.h2().await);
        }
        let upstream = upstream.as_mut().unwrap();
        let request = upstream.expect_request().await;
        upstream.respond(request.stream, "200", b"").await;
        let response = client.response(stream).await;
        cookies.push(response.field("set-cookie").unwrap().split(';').next().unwrap().to_owned());
    }
    let upstream = upstream.as_mut().unwrap();
    let id = fleet.id(&endpoint);
    fleet.drain(&endpoint, DrainMode::Sessions, None).await;
    let of = |report: &NodeReport| report.sessions.get(&id).copied();
    fleet.reported(|report| of(report).is_none()).await;
    // Two sessions, one of them twice.
    for cookie in [&cookies[0], &cookies[1], &cookies[0]] {
        let stream = client.request("GET", "/", &[("cookie", cookie)], true).await;
        let request = upstream.expect_request().await;
        upstream.respond(request.stream, "200", b"").await;
        client.response(stream).await.whole();
    }
    fleet.reported(|report| of(report) == Some(2)).await;
    fleet.cancel_drain(&endpoint).await;
    fleet.reported(|report| of(report).is_none()).await;
}

/// They end by themselves: nothing closes them, and a drain waits for them as for any request.
#[tokio::test]
async fn long_polls_are_counted_apart_where_the_profile_knows_them() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let spec = route(r#"{"pool":"app","expose":true,"profile":"phoenix"}"#);
    fleet.apply(Command::PutRoute { name: name("web"), spec });
    fleet.adopted().await;
    let mut client = fleet.h2().await;
    let poll = client.get("/socket/longpoll?vsn=2").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    client.get("/other").await;
    upstream.expect_request().await;
    fleet.counted(&endpoint, Counts { requests: 2, long_polls: 1, ..Counts::default() }).await;
    assert_eq!(fleet.count_now(&endpoint).lasting(), 0);
    upstream.respond(at, "200", b"{}").await;
    client.response(poll).await.whole();
    fleet.counted(&endpoint, counts(1, 0)).await;
}
