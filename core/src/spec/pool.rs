//! Pools: what their endpoints speak, how much at once, and how long they are waited for.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::{Check, HealthSpec};
use super::hold::HoldSpec;
use super::tls::EndpointTls;

/// How to talk to a pool's endpoints, how much at once, and for how long to wait for them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct PoolSpec {
    pub protocol: Protocol,
    /// Leave `content-length` out towards the endpoint once it has been checked here: Bandit then
    /// cannot log "Received END_STREAM with byte still pending" (measured: 30 of 30 to 0).
    pub strip_content_length: bool,
    pub timeouts: Timeouts,
    /// Speak TLS to the endpoints; None is cleartext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
    #[serde(skip_serializing_if = "EndpointLimits::is_default")]
    pub limits: EndpointLimits,
    /// Look after the endpoints. None: all count as up, and each request finds out for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    #[serde(skip_serializing_if = "HoldSpec::is_default")]
    pub hold: HoldSpec,
    /// Its endpoints may answer that a request is another one's: see [`RouteTo`](crate::choose::RouteTo).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub route_to: bool,
}

/// A [`PoolSpec`] as it is written, whose parts may not go together.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fields {
    protocol: Protocol,
    strip_content_length: bool,
    timeouts: Timeouts,
    tls: Option<EndpointTls>,
    limits: EndpointLimits,
    health: Option<HealthSpec>,
    hold: HoldSpec,
    route_to: bool,
}

impl TryFrom<Fields> for PoolSpec {
    type Error = String;

    fn try_from(fields: Fields) -> Result<PoolSpec, String> {
        let Fields { protocol, strip_content_length, timeouts, tls, limits, health, hold, route_to } = fields;
        let spec = PoolSpec { protocol, strip_content_length, timeouts, tls, limits, health, hold, route_to };
        spec.goes_together().map(|()| spec)
    }
}

impl PoolSpec {
    fn goes_together(&self) -> Result<(), String> {
        match (self.protocol, &self.tls) {
            (Protocol::H2 | Protocol::Auto, None) => Err(format!(
                "protocol {} is agreed on in TLS: give tls, an empty one will do, or use http1 or h2c",
                self.protocol.as_str()
            )),
            (Protocol::Http1, _)
                if self.health.as_ref().is_some_and(|health| matches!(health.check, Check::Grpc { .. })) =>
            {
                Err("a gRPC check needs HTTP/2: protocol h2c, h2 or auto".to_owned())
            }
            (Protocol::H2c, Some(_)) => Err("protocol h2c is cleartext: use h2 with tls".to_owned()),
            _ => Ok(()),
        }
    }

    /// See [`Command::level`](crate::command::Command::level).
    pub(crate) fn level(&self) -> u32 {
        let of_level_2 = matches!(self.protocol, Protocol::H2 | Protocol::Auto)
            || self.tls.is_some()
            || self.health.is_some()
            || !self.limits.is_default();
        let of_level_3 = self.route_to || !self.hold.is_default();
        let of_level_4 = self.limits.max_websockets_per_second.is_some() || self.timeouts.of_level_4();
        let levels = [(4, of_level_4), (3, of_level_3), (2, of_level_2)];
        levels.into_iter().find_map(|(level, is_of)| is_of.then_some(level)).unwrap_or(1)
    }

    /// What is asked of a spec before it is proposed, and not of what a log holds already: see
    /// [`Authorities`](super::Authorities).
    pub fn check(&self) -> Result<(), String> {
        self.goes_together()?;
        let authorities = self.tls.as_ref().and_then(|tls| tls.authorities.as_ref());
        authorities.map_or(Ok(()), |authorities| authorities.certificates().map(|_| ()))
    }
}

/// What the endpoints of one pool speak. It is never mixed in one pool, but for `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    #[default]
    #[serde(rename = "http1")]
    Http1,
    /// HTTP/2 in cleartext by prior knowledge (RFC 9113 section 3.3).
    #[serde(rename = "h2c")]
    H2c,
    /// HTTP/2 over TLS. An endpoint that does not agree to it by ALPN (RFC 7301) is not spoken to.
    #[serde(rename = "h2")]
    H2,
    /// Over TLS, what each endpoint chooses by ALPN: HTTP/2 if it can.
    #[serde(rename = "auto")]
    Auto,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http1 => "http1",
            Protocol::H2c => "h2c",
            Protocol::H2 => "h2",
            Protocol::Auto => "auto",
        }
    }
}

