//! The admin API as a program uses it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::Value;

use super::http::{Answer, NotWhole, h1};

/// What a node asks for that can be reached from elsewhere.
pub(crate) const TOKEN: &str = "the-token-of-the-tests";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Api(pub SocketAddr);

impl Api {
    pub(crate) async fn send(self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, NotWhole> {
        let body = body.map_or(Bytes::new(), |body| body.to_string().into());
        self.send_raw(method, path, body).await
    }

    pub(crate) async fn send_raw(self, method: Method, path: &str, body: Bytes) -> Result<Answer, NotWhole> {
        let mut request = Request::builder().method(method).uri(path).header("host", self.0.to_string());
        if !self.0.ip().is_loopback() {
            request = request.header("authorization", format!("Bearer {TOKEN}"));
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json").header("content-length", body.len());
        }
        h1(self.0, request.body(body).expect("a request of fixed parts")).await
    }

    pub(crate) async fn get(self, path: &str) -> Value {
        let answer = self.send(Method::GET, path, None).await.expect("the API answers");
        assert_eq!(answer.status, StatusCode::OK, "{path}: {:?}", answer.body);
        answer.json()
    }

    /// A write that must be applied; its answer.
    pub(crate) async fn write(self, method: Method, path: &str, body: Option<Value>) -> Value {
        let answer = self.send(method.clone(), path, body).await.expect("the API answers");
        assert_eq!(answer.status, StatusCode::OK, "{method} {path}: {:?}", answer.body);
        let json = answer.json();
        assert_eq!(json["outcome"], "applied", "{method} {path}: {json}");
        json
    }

    pub(crate) async fn put(self, path: &str, body: Value) -> Value {
        self.write(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn drain(self, pool: &str, endpoint: &str, body: Value) -> String {
        let path = format!("/v1/pools/{pool}/endpoints/{endpoint}/drain");
        let answer = self.write(Method::POST, &path, Some(body)).await;
        answer["drain"].as_str().expect("a drain has an id").to_owned()
    }
}
