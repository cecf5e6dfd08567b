//! `/v1/events`: the status as a stream, for dashboards.
//!
//! One task looks and writes JSON, however many listen; a listener gets the same bytes as all
//! others. It is shown the newest status only: one that reads slowly misses states between and
//! holds nothing up, and one that does not read at all is cut by the listener's write limit.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::error::Problem;
use super::extract::{NoParams, Params};
use super::view::Status;
use super::{Context, view};

/// Counts change with every request; they are sent at most this often.
const COUNTS_EVERY: Duration = Duration::from_millis(500);
/// Nodes go missing by time alone, so the task looks this often even when nothing arrives.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A comment, so that both ends notice a dead connection. The dashboard gives up after 25 s.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Streams at one time, then 503: far more than people who look.
pub(crate) const LISTENERS_MAX: usize = 256;

/// The handle from which streams begin.
#[derive(Clone)]
pub(crate) struct Events {
    newest: watch::Sender<Arc<Message>>,
    places: Arc<Semaphore>,
}

/// One event, written once.
#[derive(Debug, Default)]
struct Message {
    epoch: u64,
    json: String,
}

impl Message {
    fn of(status: &Status) -> Message {
        let json = serde_json::to_string(status).expect("a status has string keys");
        Message { epoch: status.epoch.0, json }
    }

    fn event(&self) -> Event {
        Event::default().event("status").id(self.epoch.to_string()).data(&self.json)
    }
}

impl Events {
    pub(crate) fn new() -> Events {
        Events { newest: watch::Sender::default(), places: Arc::new(Semaphore::new(LISTENERS_MAX)) }
    }
}

/// The status now, and again whenever it changes. `Last-Event-ID` is accepted and not needed: the
/// first event has everything.
#[utoipa::path(get, path = "/v1/events", tag = "status",
    responses(
        (status = 200, content_type = "text/event-stream", body = view::Status,
            description = "event: status, id: the epoch, data: the same as /v1/status"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn stream(
    State(api): State<Context>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Problem> {
    let place = api.events.places.clone().try_acquire_owned();
    let place = place.map_err(|_| Problem::too_many(format!("{LISTENERS_MAX} event streams are open already.")))?;
    // Subscribed before looking: a change between the two is sent, if only as a repetition.
    let newest = api.events.newest.subscribe();
    let first = Message::of(&api.moment().status()).event();
    let events = follow(first, newest, api.stop.clone(), place);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive")).into_response())
}

struct Follower {
    first: Option<Event>,
    newest: watch::Receiver<Arc<Message>>,
    stop: CancellationToken,
    /// Given back with the stream.
    _place: OwnedSemaphorePermit,
}

fn follow(
    first: Event,
    newest: watch::Receiver<Arc<Message>>,
    stop: CancellationToken,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let follower = Follower { first: Some(first), newest, stop, _place: place };
    stream::unfold(follower, |mut follower| async move {
        if let Some(first) = follower.first.take() {
            return Some((Ok(first), follower));
        }
        tokio::select! {
            () = follower.stop.cancelled() => return None,
            changed = follower.newest.changed() => changed.ok()?,
        }
        let event = follower.newest.borrow_and_update().event();
        Some((Ok(event), follower))
    })
}

/// The one task behind all streams. Runs until it is dropped.
pub(crate) async fn broadcast(api: Context) {
    let mut state = api.published.state.clone();
    let mut roster = api.roster.clone();
    let mut raft = api.consensus.watch_status();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent: Option<Status> = None;
    // Counts wait until then.
    let mut quiet_until = Instant::now();
    let mut counts_wait = false;
    loop {
        tokio::select! {
            Ok(()) = state.changed() => {}
            Ok(()) = raft.changed() => {}
            Ok(()) = roster.changed(), if !counts_wait => {
                counts_wait = true;
                continue;
            }
            () = tokio::time::sleep_until(quiet_until), if counts_wait => {}
            _ = look.tick() => {}
        }
        counts_wait = false;
        if api.events.newest.receiver_count() == 0 {
            sent = None;
            continue;
        }
        let status = api.moment().status();
        let shape = without_ages(&status);
        if sent.as_ref() != Some(&shape) {
            api.events.newest.send_replace(Arc::new(Message::of(&status)));
            sent = Some(shape);
            quiet_until = Instant::now() + COUNTS_EVERY;
        }
    }
}

/// Ages change all the time and are no news.
fn without_ages(status: &Status) -> Status {
    let mut shape = status.clone();
    shape.nodes.iter_mut().for_each(|node| node.last_seen_ms = None);
    shape
}
