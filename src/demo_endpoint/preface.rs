//! Tells HTTP/2 by prior knowledge from HTTP/1.1 by a connection's first bytes (RFC 9113
//! section 3.4), and gives them back to whoever reads on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A stream that yields what has been read of it once more.
pub(super) struct Rewound<S> {
    first: BytesMut,
    rest: S,
}

pub(super) async fn detect<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Protocol, Rewound<S>)> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    loop {
        if stream.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compared = first.len().min(PREFACE.len());
        let protocol = match first[..compared] == PREFACE[..compared] {
            false => Protocol::Http1,
            true if compared == PREFACE.len() => Protocol::Http2,
            true => continue,
        };
        return Ok((protocol, Rewound { first, rest: stream }));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.rest).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..count]);
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn detected(parts: &[&[u8]]) -> (Protocol, Vec<u8>) {
        // A duplex of one byte hands over one byte a read, however it was written.
        let (mut client, server) = tokio::io::duplex(1);
        let bytes = parts.concat();
        let writer = tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await });
        let (protocol, mut rewound) = detect(server).await.unwrap();
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.unwrap();
        writer.await.unwrap().unwrap();
        (protocol, all)
    }

    #[tokio::test]
    async fn the_preface_is_told_byte_by_byte_and_given_back() {
        assert_eq!(detected(&[PREFACE, b"rest"]).await, (Protocol::Http2, [PREFACE, b"rest"].concat()));
        let propfind = b"PROPFIND / HTTP/1.1\r\n\r\n";
        assert_eq!(detected(&[propfind]).await, (Protocol::Http1, propfind.to_vec()));
    }
}
