//! Windows (section 5.2, 6.9).

use super::*;

/// Section 6.9.2: the window of a stream may be below zero, and nothing is sent until it is above.
#[tokio::test]
async fn a_window_below_zero_is_kept() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    client.raw(&settings(&[(4, 10)])).await;
    client.headers(1, &GET, true).await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.respond(at, "200", &[b'x'; 40]).await;
    client.expect_headers().await;
    assert_eq!(client.expect_data().await.1.len(), 10);
    client.raw(&settings(&[(4, 4)])).await;
    client.quiet().await;
    client.window_update(1, 6).await;
    client.quiet().await;
    client.window_update(1, 3).await;
    assert_eq!(client.expect_data().await.1.len(), 3);
    client.raw(&settings(&[(4, 100)])).await;
    assert_eq!(client.expect_data().await, (1, vec![b'x'; 27], true));
}

/// What a client sends beyond its window costs it the stream, and the connection's the connection.
#[tokio::test]
async fn a_window_is_not_passed() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    client.headers(1, &POST, false).await;
    // The endpoint never reads: 65,535 bytes are at it, and as many as the client's window says here.
    for _ in 0..40 {
        client.raw(&data(1, &[0; 16_384], false)).await;
    }
    assert_eq!(client.expect_reset(1).await, FLOW_CONTROL_ERROR);
    serves(&mut client, &endpoint, 3).await;
}
