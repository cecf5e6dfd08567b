//! A request's body on a client's connection. The connection and the request share the socket:
//! whoever needs the next bytes reads them.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::decode::Decoder;
use super::wire::Wire;
use crate::body::{Abort, Piece};

/// A client's connection, with the body that comes in on it now.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) wire: Wire,
    pub(crate) body: Decoder,
    /// The client waits for `100 Continue` before it sends the body (RFC 9110 section 10.1.1).
    pub(crate) owes_continue: bool,
}

/// A request's handle on its body.
#[derive(Debug)]
pub(crate) struct H1Received(Rc<RefCell<Incoming>>);

impl Incoming {
    pub(crate) fn new(wire: Wire) -> Rc<RefCell<Incoming>> {
        Rc::new(RefCell::new(Incoming { wire, body: Decoder::Done, owes_continue: false }))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        loop {
            match self.body.decode(&mut self.wire.input) {
                Ok(Some(piece)) => return Poll::Ready(piece),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Piece::Aborted(Abort::Malformed)),
            }
            if std::mem::take(&mut self.owes_continue) {
                self.wire.buffer().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            // What waits for the client must not wait for the client's next byte.
            let _ = self.wire.poll_drain(cx);
            match ready!(self.wire.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(self.body.at_end()),
                Ok(_) => {}
                Err(_) => return Poll::Ready(Piece::Aborted(Abort::Gone)),
            }
        }
    }
}

impl H1Received {
    pub(crate) fn new(incoming: &Rc<RefCell<Incoming>>) -> H1Received {
        H1Received(incoming.clone())
    }

    pub(crate) fn is_end(&self) -> bool {
        self.0.borrow().body.is_done()
    }

    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        self.0.borrow_mut().poll_piece(cx)
    }
}
