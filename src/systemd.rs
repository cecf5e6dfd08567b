//! What a service manager is told (sd_notify(3)): one datagram to the socket in `NOTIFY_SOCKET`. Without one
//! nobody is told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Told {
    /// It serves clients.
    Ready,
    /// It sends them away; this takes up to the drain's deadline.
    Stopping,
}

pub(crate) fn tell(told: Told) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, told) {
        tracing::warn!(%error, socket = %socket.display(), "the service manager is not told");
    }
}

fn send(socket: &OsStr, told: Told) -> io::Result<()> {
    let text = match told {
        // The process that took over is the main one from here on.
        Told::Ready => format!("READY=1\nSTATUS=serving\nMAINPID={}", std::process::id()),
        Told::Stopping => "STOPPING=1\nSTATUS=sending clients away".to_owned(),
    };
    // An abstract name is written with an @.
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let unique = format!("tidelock-notify-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(&unique);
        let heard = |receiver: &UnixDatagram| {
            let mut text = [0; 64];
            let length = receiver.recv(&mut text).unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), Told::Ready).unwrap();
        assert!(heard(&receiver).starts_with("READY=1\n"));
        std::fs::remove_file(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&unique).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{unique}")), Told::Stopping).unwrap();
        assert!(heard(&receiver).starts_with("STOPPING=1\n"));
        assert!(send(path.as_os_str(), Told::Ready).is_err(), "nobody is there");
    }
}
