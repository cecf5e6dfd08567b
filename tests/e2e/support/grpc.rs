//! A gRPC client as far as its wire goes: length-prefixed messages in both directions at one time, and a status in the
//! trailers (gRPC over HTTP/2). The messages are bytes of ours; tests/peers has grpcio's own client and server.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method};

use super::http::{H2, NotWhole, get};

/// Has `messages` of them echoed, and gives the response's head. One after the other (bidirectional streaming), or all sent before the first is read.
pub(crate) async fn echo(h2: &H2, cookie: &str, messages: usize, in_turn: bool) -> Result<HeaderMap, NotWhole> {
    let mut request = get("/demo.Echo/Stream", cookie).map(|_| ());
    *request.method_mut() = Method::POST;
    request.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    request.headers_mut().insert("te", "trailers".parse().expect("a value"));
    let (response, mut stream) = h2.begin_stream(request).await?;
    let message = |number: usize| {
        let mut message = BytesMut::new();
        message.put_u8(0);
        message.put_u32(200);
        message.extend(std::iter::repeat_n(number as u8, 200));
        message.freeze()
    };
    if !in_turn {
        for number in 0..messages {
            stream.send_data(message(number), number + 1 == messages)?;
        }
    }
    let call = async {
        let (head, mut body) = response.await?.into_parts();
        let (mut echoed, mut answer) = (0, BytesMut::new());
        while echoed < messages {
            if in_turn {
                stream.send_data(message(echoed), echoed + 1 == messages)?;
            }
            while answer.len() < 205 {
                let Some(data) = body.data().await else { return Err(NotWhole("it ended between messages".into())) };
                let data: Bytes = data?;
                body.flow_control().release_capacity(data.len())?;
                answer.extend_from_slice(&data);
            }
            if answer.split_to(205) != message(echoed) {
                return Err(NotWhole(format!("message {echoed} is another one")));
            }
            echoed += 1;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        if !answer.is_empty() || body.data().await.is_some() {
            return Err(NotWhole("more came back than was sent".into()));
        }
        match body.trailers().await? {
            Some(trailers) if trailers.get("grpc-status").is_some_and(|status| status == "0") => {}
            trailers => return Err(NotWhole(format!("trailers {trailers:?}"))),
        }
        Ok(head.headers)
    };
    tokio::time::timeout(super::http::LIMIT, call).await?
}
