//! A connection to an endpoint in bounded time: TCP, and TLS where the pool wants it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tidelock_core::spec::{Address, PoolSpec, Protocol};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::names::Names;
use crate::socket::{Socket, Stream};
use crate::tls::Identity;

/// How one pool's endpoints are reached.
#[derive(Debug)]
pub(crate) struct Dialer {
    protocol: Protocol,
    tls: Option<Tls>,
    names: Names,
}

#[derive(Debug)]
struct Tls {
    /// None where the pool's authorities cannot be used, which has been told.
    config: Option<Arc<ClientConfig>>,
    name: Option<ServerName<'static>>,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    H1,
    H2,
}

/// What a connection is wanted for; over TLS the endpoint is offered this by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    H1,
    H2,
    Either,
}

/// Whether it is this node that lacks something: memory, descriptors (the machine's or its own), buffers (errno(3) of Linux:
/// ENOMEM, ENFILE, EMFILE, ENOBUFS). It says nothing of the endpoint.
pub(crate) fn is_own_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}

impl Dialer {
    pub(crate) fn new(pool: &PoolSpec, identity: Option<&Identity>) -> Dialer {
        let tls = pool.tls.as_ref().map(|spec| {
            let config = crate::tls::towards_endpoints(spec, identity);
            let config = config.inspect_err(|error| warn!(%error, "a pool's endpoints cannot be reached by TLS"));
            let name = spec.server_name.as_ref().map(|name| name.as_str().to_owned());
            Tls { config: config.ok(), name: name.and_then(|name| name.try_into().ok()) }
        });
        Dialer { protocol: pool.protocol, tls, names: Names::default() }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the pool says that its endpoints speak; None is left to each endpoint.
    pub(crate) fn spoken(&self) -> Option<Spoken> {
        match self.protocol {
            Protocol::Http1 => Some(Spoken::H1),
            Protocol::H2c | Protocol::H2 => Some(Spoken::H2),
            Protocol::Auto => None,
        }
    }

    /// Names are resolved at each connection, so that a name that moves is followed; each address
    /// is tried in turn within the one time limit, TLS included.
    pub(crate) async fn connect(
        &self,
        address: &Address,
        wanted: Wanted,
        limit: Duration,
    ) -> io::Result<(Socket, Spoken)> {
        match tokio::time::timeout(limit, self.attempt(address, wanted)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
        }
    }

    async fn attempt(&self, address: &Address, wanted: Wanted) -> io::Result<(Socket, Spoken)> {
        let stream = match address.host().parse::<IpAddr>() {
            Ok(ip) => TcpStream::connect((ip, address.port())).await?,
            Err(_) => {
                let found = self.names.look_up(address.host()).await?;
                let found: Vec<SocketAddr> = found.iter().map(|ip| (*ip, address.port()).into()).collect();
                TcpStream::connect(&found[..]).await?
            }
        };
        stream.set_nodelay(true)?;
        let stream = Stream::Tcp(stream);
        match &self.tls {
            None => Ok((Socket::Plain(stream), if wanted == Wanted::H2 { Spoken::H2 } else { Spoken::H1 })),
            Some(tls) => tls.handshake(stream, address, wanted).await,
        }
    }
}

impl Tls {
    async fn handshake(&self, stream: Stream, address: &Address, wanted: Wanted) -> io::Result<(Socket, Spoken)> {
        let config = self.config.clone().ok_or_else(|| io::Error::other("the pool's authorities are unusable"))?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?,
        };
        let offered = match wanted {
            Wanted::H1 => vec![b"http/1.1".to_vec()],
            Wanted::H2 => vec![b"h2".to_vec()],
            Wanted::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let stream = TlsConnector::from(config).with_alpn(offered).connect(name, stream).await?;
        let spoken = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Spoken::H2,
            // Nothing was agreed on: the endpoint does not know ALPN, and speaks HTTP/1.1.
            _ if wanted != Wanted::H2 => Spoken::H1,
            _ => return Err(io::Error::other("the endpoint does not agree to HTTP/2 (ALPN h2)")),
        };
        Ok((Socket::Tls(Box::new(stream.into())), spoken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_node_lacks_is_told_from_what_an_endpoint_does() {
        // EMFILE and ENFILE; ECONNREFUSED, ENETUNREACH, and EADDRNOTAVAIL, which an address of a family that is not there gives.
        for (errno, is_own) in [(24, true), (23, true), (111, false), (101, false), (99, false)] {
            assert_eq!(is_own_want(&io::Error::from_raw_os_error(errno)), is_own, "{errno}");
        }
        assert!(!is_own_want(&io::Error::from(io::ErrorKind::TimedOut)));
    }
}
