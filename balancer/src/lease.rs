//! An endpoint's phase and its count of requests in flight, in one atomic word.
//!
//! Checking the phase first and counting afterwards is a real race: a drain could see zero
//! between the two. In one word the count is taken and the phase is read in the same step, so a
//! request either counts before the phase changes or sees the change. Each worker has a word of
//! its own, which no other worker writes on the request path; a phase is set in all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::command::DrainMode;
use tidelock_core::id::EndpointId;
use tidelock_core::report::{Counts, Outcomes};
use tidelock_core::state::Phase;
use tokio::sync::Notify;

use crate::pace::NodePace;
use crate::sessions::Sessions;
use crate::telemetry::Counter;
use crate::upstream::admission::Admission;
use crate::upstream::places::{Places, RequestPlace};

/// What may be sent to an endpoint now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Sessions that live there only.
    Pinned,
    Closed,
}

impl Gate {
    pub(crate) fn of(phase: &Phase) -> Gate {
        match phase {
            Phase::Active {} => Gate::Open,
            Phase::Draining { mode: DrainMode::Sessions, .. } => Gate::Pinned,
            Phase::Draining { mode: DrainMode::Streams, .. } | Phase::Drained { .. } => Gate::Closed,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Gate::Open => 0,
            Gate::Pinned => 1 << 62,
            Gate::Closed => 2 << 62,
        }
    }

    fn admits(word: u64, pinned: bool) -> bool {
        match word >> 62 {
            0 => true,
            1 => pinned,
            _ => false,
        }
    }
}

const COUNT: u64 = (1 << 62) - 1;

/// One cache line, so that workers do not slow each other down.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Line {
    word: AtomicU64,
    websockets: AtomicU64,
    event_streams: AtomicU64,
    long_polls: AtomicU64,
    /// Attempts by how they went; only the worker whose line it is writes them.
    good: Counter,
    failed: Counter,
}

/// What lasts longer than other requests, and is counted apart. All but long polls do not end by
/// themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    WebSocket,
    EventStream,
    LongPoll,
}

impl Line {
    fn lasting(&self, kind: Lasts) -> &AtomicU64 {
        match kind {
            Lasts::WebSocket => &self.websockets,
            Lasts::EventStream => &self.event_streams,
            Lasts::LongPoll => &self.long_polls,
        }
    }
}

/// What all workers share of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) id: EndpointId,
    lines: Box<[Line]>,
    /// Of all workers together, where the pool limits them.
    pub(crate) places: Places,
    /// How fast WebSockets begin there.
    pub(crate) admission: Admission,
    /// At which this node closes what lasts on it.
    pub(crate) pace: NodePace,
    /// That have come since it drains with them.
    pub(crate) sessions: Sessions,
    /// A request could not reach it: whoever looks after it may want to look now.
    pub(crate) suspected: Notify,
}

impl EndpointState {
    pub(crate) fn new(id: EndpointId, workers: usize, gate: Gate) -> Arc<EndpointState> {
        let state = EndpointState {
            id,
            lines: (0..workers).map(|_| Line::default()).collect(),
            places: Places::default(),
            admission: Admission::default(),
            pace: NodePace::default(),
            sessions: Sessions::default(),
            suspected: Notify::new(),
        };
        state.set_gate(gate);
        Arc::new(state)
    }

    /// From the return of this call on, no worker takes what `gate` refuses.
    pub(crate) fn set_gate(&self, gate: Gate) {
        for line in &self.lines {
            let swap = |word| Some(word & COUNT | gate.bits());
            let _ = line.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, swap);
        }
    }

    pub(crate) fn admits(&self, worker: usize, pinned: bool) -> bool {
        Gate::admits(self.lines[worker].word.load(Ordering::Relaxed), pinned)
    }

    /// This worker's requests in flight.
    pub(crate) fn in_flight(&self, worker: usize) -> u64 {
        self.lines[worker].word.load(Ordering::Relaxed) & COUNT
    }

    /// Over all workers. Exact for "zero" once the gate is closed: what was let in before is
    /// counted in the same words.
    pub(crate) fn counts(&self) -> Counts {
        let sum = |read: fn(&Line) -> u64| self.lines.iter().map(read).sum();
        Counts {
            requests: sum(|line| line.word.load(Ordering::Acquire) & COUNT),
            websockets: sum(|line| line.websockets.load(Ordering::Acquire)),
            event_streams: sum(|line| line.event_streams.load(Ordering::Acquire)),
            long_polls: sum(|line| line.long_polls.load(Ordering::Acquire)),
        }
    }

    /// An attempt on it has ended, or has a response.
    pub(crate) fn count_outcome(&self, worker: usize, is_good: bool) {
        let line = &self.lines[worker];
        if is_good { line.good.add() } else { line.failed.add() }
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        let sum = |read: fn(&Line) -> u64| self.lines.iter().map(read).sum();
        Outcomes { good: sum(|line| line.good.load()), failed: sum(|line| line.failed.load()) }
    }
}

