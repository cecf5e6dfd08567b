//! The OpenAPI document, made from the routes themselves: what is not a route is not in it.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa::{PartialSchema, ToSchema};

use super::error::Problem;
use super::write::Written;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let json = document().to_json().expect("a document of strings, numbers and lists");
    Bytes::from(json)
});

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "openapi",
    responses((status = 200, content_type = "application/json", body = serde_json::Value)))]
pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

pub(super) fn document() -> OpenApi {
    let mut document = super::protected().into_openapi();
    document.merge(super::open().into_openapi());
    "Tidelock".clone_into(&mut document.info.title);
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    document.info.description = Some(
        "The Admin API of a Tidelock fleet. Every node answers every request. A write has three outcomes: applied \
         at an epoch (200), rejected (4xx), or unknown (503: repeat it with the same Idempotency-Key). Errors are \
         problem+json (RFC 9457). Every answer carries the header tidelock-epoch."
            .to_owned(),
    );
    let components = document.components.get_or_insert_with(Components::new);
    // The router collects schemas of single answers, but not of the shared lists of answers.
    for (name, schema) in [(Written::name(), Written::schema()), (Problem::name(), Problem::schema())] {
        components.schemas.insert(name.into_owned(), schema);
    }
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    document
}
