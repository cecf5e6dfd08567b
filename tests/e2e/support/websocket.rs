//! A WebSocket client small enough to see through (RFC 6455): text frames, masked with zeros.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::http::NotWhole;

pub(crate) struct WebSocket {
    stream: BufReader<TcpStream>,
    head: String,
}

/// A frame's opcode and payload.
pub(crate) type Frame = (u8, Vec<u8>);

impl WebSocket {
    pub(crate) async fn open(address: SocketAddr, cookie: &str) -> Result<WebSocket, NotWhole> {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: demo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{cookie}\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        if !head.starts_with("HTTP/1.1 101 ") || !head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            return Err(NotWhole(format!("no WebSocket: {head}")));
        }
        Ok(WebSocket { stream, head })
    }

    /// A field of the 101.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The pin that came with it.
    pub(crate) fn cookie(&self) -> Option<String> {
        Some(self.header("set-cookie")?.split(';').next()?.to_owned())
    }

    pub(crate) async fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<(), NotWhole> {
        assert!(payload.len() < 126, "short frames only");
        let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        Ok(self.stream.write_all(&frame).await?)
    }

    pub(crate) async fn receive(&mut self) -> Result<Frame, NotWhole> {
        let read = async {
            let opcode = self.stream.read_u8().await? & 0x0f;
            let length = match self.stream.read_u8().await? {
                126 => self.stream.read_u16().await?.into(),
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await?;
            Ok((opcode, payload))
        };
        tokio::time::timeout(Duration::from_secs(30), read).await?
    }

    /// Sends a text and waits for it to come back, ticks between.
    pub(crate) async fn echo(&mut self, text: &str) -> Result<(), NotWhole> {
        self.send(1, text.as_bytes()).await?;
        loop {
            match self.receive().await? {
                (1, payload) if payload.ends_with(text.as_bytes()) => return Ok(()),
                (1 | 2 | 9 | 10, _) => {}
                (opcode, payload) => return Err(NotWhole(format!("frame {opcode} with {payload:?}"))),
            }
        }
    }

    /// The other side has closed, and is told that this one has heard it.
    pub(crate) async fn answer_close(mut self) -> Result<(), NotWhole> {
        self.send(8, &1012u16.to_be_bytes()).await
    }

    /// The closing handshake.
    pub(crate) async fn close(mut self) -> Result<(), NotWhole> {
        self.send(8, &1000u16.to_be_bytes()).await?;
        while self.receive().await?.0 != 8 {}
        Ok(())
    }
}