/// A request's place on an endpoint: from before the connection is chosen until both directions
/// of its stream, and the upload, have ended.
#[derive(Debug)]
pub(crate) struct Lease {
    state: Arc<EndpointState>,
    worker: usize,
    lasts: Option<Lasts>,
    /// Given back with it.
    place: Option<RequestPlace>,
}

impl Lease {
    /// None when the gate is closed to it.
    pub(crate) fn take(state: &Arc<EndpointState>, worker: usize, pinned: bool) -> Option<Lease> {
        let word = &state.lines[worker].word;
        let before = word.fetch_add(1, Ordering::AcqRel);
        if Gate::admits(before, pinned) {
            return Some(Lease { state: state.clone(), worker, lasts: None, place: None });
        }
        word.fetch_sub(1, Ordering::AcqRel);
        None
    }

    /// Whether the endpoint takes no new sessions: it is on its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        !self.state.admits(self.worker, false)
    }

    /// Holds the request's place for as long as the lease.
    pub(crate) fn hold(&mut self, place: Option<RequestPlace>) {
        self.place = place;
    }

    /// Counts the request as one that lasts too.
    pub(crate) fn lasts(&mut self, kind: Lasts) {
        let line = &self.state.lines[self.worker];
        line.lasting(kind).fetch_add(1, Ordering::AcqRel);
        // What it turns out to be counts: a long poll's answer may be an event stream.
        if let Some(before) = self.lasts.replace(kind) {
            line.lasting(before).fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let line = &self.state.lines[self.worker];
        if let Some(kind) = self.lasts {
            line.lasting(kind).fetch_sub(1, Ordering::AcqRel);
        }
        line.word.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_admits_nothing_and_counts_what_is_left() {
        let state = EndpointState::new(EndpointId(1), 2, Gate::Open);
        let first = Lease::take(&state, 0, false).unwrap();
        let mut second = Lease::take(&state, 1, false).unwrap();
        second.lasts(Lasts::WebSocket);
        let mut third = Lease::take(&state, 1, false).unwrap();
        third.lasts(Lasts::LongPoll);
        third.lasts(Lasts::EventStream);
        state.set_gate(Gate::Closed);
        assert!(Lease::take(&state, 0, true).is_none());
        assert_eq!(state.counts(), Counts { requests: 3, websockets: 1, event_streams: 1, long_polls: 0 });
        drop(first);
        drop(third);
        drop(second);
        assert!(state.counts().is_zero());
        state.set_gate(Gate::Pinned);
        assert!(Lease::take(&state, 0, false).is_none());
        assert!(Lease::take(&state, 0, true).is_some());
        assert!(state.counts().is_zero());
    }

    /// The race that matters: once the gate is closed and the count is zero, nothing runs.
    #[test]
    fn zero_behind_a_closed_gate_is_final() {
        for _ in 0..200 {
            let state = EndpointState::new(EndpointId(1), 1, Gate::Open);
            let running = Arc::new(AtomicU64::new(0));
            let barrier = Arc::new(std::sync::Barrier::new(2));
            let taker = {
                let (state, running, barrier) = (state.clone(), running.clone(), barrier.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    while let Some(lease) = Lease::take(&state, 0, false) {
                        running.store(1, Ordering::SeqCst);
                        running.store(0, Ordering::SeqCst);
                        drop(lease);
                    }
                })
            };
            barrier.wait();
            state.set_gate(Gate::Closed);
            while !state.counts().is_zero() {
                std::hint::spin_loop();
            }
            assert_eq!(running.load(Ordering::SeqCst), 0);
            taker.join().unwrap();
        }
    }
}
