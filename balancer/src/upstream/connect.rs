//! A TCP connection to an endpoint, in bounded time.

use std::io;
use std::time::Duration;

use tidelock_core::spec::Address;
use tokio::net::TcpStream;

/// Names are resolved at each connection, so that a name that moves is followed; each address is
/// tried in turn within the one time limit.
pub(crate) async fn connect(address: &Address, limit: Duration) -> io::Result<TcpStream> {
    let attempt = async {
        let stream = match address.host().parse::<std::net::IpAddr>() {
            Ok(ip) => TcpStream::connect((ip, address.port())).await?,
            Err(_) => TcpStream::connect((address.host(), address.port())).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
    }
}
