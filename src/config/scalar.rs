//! The kinds of single values, from TOML and from text (environment and flags are text).

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use tidelock_core::id::Name;
use tidelock_core::spec::Address;
use toml::de::DeValue;

use super::{AccessLog, ClientAuth, ListenAddress, ProxyProtocol};

pub(super) trait Scalar: Sized {
    /// Completes "expected ...".
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;

    /// `directory` is where relative paths begin.
    fn from_toml(value: &DeValue<'_>, directory: &Path) -> Result<Self, String> {
        let _ = directory;
        match value {
            DeValue::String(text) => Self::from_text(text),
            other => Err(wrong_type::<Self>(other)),
        }
    }
}

fn wrong_type<T: Scalar>(value: &DeValue<'_>) -> String {
    format!("expected {}, found {}", T::EXPECTED, kind(value))
}

/// A value's TOML type, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl Scalar for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("expected {}, found {text:?}", Self::EXPECTED))
    }

    fn from_toml(value: &DeValue<'_>, _directory: &Path) -> Result<Self, String> {
        match value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("expected {}, not negative, found {number}", Self::EXPECTED)),
            other => Err(wrong_type::<Self>(other)),
        }
    }
}

impl Scalar for String {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Scalar for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("expected a path, found nothing".into()) } else { Ok(text.into()) }
    }

    fn from_toml(value: &DeValue<'_>, directory: &Path) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::from_text(text).map(|path| directory.join(path)),
            other => Err(wrong_type::<Self>(other)),
        }
    }
}

impl Scalar for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("{text:?} is not an IP address and a port: write 127.0.0.1:9900, 0.0.0.0:8080 or [::]:8080")
        })
    }
}

/// `sun_path` has 108 bytes with the one that ends it (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

impl Scalar for ListenAddress {
    const EXPECTED: &'static str = "an IP address and a port, or unix: and a path";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("expected a path behind unix:, found nothing".into()),
            Some(path) => Ok(ListenAddress::Unix(path.into())),
            None => {
                SocketAddr::from_text(text).map(ListenAddress::Ip).map_err(|reason| format!("{reason}, or unix:/PATH"))
            }
        }
    }

    fn from_toml(value: &DeValue<'_>, directory: &Path) -> Result<Self, String> {
        let DeValue::String(text) = value else { return Err(wrong_type::<Self>(value)) };
        Ok(match Self::from_text(text)? {
            ListenAddress::Unix(path) => {
                let path = directory.join(path);
                if path.as_os_str().len() > SOCKET_PATH_MAX {
                    return Err(format!(
                        "{} is longer than {SOCKET_PATH_MAX} bytes, the most that a socket's path may have",
                        path.display()
                    ));
                }
                ListenAddress::Unix(path)
            }
            ip => ip,
        })
    }
}

impl Scalar for Name {
    const EXPECTED: &'static str = "a name";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: tidelock_core::id::InvalidName| e.to_string())
    }
}

impl Scalar for Address {
    const EXPECTED: &'static str = "host:port";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: tidelock_core::spec::InvalidAddress| e.to_string())
    }
}

impl Scalar for AccessLog {
    const EXPECTED: &'static str = "\"json\" or \"off\"";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(AccessLog::Json),
            "off" => Ok(AccessLog::Off),
            other => Err(format!("expected {}, found {other:?}", Self::EXPECTED)),
        }
    }
}

impl Scalar for ProxyProtocol {
    const EXPECTED: &'static str = "\"off\" or \"required\"";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(ProxyProtocol::Off),
            "required" => Ok(ProxyProtocol::Required),
            other => Err(format!("expected {}, found {other:?}", Self::EXPECTED)),
        }
    }
}

impl Scalar for ClientAuth {
    const EXPECTED: &'static str = "\"optional\" or \"required\"";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "optional" => Ok(ClientAuth::Optional),
            "required" => Ok(ClientAuth::Required),
            other => Err(format!("expected {}, found {other:?}", Self::EXPECTED)),
        }
    }
}

impl Scalar for IpNet {
    const EXPECTED: &'static str = "a range of IP addresses";

    fn from_text(text: &str) -> Result<Self, String> {
        // One address is a range of one.
        let range = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        range.map_err(|_| format!("{text:?} is not a range of IP addresses: write 10.0.0.0/8, fd00::/8 or 192.0.2.7"))
    }
}
