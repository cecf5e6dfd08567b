//! How the endpoints of a pool are checked, and what follows from it.

use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use super::pool::Millis;

/// Active checks. Three nodes look at each endpoint, however many the fleet has, and it counts as
/// down when most of them say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    pub check: Check,
    /// Between two checks of one node: 5 s.
    #[serde(default = "interval")]
    pub interval_ms: Millis,
    /// For a check, its connection included: 2 s, then it has failed.
    #[serde(default = "timeout")]
    pub timeout_ms: Millis,
    /// Checks in a row that must pass before a node calls an endpoint up again: 2.
    #[serde(default = "healthy")]
    pub healthy_threshold: NonZeroU8,
    /// Checks in a row that must fail before a node calls an endpoint down: 3.
    #[serde(default = "unhealthy")]
    pub unhealthy_threshold: NonZeroU8,
    /// Below this share of endpoints that are up, verdicts are not believed and all are used: 50.
    /// More probably the checks are wrong than nearly everything is down, and what is left would
    /// go down under the whole load. 0 is off.
    #[serde(default)]
    pub panic_threshold_percent: Percent,
    /// An endpoint that is new, or up again, gets its share of new sessions and of what nothing keeps
    /// only little by little, over this time. Left out: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_ms: Option<Millis>,
}

/// What an endpoint must do. It is done as the pool's requests are: with its protocol and its TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Check {
    /// Take a connection, TLS included.
    Tcp {},
    /// Answer a GET.
    Http {
        path: CheckPath,
        /// The request's host. Left out: the endpoint's address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<CheckHost>,
        /// The status that is right. Left out: 200 to 399.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<Status>,
    },
    /// Say SERVING to `grpc.health.v1.Health/Check`; over HTTP/2 only.
    Grpc {
        /// Left out: the server as a whole.
        #[serde(default, skip_serializing_if = "ServiceName::is_empty")]
        service: ServiceName,
    },
}

impl HealthSpec {
    /// With the defaults of all but the check.
    pub fn new(check: Check) -> HealthSpec {
        HealthSpec {
            check,
            interval_ms: interval(),
            timeout_ms: timeout(),
            healthy_threshold: healthy(),
            unhealthy_threshold: unhealthy(),
            panic_threshold_percent: Percent::default(),
            slow_start_ms: None,
        }
    }
}

fn interval() -> Millis {
    Millis::try_from(5_000).expect("in range")
}

fn timeout() -> Millis {
    Millis::try_from(2_000).expect("in range")
}

fn healthy() -> NonZeroU8 {
    NonZeroU8::new(2).expect("not zero")
}

fn unhealthy() -> NonZeroU8 {
    NonZeroU8::new(3).expect("not zero")
}

/// 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Percent {
    /// As Envoy has it.
    fn default() -> Self {
        Percent(50)
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;

    fn try_from(value: u8) -> Result<Self, String> {
        if value <= 100 { Ok(Percent(value)) } else { Err(format!("{value} is not a percentage from 0 to 100")) }
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

/// A text with a rule: a newtype with its JSON.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $check:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let check: fn(&str) -> bool = $check;
                if text.len() <= 1_024 && check(&text) { Ok($name(text)) } else { Err(format!("{text:?} is not {}", $what)) }
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }
    };
}

text! {
    /// Path and query of a request.
    CheckPath, |text| text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok(), "a path: begin with /"
}
text! {
    /// A host, with a port perhaps.
    CheckHost, |text| !text.contains('@') && text.parse::<http::uri::Authority>().is_ok(), "a host"
}
text! {
    /// A gRPC service.
    ServiceName, |text| text.bytes().all(|b| b.is_ascii_graphic()), "a gRPC service's name"
}

/// The status of a final response: 200 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Status(u16);

impl Status {
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Status {
    type Error = String;

    fn try_from(value: u16) -> Result<Self, String> {
        match value {
            200..=599 => Ok(Status(value)),
            _ => Err(format!("{value} is not the status of a response: use 200 to 599")),
        }
    }
}

impl From<Status> for u16 {
    fn from(status: Status) -> u16 {
        status.0
    }
}
