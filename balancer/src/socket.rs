//! A client's or an endpoint's socket, in cleartext or under TLS.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// What the kernel gives.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug)]
pub(crate) enum Socket {
    Plain(Stream),
    /// Boxed: a TLS session is large, and most sockets have none.
    Tls(Box<TlsStream<Stream>>),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Socket {
    /// Whether closing sends a reset instead of an end.
    pub(crate) fn reset_on_close(&self, resets: bool) {
        let stream = match self {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => stream.get_ref().0,
        };
        // Where it fails the socket is closed already.
        let _ = socket2::SockRef::from(stream).set_linger(resets.then_some(std::time::Duration::ZERO));
    }
}

/// Reading and writing, passed on to whichever variant it is.
macro_rules! pass_on {
    ($kind:ident: $($variant:ident),*) => {
        impl AsyncRead for $kind {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match &mut *self {
                    $($kind::$variant(stream) => Pin::new(stream).poll_read(cx, buf),)*
                }
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match &mut *self {
                    $($kind::$variant(stream) => Pin::new(stream).poll_write(cx, buf),)*
                }
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match &mut *self {
                    $($kind::$variant(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),)*
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self {
                    $($kind::$variant(stream) => Pin::new(stream).poll_flush(cx),)*
                }
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self {
                    $($kind::$variant(stream) => Pin::new(stream).poll_shutdown(cx),)*
                }
            }
        }
    };
}

pass_on!(Stream: Tcp, Unix);
pass_on!(Socket: Plain, Tls);
