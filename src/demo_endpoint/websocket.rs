//! The server's side of a WebSocket (RFC 6455): ticks once a second, echoes texts and binaries.
//! Written by hand, since two dozen lines of framing weigh less than a second WebSocket stack in
//! a binary whose balancer passes frames through unread.

use aws_lc_rs::digest;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::app::App;

/// The longest message, with all its fragments. More is answered 1009.
const MAX_MESSAGE: usize = 1 << 20;

/// Section 7.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseCode {
    GoingAway = 1001,
    ProtocolError = 1002,
    InvalidText = 1007,
    TooBig = 1009,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    last: bool,
    opcode: Opcode,
    payload: Bytes,
}

/// What a client's frame asks for.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Send(Opcode, Bytes),
    /// Answer the close with its own code and end.
    Closed(Bytes),
}

/// `sec-websocket-accept` for a client's key (section 4.2.2).
pub(super) fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(context.finish().as_ref())
}

pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, app: &App) {
    let mut input = BytesMut::new();
    let mut messages = Messages::default();
    let stopped = app.stopped();
    tokio::pin!(stopped);
    let mut closing = false;
    let ticks = app.ticks();
    tokio::pin!(ticks);
    loop {
        let output = tokio::select! {
            read = io.read_buf(&mut input) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let mut output = Vec::new();
                    let end = consume(&mut input, &mut messages, closing, &mut output);
                    if io.write_all(&output).await.is_err() || end {
                        let _ = io.shutdown().await;
                        return;
                    }
                    continue;
                }
            },
            Some(tick) = ticks.next(), if !closing => encode(Opcode::Text, tick.json().as_bytes()),
            () = &mut stopped, if !closing => {
                // The client's own close ends the loop (section 7.1.1).
                closing = true;
                close(CloseCode::GoingAway)
            }
        };
        if io.write_all(&output).await.is_err() {
            return;
        }
    }
}

/// Handles every whole frame of `input`; true ends the connection.
fn consume(input: &mut BytesMut, messages: &mut Messages, closing: bool, output: &mut Vec<u8>) -> bool {
    loop {
        let action = match decode(input) {
            Ok(None) => return false,
            Ok(Some(frame)) => messages.take(frame),
            Err(code) => Err(code),
        };
        match action {
            Ok(Action::Nothing) => {}
            Ok(Action::Send(opcode, payload)) if !closing => output.extend(encode(opcode, &payload)),
            Ok(Action::Send(..)) => {}
            Ok(Action::Closed(_)) if closing => return true,
            Ok(Action::Closed(payload)) => {
                output.extend(encode(Opcode::Close, &payload));
                return true;
            }
            Err(code) => {
                output.extend(close(code));
                return true;
            }
        }
    }
}

/// Puts fragments together (section 5.4).
#[derive(Default)]
struct Messages {
    begun: Option<(Opcode, BytesMut)>,
}

impl Messages {
    fn take(&mut self, frame: Frame) -> Result<Action, CloseCode> {
        match (frame.opcode, &mut self.begun) {
            (Opcode::Ping, _) => return Ok(Action::Send(Opcode::Pong, frame.payload)),
            (Opcode::Pong, _) => return Ok(Action::Nothing),
            (Opcode::Close, _) => return closed(frame.payload),
            (Opcode::Continuation, None) => return Err(CloseCode::ProtocolError),
            (Opcode::Continuation, Some((_, message))) => message.extend_from_slice(&frame.payload),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(CloseCode::ProtocolError),
            (opcode, begun @ None) => *begun = Some((opcode, BytesMut::from(&frame.payload[..]))),
        }
        if self.begun.as_ref().is_some_and(|(_, message)| message.len() > MAX_MESSAGE) {
            return Err(CloseCode::TooBig);
        }
        match self.begun.take_if(|_| frame.last) {
            None => Ok(Action::Nothing),
            Some((Opcode::Text, message)) if std::str::from_utf8(&message).is_err() => Err(CloseCode::InvalidText),
            Some((opcode, message)) => Ok(Action::Send(opcode, message.freeze())),
        }
    }
}

/// A close's payload is nothing, or a code and a reason (section 5.5.1).
fn closed(payload: Bytes) -> Result<Action, CloseCode> {
    let code = match payload.len() {
        0 => return Ok(Action::Closed(payload)),
        1 => return Err(CloseCode::ProtocolError),
        _ => u16::from_be_bytes([payload[0], payload[1]]),
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Action::Closed(payload.slice(..2))),
        _ => Err(CloseCode::ProtocolError),
    }
}

