//! The life of a request (DESIGN section 4): table, choice, lease, attempt, response. Only this
//! module goes down to an endpoint and comes back.

use bytes::Bytes;
use http::{Method, Response};
use tidelock_core::retry::{Failure, Verdict};

use crate::access::Access;
use crate::attempt::events::{Events, is_event_stream};
use crate::attempt::{Attempt, Failed, Interim, Proxied};
use crate::body::{Abort, Received};
use crate::exchange::Exchange;
use crate::respond::{Reason, respond};
use crate::source::Source;
use crate::websocket::Tunnel;

/// What goes back to the client.
#[allow(clippy::large_enum_variant, reason = "nearly every one is a response")]
pub(crate) enum Outbound {
    Response(Response<OutBody>, Access),
    /// The endpoint has changed its protocol; the connection, or the stream that `Received` reads,
    /// is the tunnel's from here on.
    Switch(Response<()>, Access, Received, Box<Tunnel>),
    /// The client broke off.
    Abort(Access),
}

#[allow(clippy::large_enum_variant, reason = "one lives in a request at a time, and boxing it costs every request")]
pub(crate) enum OutBody {
    /// Made here; and what the client has not sent yet of its request, to be read and dropped.
    Own(Bytes, Received),
    Proxied(Proxied),
}

/// One request, from its head to its response's.
pub(crate) async fn serve(mut exchange: Box<Exchange>, body: Received, interim: &Interim) -> Outbound {
    let mut source = Source::new(body, exchange.worker.config.limits.retry_body_bytes);
    if exchange.length.is_some() {
        source.demand(exchange.worker.config.limits.min_upload_bytes_per_second);
    }
    loop {
        let Some((choice, endpoint, lease)) = exchange.next() else {
            if exchange.hold().await {
                continue;
            }
            let reason = exchange.reason();
            return own(exchange.access, reason, source.into_rest());
        };
        let pool = exchange.pool().clone();
        let mut attempt = Attempt { exchange: &mut exchange, endpoint: &endpoint, pool: &pool.spec, interim };
        match attempt.run(source, lease).await {
            Ok(mut response) => {
                // What a POST is answered with ends by itself, and is not asked for again.
                if exchange.head.method == Method::GET
                    && is_event_stream(response.headers())
                    && !response.body().is_end()
                {
                    response.body_mut().lasts(Events::new(&endpoint, &exchange.worker.counters));
                }
                exchange.finish_head(&choice, &endpoint, &mut response);
                return Outbound::Response(response.map(OutBody::Proxied), exchange.access);
            }
            Err(Failed::Client(Abort::Malformed)) => return own(exchange.access, Reason::BadBody, Received::Empty),
            Err(Failed::Client(Abort::Slow)) => return own(exchange.access, Reason::SlowRequest, Received::Empty),
            Err(Failed::Client(_)) => return aborted(exchange.access),
            Err(Failed::Routed(routed)) => {
                let (to, rest) = *routed;
                source = rest;
                if let Err(reason) = exchange.route_to(to, source.is_replayable()) {
                    return own(exchange.access, reason, source.into_rest());
                }
                source.rewind();
            }
            Err(Failed::Endpoint(failure, rest)) => {
                source = rest;
                match exchange.failed(&choice, failure, &source) {
                    Verdict::Again => {
                        source.rewind();
                        if let Some(pause) = exchange.pause() {
                            pause.await;
                        }
                    }
                    // Nothing was sent anywhere.
                    Verdict::GiveUp if failure == Failure::Connect && exchange.hold().await => {
                        source.rewind();
                    }
                    Verdict::GiveUp => {
                        let reason = exchange.reason();
                        return own(exchange.access, reason, source.into_rest());
                    }
                }
            }
        }
    }
}

/// A response that no endpoint gave, to a request of which `rest` is still to come.
pub(crate) fn own(mut access: Access, reason: Reason, rest: Received) -> Outbound {
    access.own(reason);
    let mut response = respond(reason);
    response.headers_mut().insert(http::header::DATE, access.date());
    access.head(response.status());
    Outbound::Response(response.map(|text| OutBody::Own(text, rest)), access)
}

pub(crate) fn aborted(mut access: Access) -> Outbound {
    access.aborted();
    Outbound::Abort(access)
}
