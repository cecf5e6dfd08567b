//! Ports on the loopback address. Free ones are found by binding them all at once, so that they
//! differ; that another process takes one before its owner does is possible, and is then said.

use std::net::TcpListener;

use anyhow::Context;

pub(super) struct Ports {
    pub(super) http: [u16; 3],
    pub(super) admin: [u16; 3],
    pub(super) peers: [u16; 3],
    pub(super) endpoints: [u16; 3],
}

const FIRST_ADMIN: u16 = 9900;

/// With `first_http` 0 all are free ones; else clients' and admin ports are the documented ones.
pub(super) fn pick(first_http: u16) -> anyhow::Result<Ports> {
    let mut held = Vec::new();
    let any = first_http == 0;
    Ok(Ports {
        http: three(if any { None } else { Some(first_http) }, &mut held)?,
        admin: three(if any { None } else { Some(FIRST_ADMIN) }, &mut held)?,
        peers: three(None, &mut held)?,
        endpoints: three(None, &mut held)?,
    })
}

fn three(first: Option<u16>, held: &mut Vec<TcpListener>) -> anyhow::Result<[u16; 3]> {
    let mut ports = [0; 3];
    for (offset, port) in (0u16..).zip(&mut ports) {
        let wanted = match first {
            Some(first) => first.checked_add(offset).context("--http-port leaves no room for three ports")?,
            None => 0,
        };
        let listener = TcpListener::bind(("127.0.0.1", wanted))
            .with_context(|| format!("port {wanted} is taken: pass another --http-port, or 0 for any free ones"))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let ports = pick(0).unwrap();
        let all: std::collections::BTreeSet<u16> =
            [ports.http, ports.admin, ports.peers, ports.endpoints].concat().into_iter().collect();
        assert_eq!(all.len(), 12);
    }
}
