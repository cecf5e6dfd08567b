//! Every error of the Admin API as problem+json (RFC 9457). The only file of the API that knows
//! which failure has which status.

use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tidelock_core::command::Command;
use tidelock_core::state::Rejection;
use utoipa::ToSchema;

use crate::fleet::consensus::ProposeError;

pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// After a 503. Elections are over in less.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What went wrong, for programs (`type`) and for people (`detail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:tidelock:problem:` and a code that does not change.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) title: &'static str,
    #[serde(serialize_with = "as_number")]
    #[schema(value_type = u16)]
    pub(crate) status: StatusCode,
    pub(crate) detail: String,
    /// Where in the request, when the request is at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<FieldProblem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldProblem {
    /// A path in the body (`timeouts.connect_ms`), a parameter or a header.
    pub(crate) field: String,
    pub(crate) detail: String,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &str, title: &'static str, detail: impl Into<String>) -> Problem {
        let kind = format!("urn:tidelock:problem:{code}");
        Problem { kind, title, status, detail: detail.into(), problems: Vec::new() }
    }

    pub(crate) fn invalid(field: &str, detail: impl Into<String>) -> Problem {
        let detail = detail.into();
        let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid-request", "Invalid request", detail.clone());
        Problem { problems: vec![FieldProblem { field: field.to_owned(), detail }], ..problem }
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub(crate) fn unknown_path(path: &str) -> Problem {
        let shown: String = path.chars().take(200).collect();
        Problem::not_found(format!("There is nothing at {shown}."))
    }

    pub(crate) fn method_not_allowed(method: &http::Method) -> Problem {
        let detail = format!("{method} is not a method of this path; the Allow header names those that are.");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    pub(crate) fn unauthorized(detail: &str) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    pub(crate) fn not_ready(code: &str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, "Not ready", detail)
    }

    pub(crate) fn too_many(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many", "Too many", detail)
    }

    pub(crate) fn internal() -> Problem {
        let detail = "The node failed at this request; its log has the reason.";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// The fleet refused a command: 404 for what the path names and is not there, 422 for a bound
    /// of the fleet, 409 for everything else that the present state forbids.
    pub(crate) fn rejected(reason: &Rejection, command: &Command) -> Problem {
        // A route's pool stands in the body: the route's own path is fine.
        let in_body = matches!(command, Command::PutRoute { .. } | Command::Batch { .. });
        let status = match reason {
            Rejection::UnknownPool { .. } if in_body => StatusCode::CONFLICT,
            Rejection::UnknownPool { .. }
            | Rejection::UnknownEndpoint { .. }
            | Rejection::UnknownRoute { .. }
            | Rejection::UnknownDrain { .. }
            | Rejection::UnknownSwitchover { .. }
            | Rejection::UnknownJoinToken {} => StatusCode::NOT_FOUND,
            Rejection::LimitReached { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Rejection::PoolInUse { .. }
            | Rejection::DuplicateRoute { .. }
            | Rejection::DuplicateAddress { .. }
            | Rejection::NotActive { .. }
            | Rejection::NotDraining { .. }
            | Rejection::SwitchoverUnderWay { .. }
            | Rejection::NothingToReplace { .. }
            | Rejection::NotReady {}
            | Rejection::NothingToReturnTo { .. }
            | Rejection::KeyExists { .. }
            | Rejection::KeyWaiting { .. }
            | Rejection::NotChecked { .. }
            | Rejection::NodeGone { .. }
            | Rejection::FleetTooOld { .. }
            | Rejection::Unreadable { .. }
            | Rejection::InBatch { .. } => StatusCode::CONFLICT,
        };
        Problem::new(status, &code_of(reason), "Rejected", reason.to_string())
    }

    /// No outcome. The title says whether the write may have happened all the same.
    pub(crate) fn no_outcome(error: ProposeError) -> Problem {
        const REPEAT: &str = "the write may or may not have happened; repeat it with the same Idempotency-Key.";
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match error {
            ProposeError::NoLeader => {
                let detail = "The fleet has no leader at the moment: nothing was written.";
                Problem::new(unavailable, "no-leader", "Not written", detail)
            }
            ProposeError::Busy => {
                let detail = "Too many writes are in flight on this node: nothing was written.";
                Problem::new(unavailable, "busy", "Not written", detail)
            }
            ProposeError::TooLarge => {
                let detail = "The write is larger than an entry of the log may be.";
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "entry-too-large", "Not written", detail)
            }
            ProposeError::Unknown => {
                let detail = format!("The fleet did not answer in time: {REPEAT}");
                Problem::new(unavailable, "unknown-outcome", "Outcome unknown", detail)
            }
            ProposeError::Stopped => {
                let detail = format!("This node is shutting down: {REPEAT}");
                Problem::new(unavailable, "unknown-outcome", "Outcome unknown", detail)
            }
        }
    }

    /// A linearizable read could not be made.
    pub(crate) fn no_read(error: ProposeError) -> Problem {
        let detail = format!("A linearizable read needs the leader: {error}. A local read is still answered.");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-leader", "No linearizable read", detail)
    }
}

/// The rejection's own code, as it stands in the log.
fn code_of(reason: &Rejection) -> String {
    let json = serde_json::to_value(reason).unwrap_or_default();
    json["code"].as_str().unwrap_or("rejected").to_owned()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("strings and numbers");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidelock\""));
        }
        response
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::invalid("query", inner_message(&rejection, rejection.body_text()))
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Problem {
        Problem::invalid("path", inner_message(&rejection, rejection.body_text()))
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Problem {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = format!("A request body has at most {} bytes.", super::BODY_MAX);
            return Problem::new(rejection.status(), "body-too-large", "Body too large", detail);
        }
        Problem::invalid("body", rejection.body_text())
    }
}

/// A body that is JSON and does not fit names its field; `message` is serde's own, with the line.
pub(crate) fn unfit_body(rejection: &JsonRejection, message: &str) -> Problem {
    // The rejection's source reads "path: message", or only the message at the top of the body.
    let full = inner_message(rejection, rejection.body_text());
    let path = full.strip_suffix(message).and_then(|path| path.strip_suffix(": ")).unwrap_or("");
    Problem::invalid(path, message)
}

fn inner_message(error: &dyn std::error::Error, otherwise: String) -> String {
    error.source().map_or(otherwise, |source| source.to_string())
}
