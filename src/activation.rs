//! Sockets from the service manager (sd_listen_fds(3)): what systemd's socket unit has bound is used
//! and not bound again, so connections wait in the queue while the node is not there.
//!
//! A socket belongs to what the configuration has at its address. One that belongs to nothing is an
//! error: whoever connects to it would wait for ever.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use rustix::net::{AddressFamily, sockopt};
use tidelock_balancer::{Bound, ListenAddress};
use tidelock_control_plane::GivenSockets;

use crate::config::Config;

/// The first descriptor that a service manager passes.
const FIRST: usize = 3;

/// Listening sockets that somebody else has bound.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// In the order of the configuration's listeners; none: to be bound.
    pub(crate) listeners: Vec<Vec<Bound>>,
    pub(crate) control_plane: GivenSockets,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "descriptor {descriptor} is not a stream socket of TCP or in the file system: the socket unit may have \
         ListenStream= only"
    )]
    Kind { descriptor: usize },
    #[error("descriptor {descriptor} ({address}) does not listen: the socket unit must have Accept=no")]
    NotListening { descriptor: usize, address: String },
    #[error(
        "descriptor {descriptor} listens on {address}, where the configuration has nothing: give a listener, \
         admin.listen or fleet.listen this address, or take it out of the socket unit"
    )]
    Unknown { descriptor: usize, address: String },
    #[error("descriptor {descriptor} listens on {address}, as one before it does: one socket is enough")]
    Twice { descriptor: usize, address: String },
    #[error("descriptor {descriptor} cannot be looked at")]
    Look { descriptor: usize, source: std::io::Error },
}

impl Sockets {
    fn for_listeners_of(config: &Config) -> Sockets {
        let listeners = config.listeners.iter().map(|_| Vec::new()).collect();
        Sockets { listeners, control_plane: GivenSockets::default() }
    }

    /// Takes what LISTEN_FDS names, if it is for this process, and clears it for children. To be called
    /// while there is one thread.
    pub(crate) fn from_service_manager(config: &Config) -> Result<Sockets, Error> {
        let mut sockets = Sockets::for_listeners_of(config);
        // The crate takes a missing LISTEN_PID for ours; sd_listen_fds(3) does not.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(sockets);
        }
        let mut given = ListenFd::from_env();
        for index in 0..given.len() {
            let descriptor = FIRST + index;
            let socket = if let Ok(Some(socket)) = given.take_tcp_listener(index) {
                Bound::Tcp(socket)
            } else if let Ok(Some(socket)) = given.take_unix_listener(index) {
                Bound::Unix(socket)
            } else {
                return Err(Error::Kind { descriptor });
            };
            let look = |source| Error::Look { descriptor, source };
            let address = socket.address().map_err(look)?.to_string();
            if !listens(&socket).map_err(look)? {
                return Err(Error::NotListening { descriptor, address });
            }
            match Place::of(&socket, config).map_err(look)? {
                None => return Err(Error::Unknown { descriptor, address }),
                Some(place) if sockets.has(place) => return Err(Error::Twice { descriptor, address }),
                Some(place) => sockets.put(place, socket),
            }
        }
        Ok(sockets)
    }

    /// Puts what the node's former process gave where the configuration has a place for it. Several may
    /// have one address, a worker's each. What has no place any more is closed here: the former process
    /// accepts from it until it leaves.
    pub(crate) fn from_predecessor(config: &Config, given: Vec<OwnedFd>) -> std::io::Result<Sockets> {
        let mut sockets = Sockets::for_listeners_of(config);
        for socket in given {
            let socket = match sockopt::socket_domain(&socket)? {
                AddressFamily::UNIX => Bound::Unix(socket.into()),
                _ => Bound::Tcp(socket.into()),
            };
            if let Some(place) = Place::of(&socket, config)? {
                sockets.put(place, socket);
            }
        }
        Ok(sockets)
    }

    fn has(&self, place: Place) -> bool {
        match place {
            Place::Listener(index) => !self.listeners[index].is_empty(),
            Place::Admin => self.control_plane.admin.is_some(),
            Place::Peers => self.control_plane.peers.is_some(),
        }
    }

    fn put(&mut self, place: Place, socket: Bound) {
        match (place, socket) {
            (Place::Listener(index), socket) => self.listeners[index].push(socket),
            (Place::Admin, Bound::Tcp(socket)) => self.control_plane.admin = Some(socket),
            (Place::Peers, Bound::Tcp(socket)) => self.control_plane.peers = Some(socket),
            (Place::Admin | Place::Peers, Bound::Unix(_)) => unreachable!("these have an IP address each"),
        }
    }
}

/// What in the configuration a socket is for.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Of this index.
    Listener(usize),
    Admin,
    Peers,
}

impl Place {
    fn of(socket: &Bound, config: &Config) -> std::io::Result<Option<Place>> {
        let listener = |serves: &dyn Fn(&ListenAddress) -> bool| {
            config.listeners.iter().position(|listener| serves(&listener.address)).map(Place::Listener)
        };
        let socket = match socket {
            Bound::Tcp(socket) => socket,
            Bound::Unix(_) => {
                let at = socket.address()?;
                return Ok(listener(&|wanted| *wanted == at));
            }
        };
        let at = socket.local_addr()?;
        let both = at.is_ipv6() && !sockopt::ipv6_v6only(socket)?;
        let place = listener(&|wanted| wanted.ip().is_some_and(|wanted| serves(at, both, wanted)));
        let admin = serves(at, both, config.admin.listen).then_some(Place::Admin);
        let peers = config.fleet.as_ref().is_some_and(|fleet| serves(at, both, fleet.listen)).then_some(Place::Peers);
        Ok(place.or(admin).or(peers))
    }
}

fn listens(socket: &Bound) -> std::io::Result<bool> {
    Ok(match socket {
        Bound::Tcp(socket) => sockopt::socket_acceptconn(socket)?,
        Bound::Unix(socket) => sockopt::socket_acceptconn(socket)?,
    })
}

/// Whether a socket at `at`, which takes IPv4 too if `both`, is what the configuration calls `wanted`.
/// systemd binds `[::]` for a bare port: with both families that is also what `0.0.0.0` asks for. A
/// `[::]` of ours takes both, so a socket for IPv6 alone would serve less than was configured.
fn serves(at: SocketAddr, both: bool, wanted: SocketAddr) -> bool {
    if at.port() != wanted.port() {
        return false;
    }
    match at.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => both && wanted.ip().is_unspecified(),
        ip => ip == wanted.ip(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_serves_what_it_covers() {
        let serves = |at: &str, both, wanted: &str| serves(at.parse().unwrap(), both, wanted.parse().unwrap());
        assert!(serves("127.0.0.1:80", false, "127.0.0.1:80"));
        assert!(!serves("127.0.0.1:80", false, "127.0.0.1:81"));
        assert!(!serves("0.0.0.0:80", false, "127.0.0.1:80"));
        assert!(!serves("0.0.0.0:80", false, "[::]:80"), "IPv6 would be missing");
        assert!(serves("[::]:80", true, "0.0.0.0:80"));
        assert!(serves("[::]:80", true, "[::]:80"));
        assert!(!serves("[::]:80", false, "[::]:80"), "IPv4 would be missing");
        assert!(!serves("[::]:80", true, "127.0.0.1:80"), "it would serve more than was asked for");
    }
}
