//! An HTTP/1.1 peer that writes what a test says and reads strictly: a client, or an endpoint.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frames::soon;

pub(crate) struct Http1<S = TcpStream> {
    pub(crate) io: S,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Head {
    /// The request line or the status line.
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

/// The body ended before it was whole; the bytes that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut(pub(crate) Vec<u8>);

impl Head {
    pub(crate) fn status(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("none")
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Http1<TcpStream> {
    pub(crate) async fn connect(address: SocketAddr) -> Http1 {
        let io = TcpStream::connect(address).await.expect("the listener is open");
        io.set_nodelay(true).unwrap();
        Http1::over(io)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub(crate) fn over(io: S) -> Http1<S> {
        Http1 { io, unread: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // A peer that has closed is seen by the next read.
        let _ = soon("a write", self.io.write_all(bytes.as_ref())).await;
        let _ = self.io.flush().await;
    }

    /// `head` is the request line and the fields but Host, each line ended by CRLF.
    pub(crate) async fn request(&mut self, head: &str, body: impl AsRef<[u8]>) {
        self.write([format!("{head}host: app.test\r\n\r\n").as_bytes(), body.as_ref()].concat()).await;
    }

    pub(crate) async fn get(&mut self, path: &str) {
        self.request(&format!("GET {path} HTTP/1.1\r\n"), "").await;
    }

    /// False at the end of the connection.
    pub(crate) async fn more(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        match soon("bytes", self.io.read(&mut buffer)).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.unread.extend(&buffer[..n]);
                true
            }
        }
    }

    pub(crate) async fn try_head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let text = String::from_utf8(self.unread.drain(..end).collect()).expect("a head is ASCII");
        let mut lines = text.trim_end().split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').expect("a field");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Some(Head { start, fields: lines.map(field).collect() })
    }

    /// The head of a request that may come late; none when there will be none.
    pub(crate) async fn next_head(&mut self) -> Option<Head> {
        while find(&self.unread, b"\r\n\r\n").is_none() {
            let mut buffer = [0; 4_096];
            match self.io.read(&mut buffer).await {
                Ok(n @ 1..) => self.unread.extend(&buffer[..n]),
                _ => return None,
            }
        }
        self.try_head().await
    }

    pub(crate) async fn head(&mut self) -> Head {
        self.try_head().await.expect("a head, but the connection ended")
    }

    pub(crate) async fn exact(&mut self, length: usize) -> Result<Vec<u8>, Cut> {
        while self.unread.len() < length {
            if !self.more().await {
                return Err(Cut(std::mem::take(&mut self.unread)));
            }
        }
        Ok(self.unread.drain(..length).collect())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                let line = self.unread.drain(..at + 2).collect();
                return Some(String::from_utf8(line).expect("ASCII").trim_end().to_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// One chunk; empty is the last, behind which the trailers follow.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line().await?;
        let size = usize::from_str_radix(&size, 16).expect("a chunk's size");
        let chunk = self.exact(size).await.ok()?;
        if size > 0 {
            assert_eq!(self.line().await?, "");
        }
        Some(chunk)
    }

    /// The fields behind the last chunk.
    pub(crate) async fn trailers(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await.filter(|line| !line.is_empty()) {
            lines.push(line);
        }
        lines
    }

    /// The body that `head` announces. Without length and chunks it is all until the close.
    pub(crate) async fn body(&mut self, head: &Head) -> Result<Vec<u8>, Cut> {
        if head.field("transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                match self.chunk().await {
                    None => return Err(Cut(body)),
                    Some(chunk) if chunk.is_empty() => {
                        self.trailers().await;
                        return Ok(body);
                    }
                    Some(chunk) => body.extend(chunk),
                }
            }
        }
        match head.field("content-length") {
            Some(length) => self.exact(length.parse().expect("a number")).await,
            None if head.start.starts_with("HTTP") => Ok(self.rest().await),
            None => Ok(Vec::new()),
        }
    }

    /// A whole response: its head and body.
    pub(crate) async fn response(&mut self) -> (Head, Vec<u8>) {
        let head = self.head().await;
        let body = self.body(&head).await.expect("a whole body");
        (head, body)
    }

    /// What was read and not used yet.
    pub(crate) fn taken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// All until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.unread)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