/// The first whole frame of `input`, unmasked (section 5.2).
fn decode(input: &mut BytesMut) -> Result<Option<Frame>, CloseCode> {
    let &[first, second, ..] = &input[..] else { return Ok(None) };
    let opcode = match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(CloseCode::ProtocolError),
    };
    let last = first & 0x80 != 0;
    let (reserved, masked, short) = (first & 0x70, second & 0x80, usize::from(second & 0x7f));
    let control = matches!(opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
    if reserved != 0 || masked == 0 || control && (!last || short > 125) {
        return Err(CloseCode::ProtocolError);
    }
    let (length, head) = match (short, &input[2..]) {
        (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 4),
        (127, &[a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10),
        (126 | 127, _) => return Ok(None),
        (short, _) => (short as u64, 2),
    };
    if length > MAX_MESSAGE as u64 {
        return Err(CloseCode::TooBig);
    }
    let length = length as usize;
    if input.len() < head + 4 + length {
        return Ok(None);
    }
    input.advance(head);
    let mask = input.split_to(4);
    let mut payload = input.split_to(length);
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(Some(Frame { last, opcode, payload: payload.freeze() }))
}

/// A whole message in one unmasked frame.
fn encode(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode as u8];
    match payload.len() {
        short @ 0..126 => frame.push(short as u8),
        medium @ 126..65_536 => {
            frame.push(126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

fn close(code: CloseCode) -> Vec<u8> {
    encode(Opcode::Close, &(code as u16).to_be_bytes())
}

/// RFC 4648 section 4, for the handshake's 20 bytes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let known = digit <= group.len();
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if known { ALPHABET[index as usize] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = encode(Opcode::Text, payload);
        frame[0] = first;
        frame[1] |= 0x80;
        let body = frame.split_off(frame.len() - payload.len());
        frame.extend(mask);
        frame.extend(body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn answers(frames: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let mut output = Vec::new();
        let end = consume(&mut BytesMut::from(&frames.concat()[..]), &mut Messages::default(), false, &mut output);
        (output, end)
    }

    #[test]
    fn the_examples_of_rfc_6455() {
        // Section 1.3.
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        // Section 5.7: a masked and an unmasked "Hello", 256 bytes, 64 KiB.
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(client(0x81, b"Hello"), masked);
        let frame = decode(&mut BytesMut::from(&masked[..])).unwrap().unwrap();
        assert_eq!(frame, Frame { last: true, opcode: Opcode::Text, payload: "Hello".into() });
        assert_eq!(encode(Opcode::Text, b"Hello"), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(encode(Opcode::Binary, &[0; 256])[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(encode(Opcode::Binary, &[0; 65_536])[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_frame_is_decoded_only_when_it_is_whole() {
        let frame = client(0x82, &[7; 300]);
        for length in 0..frame.len() {
            assert_eq!(decode(&mut BytesMut::from(&frame[..length])), Ok(None), "{length}");
        }
    }

    #[test]
    fn fragments_are_joined_around_a_ping() {
        let frames = [client(0x01, b"Hel"), client(0x89, b"hi"), client(0x80, b"lo")];
        let expected = [encode(Opcode::Pong, b"hi"), encode(Opcode::Text, b"Hello")].concat();
        assert_eq!(answers(&frames), (expected, false));
    }

    #[test]
    fn a_close_is_answered_with_its_code() {
        let frames = [client(0x88, &[0x03, 0xe8, b'x']), client(0x81, b"after")];
        assert_eq!(answers(&frames), (encode(Opcode::Close, &[0x03, 0xe8]), true));
    }

    #[test]
    fn violations_are_closed_with_their_code() {
        let unmasked = encode(Opcode::Text, b"x");
        assert_eq!(answers(&[unmasked]), (close(CloseCode::ProtocolError), true));
        assert_eq!(answers(&[client(0x80, b"x")]), (close(CloseCode::ProtocolError), true));
        assert_eq!(answers(&[client(0x81, &[0xff])]), (close(CloseCode::InvalidText), true));
        assert_eq!(answers(&[client(0x88, &[0x03, 0xed])]), (close(CloseCode::ProtocolError), true));
        let mut huge = vec![0x82, 0xff];
        huge.extend((MAX_MESSAGE as u64 + 1).to_be_bytes());
        assert_eq!(answers(&[huge]), (close(CloseCode::TooBig), true));
    }
}
