//! The PROXY protocol (HAProxy's "The PROXY protocol, versions 1 & 2", 2.8): a balancer in front
//! of this one says whose connection it passes on, before the first byte of it. A listener wants
//! it from everybody or from nobody, since whoever may choose can choose to lie.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;

use crate::socket::Stream;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included (section 2.1).
const V1_MAX: usize = 107;
/// Addresses and options of version 2; senders that pass client certificates on need some kB.
const V2_MAX: usize = 4 * 1024;

/// Reads the preamble and no byte beyond it; `peer` is who it comes from. Says who the client is.
/// The caller sets the time limit.
pub(super) async fn read(stream: &mut Stream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    let client = if start == *SIGNATURE { read_v2(stream).await? } else { read_v1(stream, &start).await? };
    Ok(client.unwrap_or(peer))
}

async fn read_v1(stream: &mut Stream, start: &[u8]) -> io::Result<Option<SocketAddr>> {
    if !start.starts_with(b"PROXY ") {
        return Err(malformed("the connection does not begin with the PROXY protocol"));
    }
    let mut line = start.to_vec();
    // Byte by byte: what follows the line is not for this reader, and it is read once a connection.
    while !line.ends_with(b"\r\n") {
        if line.len() == V1_MAX {
            return Err(malformed("the line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    v1(&line[..line.len() - 2]).ok_or_else(|| malformed("the line is not of version 1"))
}

async fn read_v2(stream: &mut Stream) -> io::Result<Option<SocketAddr>> {
    let [command, family, high, low] = stream.read_u32().await?.to_be_bytes();
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_MAX {
        return Err(malformed("the options are too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    v2(command, family, &rest).ok_or_else(|| malformed("the head is not of version 2"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// `PROXY TCP4 SOURCE DESTINATION SOURCE-PORT DESTINATION-PORT`; the inner none is `UNKNOWN`.
fn v1(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("PROXY ")?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = line.split(' ');
    let (family, source, destination) = (words.next()?, words.next()?, words.next()?);
    let (source_port, destination_port) = (words.next()?, words.next()?);
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let client = SocketAddr::new(address(source)?, port(source_port)?);
    let is_right = address(destination).is_some() && port(destination_port).is_some() && words.next().is_none();
    is_right.then_some(Some(client))
}

/// The inner none is a connection of the sender's own (LOCAL), or an address that is no IP.
fn v2(command: u8, family: u8, rest: &[u8]) -> Option<Option<SocketAddr>> {
    match command {
        0x20 => return Some(None),
        0x21 => {}
        _ => return None,
    }
    // The low half is the transport: a stream, or not told. Options follow the addresses.
    match (family >> 4, family & 0xf) {
        (0x1, 0x1) => {
            let [a, b, c, d] = rest.get(..4)?.try_into().ok()?;
            let port = u16::from_be_bytes(rest.get(8..10)?.try_into().ok()?);
            rest.get(..12)?;
            Some(Some(SocketAddr::from(([a, b, c, d], port))))
        }
        (0x2, 0x1) => {
            let source: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            let port = u16::from_be_bytes(rest.get(32..34)?.try_into().ok()?);
            rest.get(..36)?;
            Some(Some(SocketAddr::from((source, port))))
        }
        (0x3, 0x1) | (0x0, 0x0) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_1_names_the_client() {
        let at = |text: &str| Some(Some(text.parse::<SocketAddr>().unwrap()));
        assert_eq!(v1(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443"), at("192.0.2.7:56324"));
        assert_eq!(v1(b"PROXY TCP6 2001:db8::7 ::1 1 65535"), at("[2001:db8::7]:1"));
        assert_eq!(v1(b"PROXY UNKNOWN"), Some(None));
        assert_eq!(v1(b"PROXY UNKNOWN ffff::1 ffff::2 1 2"), Some(None));
        for bad in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 1",
            "PROXY TCP4  192.0.2.7 10.0.0.1 56324 443",
            "PROXY TCP4 ::1 ::1 1 1",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 443",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 443",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1 443",
            "PROXY UNKNOWNX",
            "PROXY ",
        ] {
            assert_eq!(v1(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn version_2_names_the_client() {
        let v4 = [&[192, 0, 2, 7, 10, 0, 0, 1][..], &[0xdc, 0x04, 0x01, 0xbb], b"options"].concat();
        assert_eq!(v2(0x21, 0x11, &v4), Some(Some("192.0.2.7:56324".parse().unwrap())));
        let mut v6 = [0; 36];
        (v6[15], v6[33]) = (7, 9);
        assert_eq!(v2(0x21, 0x21, &v6), Some(Some("[::7]:9".parse().unwrap())));
        assert_eq!(v2(0x20, 0x00, b""), Some(None), "a health check of the sender's own");
        assert_eq!(v2(0x21, 0x00, b""), Some(None));
        assert_eq!(v2(0x21, 0x31, &[0; 216]), Some(None), "a unix socket");
        for (command, family, rest) in [
            (0x11, 0x11, &v4[..]),
            (0x22, 0x11, &v4),
            (0x21, 0x12, &v4),
            (0x21, 0x11, &v4[..11]),
            (0x21, 0x21, &v6[..35]),
        ] {
            assert_eq!(v2(command, family, rest), None, "{command:x} {family:x}");
        }
    }

    /// As a sender writes them.
    fn written(client: SocketAddr, options: &[u8]) -> (String, Vec<u8>) {
        let (family, other) = if client.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "2001:db8::1") };
        let line = format!("PROXY {family} {} {other} {} 443", client.ip(), client.port());
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let addresses = [address(client.ip()), address(other.parse().unwrap())].concat();
        let ports = [client.port().to_be_bytes(), 443u16.to_be_bytes()].concat();
        (line, [&addresses, &ports, options].concat())
    }

    proptest! {
        /// Whoever the client is, both versions say so; and a part of either says nothing.
        #[test]
        fn what_is_written_is_read(ip: IpAddr, port: u16, options: Vec<u8>, cut: prop::sample::Index) {
            let client = SocketAddr::new(ip, port);
            let (line, rest) = written(client, &options);
            let family = if ip.is_ipv4() { 0x11 } else { 0x21 };
            prop_assert_eq!(v1(line.as_bytes()), Some(Some(client)));
            prop_assert_eq!(v2(0x21, family, &rest), Some(Some(client)));
            let addresses = rest.len() - options.len();
            prop_assert_eq!(v2(0x21, family, &rest[..cut.index(addresses)]), None);
            let words: Vec<&str> = line.split(' ').collect();
            prop_assert_eq!(v1(words[..cut.index(words.len())].join(" ").as_bytes()), None);
        }

        #[test]
        fn nothing_panics(line: Vec<u8>, command: u8, family: u8) {
            let _ = (v1(&line), v1(&[b"PROXY TCP4 ", &line[..]].concat()), v2(command, family, &line));
        }
    }
}
