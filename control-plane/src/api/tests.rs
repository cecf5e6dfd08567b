//! The API as clients meet it, over a socket, before a control plane that agrees with itself.

use std::time::Duration;

use serde_json::json;
use tidelock_core::id::{EndpointId, Epoch};
use tidelock_core::report::NodeReport;

use crate::fleet::consensus::ProposeError;
use crate::fleet::tests::node::{TestNode, config};
use client::Client;

mod access;
mod client;
mod document;
mod draining;
mod hostile;
mod join;
mod reads;
mod refusals;
mod replicated;
mod sessions;
mod writes;

/// A node that is ready, and a client of it.
async fn ready() -> (TestNode, Client) {
    let node = TestNode::alone().await;
    node.ready().await;
    let client = Client::new(node.addr());
    (node, client)
}

/// The pool `app` with the endpoints `app-1` (id 2) and `app-2` (id 3), and a route to it.
async fn populate(client: &Client) {
    client.put("/v1/pools/app", "{}").await.expect(200);
    client.put("/v1/pools/app/endpoints/app-1", r#"{"address":"10.0.0.1:4000","revision":"v1"}"#).await.expect(200);
    client.put("/v1/pools/app/endpoints/app-2", r#"{"address":"10.0.0.2:4000","weight":2}"#).await.expect(200);
    client.put("/v1/routes/web", r#"{"host":"example.com","pool":"app"}"#).await.expect(200);
}
