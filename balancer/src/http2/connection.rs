//! A connection: its socket, and the turns in which it reads and writes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use super::frame::{DEFAULT_WINDOW, Reason};
use super::input::Input;
use super::state::{Farewell, Fatal, Role, State};
use super::{Config, READ_STOP, TooMuch};
use crate::flag::Flag;
use crate::turn::after_others;

/// Reads in a turn: others have theirs then.
const READS: usize = 4;
/// Frames in a turn: small ones cost as much as large ones.
const FRAMES: usize = 1_000;

/// What a connection and its streams share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: RefCell<State>,
    /// Up when the peer's first SETTINGS are there.
    pub(super) has_settings: Rc<Flag>,
    /// Reads that have brought something.
    pub(super) reads: Cell<u64>,
}

#[derive(Debug)]
pub(crate) struct Connection<S> {
    pub(super) shared: Rc<Shared>,
    socket: S,
    input: Input,
    /// The peer has ended its side.
    is_closed: bool,
    /// How it has ended; told again to who asks again.
    ended: Option<End>,
}

/// How a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer closed it, or the network broke.
    Closed,
    /// For what the peer has done.
    Fault(Reason),
    /// The same, where it is no fault but too much.
    TooMuch(TooMuch),
    /// The peer takes nothing new, and nothing runs.
    Left,
}

/// What is read and dropped of a peer that is told why its connection ends.
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(1);

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(socket: S, first: Bytes, role: Role, config: Config) -> Connection<S> {
        debug_assert!(config.stream_window.min(config.connection_window) >= DEFAULT_WINDOW);
        let shared =
            Shared { state: RefCell::new(State::new(role, config)), has_settings: Rc::default(), reads: Cell::new(0) };
        Connection { shared: Rc::new(shared), socket, input: Input::new(&first, role), is_closed: false, ended: None }
    }

    /// Whether the peer's SETTINGS are there.
    pub(crate) fn has_begun(&self) -> bool {
        self.shared.has_settings.is_up()
    }

    /// Reads what there is, and gives it to its streams. From here to [`Connection::poll_write`] nobody has to be
    /// woken for what they write.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.ended.is_none()
            && let Poll::Ready(end) = self.poll_input(cx)
        {
            self.ended = Some(end);
        }
        self.ended.map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut state = self.shared.state.borrow_mut();
        state.is_running = true;
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let mut frames = FRAMES;
        for read in 0.. {
            let is_read = !self.input.buffer.is_empty() && !state.is_over;
            let taken = if is_read { self.input.take(&mut state, &mut frames) } else { Ok(()) };
            if state.peer.has_settings && !self.shared.has_settings.is_up() {
                self.shared.has_settings.raise();
            }
            match taken {
                Ok(()) => {}
                Err(Fatal::Error(reason)) => {
                    state.give_up(reason);
                    return Poll::Ready(End::Fault(reason));
                }
                Err(Fatal::TooMuch(what)) => {
                    state.give_up(Reason::ENHANCE_YOUR_CALM);
                    return Poll::Ready(End::TooMuch(what));
                }
            }
            if state.is_over {
                return Poll::Ready(End::Closed);
            }
            if state.output.len() > read_stop(state.role) {
                // `poll_write` wakes when it has gone out.
                return Poll::Pending;
            }
            if read == READS || frames == 0 {
                after_others(cx);
                return Poll::Pending;
            }
            self.input.prepare();
            match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input.buffer) {
                Poll::Pending => {
                    self.input.rest();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(n)) if n > 0 => self.shared.reads.set(self.shared.reads.get().wrapping_add(1)),
                Poll::Ready(_) => {
                    self.is_closed = true;
                    state.end();
                    return Poll::Ready(End::Closed);
                }
            }
        }
        unreachable!("reads are counted")
    }

    /// Writes what the turn has brought; ready when all has gone out.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state.borrow_mut();
        state.is_running = false;
        if state.output.is_done() {
            return Poll::Ready(());
        }
        let before = state.output.len();
        let written = state.output.poll_drain(&mut self.socket, cx);
        let left = state.output.len();
        state.wake_waiting();
        let stop = read_stop(state.role);
        if before > stop && left <= stop {
            cx.waker().wake_by_ref();
        }
        written
    }

    /// The block of header fields that has begun and is not all there, by how many came before it.
    pub(crate) fn head_under_way(&self) -> Option<u64> {
        let state = self.shared.state.borrow();
        (state.unfinished.is_some() || self.input.is_within_head()).then_some(state.blocks)
    }

    /// Whether it has said that it leaves, and nothing is left to be done.
    pub(crate) fn has_left(&self) -> bool {
        let state = self.shared.state.borrow();
        state.farewell == Farewell::Said && state.held() == 0 && state.output.is_done()
    }

    /// Ends, and tells the peer why.
    pub(crate) fn give_up(&mut self, reason: Reason) {
        self.shared.state.borrow_mut().give_up(reason);
    }

    /// Writes what is left, and ends the writing side.
    pub(crate) async fn close(&mut self) {
        poll_fn(|cx| self.poll_write(cx)).await;
        let _ = self.socket.shutdown().await;
        if self.is_closed {
            return;
        }
        // A socket that is closed while something is unread resets the connection, and the peer may never read what
        // it was told.
        let _ = timeout(LINGER_TIME, async {
            let (mut dropped, mut read) = (0, vec![0; 16 * 1024]);
            while let Ok(n @ 1..) = self.socket.read(&mut read).await
                && dropped < LINGER_BYTES
            {
                dropped += n;
            }
        })
        .await;
    }
}

/// An endpoint may do nothing but write while it gets many large heads at once.
fn read_stop(role: Role) -> usize {
    if role == Role::Client { 8 * READ_STOP } else { READ_STOP }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.end();
        state.task = None;
        // Whoever waits for them waits no longer.
        self.shared.has_settings.raise();
        // Those that nobody has accepted have no handles to go.
        while let Some(incoming) = state.incoming.pop_front() {
            state.let_go(incoming.at);
            state.let_go(incoming.at);
        }
    }
}
