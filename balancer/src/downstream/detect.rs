//! Which protocol a cleartext connection speaks, told by its first bytes: the HTTP/2 preface
//! (RFC 9113 section 3.4), or anything else, which HTTP/1.1 then accepts or refuses.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) enum Detected<S> {
    H1(Replayed<S>),
    H2(Replayed<S>),
    /// The peer closed without a byte.
    Closed,
}

/// A stream whose first bytes were read already and are read again.
pub(crate) struct Replayed<S> {
    first: [u8; PREFACE.len()],
    given: usize,
    have: usize,
    stream: S,
}

/// Reads until the bytes are the preface or cannot become it. The caller sets the time limit.
pub(crate) async fn detect<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Detected<S>> {
    let mut first = [0; PREFACE.len()];
    let mut have = 0;
    while have < first.len() && first[..have] == PREFACE[..have] {
        match stream.read(&mut first[have..]).await? {
            0 if have == 0 => return Ok(Detected::Closed),
            0 => break,
            n => have += n,
        }
    }
    let is_h2 = first[..have] == PREFACE[..];
    let replayed = Replayed { first, given: 0, have, stream };
    Ok(if is_h2 { Detected::H2(replayed) } else { Detected::H1(replayed) })
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given < self.have {
            let n = (self.have - self.given).min(buf.remaining());
            buf.put_slice(&self.first[self.given..self.given + n]);
            self.given += n;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn detected(pieces: &[&[u8]]) -> (&'static str, Vec<u8>) {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let write = async {
            for piece in pieces {
                ours.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(ours);
        };
        let (found, ()) = tokio::join!(detect(theirs), write);
        let (kind, mut io) = match found.unwrap() {
            Detected::H1(io) => ("h1", io),
            Detected::H2(io) => ("h2", io),
            Detected::Closed => return ("closed", Vec::new()),
        };
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        (kind, all)
    }

    #[tokio::test]
    async fn the_first_bytes_tell_and_are_read_again() {
        assert_eq!(detected(&[b"GET / HTTP/1.1\r\n\r\n"]).await, ("h1", b"GET / HTTP/1.1\r\n\r\n".to_vec()));
        assert_eq!(detected(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\nmore"]).await.0, "h2");
        assert_eq!(detected(&[b"PR", b"OPFIND / HTTP/1.1\r\n"]).await, ("h1", b"PROPFIND / HTTP/1.1\r\n".to_vec()));
        assert_eq!(detected(&[b"PRI * HT"]).await, ("h1", b"PRI * HT".to_vec()), "cut off in the preface");
        assert_eq!(detected(&[]).await.0, "closed");
    }
}
