//! From a request to values that are valid. Every refusal is a [`Problem`], which axum's own
//! extractors do not make.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidelock_core::command::IdempotencyKey;
use tidelock_core::id::{DrainId, Name, SwitchoverId};
use utoipa::IntoParams;

use super::error::{self, Problem};

/// The names in the path.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Segments(Path::<T>::from_request_parts(parts, state).await?.0))
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct PoolPath {
    #[param(value_type = String)]
    pub(crate) pool: Name,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct EndpointPath {
    #[param(value_type = String)]
    pub(crate) pool: Name,
    #[param(value_type = String)]
    pub(crate) endpoint: Name,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct RoutePath {
    #[param(value_type = String)]
    pub(crate) route: Name,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct DrainPath {
    #[param(value_type = String, example = "d9")]
    pub(crate) drain: DrainId,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SwitchoverPath {
    #[param(value_type = String, example = "s9")]
    pub(crate) switchover: SwitchoverId,
}

/// The query. Unknown parameters are refused by the types: a misspelt `dry_run` must not write.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Params(Query::<T>::from_request_parts(parts, state).await?.0))
    }
}

/// For paths that take no parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadParams {
    /// `linearizable` asks the leader first; the default answers from this node at once.
    #[serde(default)]
    #[param(value_type = Option<String>, example = "linearizable")]
    pub(crate) consistency: Consistency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Consistency {
    #[default]
    Local,
    Linearizable,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteParams {
    /// `fleet` answers when every live node routes by the new epoch, or 202 when the time is over.
    #[param(value_type = Option<String>, example = "fleet")]
    pub(crate) wait: Option<WaitFor>,
    /// For `wait=fleet`, 1 to 30; 30 by default.
    pub(crate) timeout_seconds: Option<u64>,
    /// Says what the write would come to, without writing.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WaitFor {
    Fleet,
}

/// The client's Idempotency-Key, if it sent one.
pub(crate) struct RepeatKey(pub(crate) Option<IdempotencyKey>);

impl<S: Send + Sync> FromRequestParts<S> for RepeatKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        const NAME: &str = "idempotency-key";
        let mut values = parts.headers.get_all(NAME).iter();
        let Some(value) = values.next() else { return Ok(RepeatKey(None)) };
        if values.next().is_some() {
            return Err(Problem::invalid(NAME, "the header stands there more than once"));
        }
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        IdempotencyKey::try_from(text).map(|key| RepeatKey(Some(key))).map_err(|detail| Problem::invalid(NAME, detail))
    }
}

/// A JSON body, parsed into a valid value.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let typed = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await?;
        if !typed {
            return Err(not_json());
        }
        parse(&bytes).map(Body)
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalBody<T>(pub(crate) Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let typed = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await?;
        match (bytes.is_empty(), typed) {
            (true, _) => Ok(OptionalBody(None)),
            (false, false) => Err(not_json()),
            (false, true) => parse(&bytes).map(|body| OptionalBody(Some(body))),
        }
    }
}

/// Asking for the type keeps forms of foreign web pages out as well: they cannot send it.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn not_json() -> Problem {
    let detail = "Send the body as JSON, with content-type: application/json.";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "Unsupported media type", detail)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Serde also takes a list of a struct's fields in their order, which no document describes.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::invalid("", "the body is a JSON object, not a list, at line 1"));
    }
    axum::Json::<T>::from_bytes(bytes).map(|json| json.0).map_err(|rejection| {
        // Parsed again for serde's message alone, to tell it from the path before it.
        let message = serde_json::from_slice::<T>(bytes).err().map(|error| error.to_string()).unwrap_or_default();
        error::unfit_body(&rejection, &message)
    })
}
