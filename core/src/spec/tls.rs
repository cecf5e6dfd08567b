//! TLS towards the endpoints of a pool: whose certificates are believed, and for which name.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::is_dns_name;

/// An endpoint must show a certificate for its name, signed by one of the authorities. When it asks
/// for the balancer's, it gets the one in the node's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointTls {
    /// Who may have signed. None: the public ones of Mozilla's root program, built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Authorities>,
    /// The name that is asked for (SNI) and must be in the certificate. None: the host of the
    /// endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<ServerName>,
    /// Whether certificates are looked at.
    #[serde(skip_serializing_if = "Verify::is_full")]
    pub verify: Verify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    #[default]
    Full,
    /// Any certificate will do: whoever can answer at the address is believed.
    None,
}

impl Verify {
    fn is_full(&self) -> bool {
        *self == Verify::Full
    }
}

/// A DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

impl ServerName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ServerName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        if is_dns_name(&name) && !is_address { Ok(ServerName(name)) } else { Err(format!("{name:?} is no DNS name")) }
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> String {
        name.0
    }
}

/// Certificates of authorities, in PEM. They are public, so they travel with the pool.
///
/// What is in the log must mean the same on every node for ever, so reading it back asks for no
/// more than text. [`Authorities::certificates`] asks for more, before a pool is accepted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Authorities(Arc<str>);

impl Authorities {
    /// The state travels whole between nodes: a bundle for one pool is a few kB.
    const MAX_BYTES: usize = 64 * 1024;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// At least one certificate, each fit to be an authority.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let read = CertificateDer::pem_slice_iter(self.0.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = read.map_err(|error| format!("the authorities are not PEM: {error}"))?;
        for (index, certificate) in certificates.iter().enumerate() {
            webpki::anchor_from_trusted_cert(certificate)
                .map_err(|error| format!("certificate {} of the authorities cannot be used: {error}", index + 1))?;
        }
        if certificates.is_empty() {
            return Err("there is no certificate in the authorities: give them in PEM".to_owned());
        }
        Ok(certificates)
    }
}

impl TryFrom<String> for Authorities {
    type Error = String;

    fn try_from(pem: String) -> Result<Self, String> {
        if pem.len() > Self::MAX_BYTES {
            return Err(format!("the authorities have {} bytes, the limit is {}", pem.len(), Self::MAX_BYTES));
        }
        Ok(Authorities(pem.into()))
    }
}

impl From<Authorities> for String {
    fn from(authorities: Authorities) -> String {
        authorities.0.as_ref().to_owned()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({} bytes)", self.0.len())
    }
}
