//! The dashboard, embedded from its build. Without one the binary builds as well and `/` says how
//! to make it. Open to all: it holds no data, and asks the API with the token that a person gives.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use rust_embed::RustEmbed;

use crate::api::error::Problem;

#[derive(RustEmbed)]
#[folder = "../admin-ui/dist"]
#[allow_missing = true]
struct Dist;

struct File {
    mime: String,
    data: Cow<'static, [u8]>,
}

const INDEX: &str = "index.html";

/// Scripts, styles and requests from this origin alone, in no frame: what would run in the page
/// could drain the fleet.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// Vite names what is below /assets after its content.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

const NOT_BUILT: &str = "This binary was built without the dashboard. To build it in:\n\n    \
     cd admin-ui && npm ci && npm run build && cd .. && cargo build\n\n\
     The Admin API is below /v1 and described in /openapi.json.\n";

/// A file; the page itself for its own paths, which have no extension; or 404.
pub(crate) fn serve(method: &Method, path: &str) -> Response {
    respond(method, path, |name| {
        let file = Dist::get(name)?;
        Some(File { mime: file.metadata.mimetype().to_owned(), data: file.data })
    })
}

fn respond(method: &Method, path: &str, files: impl Fn(&str) -> Option<File>) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let allowed = [(header::ALLOW, HeaderValue::from_static("GET, HEAD"))];
        return (allowed, Problem::method_not_allowed(method)).into_response();
    }
    let name = path.trim_start_matches('/');
    // In a debug build files come from the disk: never a path that climbs.
    let plain = !name.split('/').any(|part| matches!(part, "." | "..")) && !name.contains('\\');
    let wanted = if name.is_empty() { INDEX } else { name };
    if let Some(file) = plain.then(|| files(wanted)).flatten() {
        return answer(wanted, file);
    }
    let page = plain && !name.rsplit('/').next().unwrap_or(name).contains('.');
    match files(INDEX) {
        Some(file) if page => answer(INDEX, file),
        None if name.is_empty() => ([(header::CACHE_CONTROL, REVALIDATE)], NOT_BUILT).into_response(),
        _ => Problem::unknown_path(path).into_response(),
    }
}

fn answer(name: &str, file: File) -> Response {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_str(&content_type(&file.mime));
    headers.insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    let cache = if name.starts_with("assets/") { IMMUTABLE } else { REVALIDATE };
    headers.insert(header::CACHE_CONTROL, cache);
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let body = match file.data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    (StatusCode::OK, headers, body).into_response()
}

/// Text without a charset is guessed at by browsers.
fn content_type(mime: &str) -> String {
    let text = mime.starts_with("text/") || mime == "application/javascript" || mime == "application/json";
    if text { format!("{mime}; charset=utf-8") } else { mime.to_owned() }
}

#[cfg(test)]
mod tests;