/// How much one node sends to one endpoint at once, over all its workers. What is left out is not
/// limited, each limit is at least 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointLimits {
    /// Connections, idle ones included. Each worker may have one whatever the others hold, so that
    /// none starves, and one that its WebSockets share over HTTP/2. Those over HTTP/1.1 count, as each has a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<NonZeroU32>,
    /// Requests in flight; a WebSocket is one for as long as it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<NonZeroU32>,
    /// Requests that wait, for at most `connect_ms`, because one of the two is reached or no
    /// stream is free: 1,024. One more is sent elsewhere if its session allows, else it is
    /// answered 503.
    pub max_pending: u32,
    /// WebSockets that begin in a second. One more waits for its turn, for at most the pool's hold; beyond
    /// that it is sent elsewhere if it has no session, else it is answered 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_websockets_per_second: Option<NonZeroU32>,
}

impl EndpointLimits {
    fn is_default(&self) -> bool {
        *self == EndpointLimits::default()
    }
}

impl Default for EndpointLimits {
    fn default() -> Self {
        EndpointLimits {
            max_connections: None,
            max_requests: None,
            max_pending: 1_024,
            max_websockets_per_second: None,
        }
    }
}

/// Upper bounds on waiting for an endpoint, in milliseconds, each at least 1 and at most a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection, TLS included, or a place on one to be there: 5 s, then the next endpoint is tried.
    pub connect_ms: Millis,
    /// From the end of the request to the response's head: 60 s, then 504.
    pub first_byte_ms: Millis,
    /// Without a byte in either direction of a stream that has begun: 60 s, then the stream is
    /// cut. A killed BEAM process sends nothing for ever, so there is no "off".
    pub idle_ms: Millis,
    /// Without a byte in either direction of a WebSocket: 1 h. Phoenix beats every 30 s.
    pub websocket_idle_ms: Millis,
    /// From a request's head to the end of its response, all attempts and waiting included. Without a response yet it is
    /// 504, else it is cut. Not of a WebSocket that is open. Left out, it is no limit: downloads and event streams last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<Millis>,
    /// For how long a connection over HTTP/1.1 is kept without a request: 50 s, below the 60 s of Bandit and Cowboy. It has to
    /// be less than the endpoint's own time (Node.js: 5 s), or it may close a connection under a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_ms: Option<Millis>,
    /// From when on a connection takes no new request: 1 h, so that balancers between here and the endpoint get to
    /// share out again. Less up to a tenth, so that not all go at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_age_ms: Option<Millis>,
}

impl Timeouts {
    pub fn keep_alive(&self) -> Duration {
        self.keep_alive_ms.map_or(Duration::from_secs(50), Millis::duration)
    }

    pub fn connection_age(&self) -> Duration {
        self.connection_age_ms.map_or(Duration::from_secs(3_600), Millis::duration)
    }

    /// Those that nodes of level 3 do not know.
    fn of_level_4(&self) -> bool {
        [self.total_ms, self.keep_alive_ms, self.connection_age_ms].iter().any(Option::is_some)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect_ms: Millis(5_000),
            first_byte_ms: Millis(60_000),
            idle_ms: Millis(60_000),
            websocket_idle_ms: Millis(3_600_000),
            total_ms: None,
            keep_alive_ms: None,
            connection_age_ms: None,
        }
    }
}

/// A length of time in whole milliseconds, 1 to 86,400,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Millis(u64);

impl Millis {
    pub const MAX: u64 = 86_400_000;

    pub fn get(self) -> u64 {
        self.0
    }

    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl TryFrom<u64> for Millis {
    type Error = String;

    fn try_from(value: u64) -> Result<Self, String> {
        match value {
            1..=Self::MAX => Ok(Millis(value)),
            _ => Err(format!("{value} is not a number of milliseconds from 1 to {}", Self::MAX)),
        }
    }
}

impl From<Millis> for u64 {
    fn from(value: Millis) -> u64 {
        value.0
    }
}
