//! Which protocol a cleartext connection speaks, told by its first bytes: the HTTP/2 preface
//! (RFC 9113 section 3.4), or anything else, which HTTP/1.1 then accepts or refuses.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken, with the bytes that told it.
pub(crate) enum Detected {
    H1(Bytes),
    H2(Bytes),
    /// The peer closed without a byte.
    Closed,
}

/// Reads until the bytes are the preface or cannot become it. The caller sets the time limit.
pub(crate) async fn detect<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Detected> {
    let mut first = [0; PREFACE.len()];
    let mut have = 0;
    while have < first.len() && first[..have] == PREFACE[..have] {
        match stream.read(&mut first[have..]).await? {
            0 if have == 0 => return Ok(Detected::Closed),
            0 => break,
            n => have += n,
        }
    }
    let read = Bytes::copy_from_slice(&first[..have]);
    Ok(if first[..have] == PREFACE[..] { Detected::H2(read) } else { Detected::H1(read) })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn detected(pieces: &[&[u8]]) -> (&'static str, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        let write = async {
            for piece in pieces {
                ours.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(ours);
        };
        let (found, ()) = tokio::join!(detect(&mut theirs), write);
        let (kind, mut all) = match found.unwrap() {
            Detected::H1(first) => ("h1", first.to_vec()),
            Detected::H2(first) => ("h2", first.to_vec()),
            Detected::Closed => return ("closed", Vec::new()),
        };
        theirs.read_to_end(&mut all).await.unwrap();
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
