//! `tidelock demo-endpoint`: a small stateful app to put behind the balancer, for the demo and
//! for tests. It keeps a counter a session in memory, so that a session that lands on another
//! endpoint is seen at once. HTTP/1.1 and HTTP/2 by prior knowledge on one port; no TLS.
//!
//! It is no part of the balancer and shares no code with it: an endpoint written by the same
//! hand would agree with the same mistakes.

mod app;
mod http1;
mod http2;
mod preface;
mod websocket;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidelock_core::id::Name;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use app::App;

/// How long what runs may go on after SIGTERM: shorter than the 10 s that the demo waits.
const FINISH: Duration = Duration::from_secs(5);
/// Bytes that tell the protocol come at once from a balancer; a silent connection is closed.
const FIRST_BYTES: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen; port 0 takes a free one, which the first line of output tells
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// The name that answers carry
    #[arg(long, default_value = "app-1")]
    pub(crate) name: Name,
    /// Exit when standard input closes: the demo holds its other end
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    accept_until(listener, options.name, stop).await;
    Ok(())
}

/// Serves until `stop` resolves, then lets what runs finish.
async fn accept_until(listener: TcpListener, name: Name, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    let app = Arc::new(App::new(name, stopped));
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, app.clone()));
                }
                // Out of file descriptors, as a rule: some have to close first.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FINISH, finished).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, app: Arc<App>) {
    // Small answers are the rule here; waiting for an ACK to send them would distort timings.
    let _ = stream.set_nodelay(true);
    let detected = tokio::select! {
        detected = tokio::time::timeout(FIRST_BYTES, preface::detect(stream)) => detected,
        () = app.stopped() => return,
    };
    match detected {
        Ok(Ok((preface::Protocol::Http1, io))) => http1::serve(io, app).await,
        Ok(Ok((preface::Protocol::Http2, io))) => http2::serve(io, app).await,
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended before its first bytes"),
        Err(_) => tracing::debug!("a connection said nothing"),
    }
}

#[cfg(test)]
mod tests;
