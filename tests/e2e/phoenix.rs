//! phoenix.js itself, from npm, through a drain.

use serde_json::json;

use crate::browser;
use crate::support::fleet::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phoenix_js_comes_back_from_a_drain_by_itself() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    browser::run(&fleet, "phoenix.mjs").await;
}
