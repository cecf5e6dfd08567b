//! Where one request goes: route, affinity, ring, availability. No I/O, and the same answer on
//! every node that has the same epoch.

mod route_to;

use std::net::IpAddr;
use std::num::NonZeroU32;

use http::HeaderMap;

pub use self::route_to::{ROUTE_FOR, ROUTE_FOR_MAX_S, ROUTE_TO, RouteTo};
use crate::affinity::{Pin, SessionId, cookies};
use crate::ring;
use crate::route::Route;
use crate::spec::{Affinity, Strength};
use crate::table::{PoolTable, Table};

/// What this node sees of the endpoints at this moment; places are those of the pool's table.
pub trait Availability {
    /// Whether a request may be sent there now. `pinned` says that its session lives there.
    fn admits(&self, endpoint: usize, pinned: bool) -> bool;
    /// Requests in flight, to compare two endpoints.
    fn in_flight(&self, endpoint: usize) -> u64;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The endpoint's place in the pool's table.
    pub endpoint: usize,
    pub placement: Placement,
    /// The session that goes there, if our cookie keeps it.
    pub session: Option<SessionId>,
    /// The pin to seal into a cookie with the response: a new one, or one that is to be renewed.
    pub pin: Option<Pin>,
}

impl Choice {
    /// The endpoint that another one has named.
    pub fn routed(endpoint: usize) -> Choice {
        Choice { endpoint, placement: Placement::Routed, session: None, pin: None }
    }
}

/// How the endpoint was found; the access log's `affinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The request has nothing that keeps it anywhere.
    Unkeyed,
    /// The first on the ring for the request's key.
    Keyed,
    /// A session begins.
    New,
    /// The session's pin was honoured.
    Kept,
    /// An endpoint said whose it is.
    Routed,
    /// The session, or the key, had to go elsewhere.
    Moved(MoveReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveReason {
    /// The endpoint has been removed.
    Gone,
    /// It drains, or has drained.
    Draining,
    /// The fleet calls it down.
    Unhealthy,
    /// This node cannot reach it.
    Unavailable,
    /// The pin was taken back.
    Revoked,
}

impl Placement {
    pub fn as_str(self) -> &'static str {
        match self {
            Placement::Unkeyed => "none",
            Placement::Keyed => "key",
            Placement::New => "new",
            Placement::Kept => "kept",
            Placement::Routed => "routed",
            Placement::Moved(MoveReason::Gone) => "moved:gone",
            Placement::Moved(MoveReason::Draining) => "moved:draining",
            Placement::Moved(MoveReason::Unhealthy) => "moved:unhealthy",
            Placement::Moved(MoveReason::Unavailable) => "moved:unavailable",
            Placement::Moved(MoveReason::Revoked) => "moved:revoked",
        }
    }
}

/// No endpoint of the pool may be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEndpoint;

/// What a choice needs to know of the moment.
pub struct Moment<'a> {
    /// Unix time in seconds, for the pin.
    pub now: u32,
    /// Places that have failed for this request.
    pub tried: &'a [usize],
    /// The session that an earlier choice for this request began: a retry goes on with it.
    pub session: Option<SessionId>,
}

/// What a request has that may keep it somewhere.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub headers: &'a HeaderMap,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub client: IpAddr,
}

impl<'a> Asked<'a> {
    /// The key on the ring; none where there is none in the request.
    fn key(&self, affinity: &Affinity) -> Option<Key<'a>> {
        match affinity {
            Affinity::None {} | Affinity::Cookie(_) => None,
            Affinity::AppCookie { name } => cookies(self.headers, name.as_str()).next().map(Key::Bytes),
            Affinity::Header { name } => self.headers.get(name.header()).map(|value| Key::Bytes(value.as_bytes())),
            Affinity::Query { name } => {
                let mut pairs = self.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let (_, value) = pairs.find(|(known, _)| *known == name.as_str())?;
                Some(Key::Bytes(value.as_bytes()))
            }
            Affinity::PathSegment { number } => {
                let segment = self.path.split('/').nth(number.get().into()).filter(|segment| !segment.is_empty())?;
                Some(Key::Bytes(segment.as_bytes()))
            }
            // An IPv4 client of an IPv6 socket is the same client.
            Affinity::ClientIp {} => Some(match self.client.to_canonical() {
                IpAddr::V4(address) => Key::V4(address.octets()),
                IpAddr::V6(address) => Key::V6(address.octets()),
            }),
        }
    }
}

enum Key<'a> {
    Bytes(&'a [u8]),
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Key<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Key::Bytes(bytes) => bytes,
            Key::V4(octets) => octets,
            Key::V6(octets) => octets,
        }
    }
}

/// Chooses an endpoint of the route's pool. `random` gives 64 random bits a call.
pub fn choose(
    table: &Table,
    route: &Route,
    asked: &Asked<'_>,
    moment: &Moment<'_>,
    available: &impl Availability,
    random: &mut impl FnMut() -> u64,
) -> Result<Choice, NoEndpoint> {
    let pool = &table.pools[route.pool];
    let admits = |place: usize, pinned: bool| {
        pool.is_up(place) && !moment.tried.contains(&place) && available.admits(place, pinned)
    };
    match &route.spec.affinity {
        Affinity::None {} => unkeyed(pool, moment, available, admits, random),
        Affinity::Cookie(cookie) => {
            let kept = Kept {
                pins: cookies(asked.headers, cookie.name.as_str()),
                strength: route.spec.strength_for(asked.path, asked.headers),
                max_age_s: cookie.max_age_s.map(NonZeroU32::get),
            };
            by_pin(table, pool, kept, moment, admits, random)
        }
        affinity => match asked.key(affinity) {
            Some(key) => keyed(pool, key.as_bytes(), route.spec.strength_for(asked.path, asked.headers), admits),
            None => unkeyed(pool, moment, available, admits, random),
        },
    }
}

/// The less busy of two drawn at random, or whichever is left.
fn unkeyed(
    pool: &PoolTable,
    moment: &Moment<'_>,
    available: &impl Availability,
    admits: impl Fn(usize, bool) -> bool,
    random: &mut impl FnMut() -> u64,
) -> Result<Choice, NoEndpoint> {
    // Two positions on the ring are two draws by weight.
    let place = |position: u64| pool.ring.walk(position).map(|i| i as usize).find(|i| admits(*i, false));
    let mut draw = || warm(pool, moment, random, |random| place(random()).map(|place| ((), place)));
    let ((), first) = draw().ok_or(NoEndpoint)?;
    let second = draw().map_or(first, |((), second)| second);
    let endpoint = if available.in_flight(second) < available.in_flight(first) { second } else { first };
    Ok(Choice { endpoint, placement: Placement::Unkeyed, session: None, pin: None })
}

/// Draws at most so often for an endpoint that has warmed up: where all are new, one is as good as
/// another.
const DRAWS: u32 = 4;

/// Draws an endpoint, and what it was drawn by. One that is new, or up again, is left for the next
/// draw as often as its slow start wants.
fn warm<T, R: FnMut() -> u64>(
    pool: &PoolTable,
    moment: &Moment<'_>,
    random: &mut R,
    draw: impl Fn(&mut R) -> Option<(T, usize)>,
) -> Option<(T, usize)> {
    let mut drawn = draw(random)?;
    for _ in 1..DRAWS {
        let warmth = pool.warmth(drawn.1, moment.now.into());
        if warmth == 1_000 || random() % 1_000 < warmth {
            break;
        }
        drawn = draw(random)?;
    }
    Some(drawn)
}

fn keyed(
    pool: &PoolTable,
    key: &[u8],
    strength: Strength,
    admits: impl Fn(usize, bool) -> bool,
) -> Result<Choice, NoEndpoint> {
    let hops = match strength {
        Strength::Prefer => usize::MAX,
        Strength::Strict => 1,
    };
    for (hops, place) in pool.ring.walk(ring::position(key)).take(hops).enumerate() {
        let endpoint = place as usize;
        if admits(endpoint, false) {
            let placement = if hops == 0 { Placement::Keyed } else { Placement::Moved(MoveReason::Unavailable) };
            return Ok(Choice { endpoint, placement, session: None, pin: None });
        }
    }
    Err(NoEndpoint)
}

/// What a session that has begun brings along.
struct Kept<P> {
    pins: P,
    strength: Strength,
    max_age_s: Option<u32>,
}

fn by_pin<'a>(
    table: &Table,
    pool: &PoolTable,
    kept: Kept<impl Iterator<Item = &'a [u8]>>,
    moment: &Moment<'_>,
    admits: impl Fn(usize, bool) -> bool,
    random: &mut impl FnMut() -> u64,
) -> Result<Choice, NoEndpoint> {
    let mut placement = Placement::New;
    let (mut session, mut lost) = (moment.session, None);
    // Routes with different paths have cookies of one name: the one for this pool counts.
    let pins = kept.pins.filter_map(|value| table.sealer.open_with(value));
    for (pin, is_fresh) in pins.filter(|(pin, _)| pin.pool == pool.id).take(1) {
        session = Some(pin.session);
        let reason = match pool.find(pin.endpoint) {
            None => MoveReason::Gone,
            Some(place) if pin.issued <= pool.endpoints[place].pins_revoked_s => MoveReason::Revoked,
            Some(place) if !pool.endpoints[place].takes_pinned_sessions() => MoveReason::Draining,
            Some(place) if !pool.is_up(place) => MoveReason::Unhealthy,
            Some(place) if !admits(place, true) => MoveReason::Unavailable,
            Some(place) => {
                // A key goes in the end, and a cookie too: before that both are renewed.
                let is_old = kept.max_age_s.is_some_and(|age| moment.now.saturating_sub(pin.issued) >= age / 2);
                let issued = if is_old { moment.now } else { pin.issued };
                let pin = (is_old || !is_fresh).then_some(Pin { issued, ..pin });
                return Ok(Choice { endpoint: place, placement: Placement::Kept, session, pin });
            }
        };
        let may_come_back = matches!(reason, MoveReason::Unhealthy | MoveReason::Unavailable);
        if kept.strength == Strength::Strict && may_come_back {
            return Err(NoEndpoint);
        }
        placement = Placement::Moved(reason);
        lost = Some(pin.endpoint);
    }
    // Whoever takes over from the endpoint that the session has lost comes first.
    let home = |session: SessionId| {
        let walk = || pool.ring.walk(ring::position(&session.0)).map(|i| i as usize);
        let heirs = lost.map_or(&[][..], |lost| pool.heirs(lost));
        let heir = |place: &usize| heirs.contains(&(*place as u32)) && admits(*place, false);
        // Then those of their revision: another old one would only be left again.
        let revision = heirs.first().map_or(0, |heir| pool.endpoints[*heir as usize].revision);
        let peer = |place: &usize| pool.endpoints[*place].revision == revision && admits(*place, false);
        let of_heirs = if heirs.is_empty() { None } else { walk().find(heir).or_else(|| walk().find(peer)) };
        let found = of_heirs.or_else(|| walk().find(|place| admits(*place, false)));
        found.map(|place| (session, place))
    };
    let found = match session {
        Some(session) => home(session),
        None => warm(pool, moment, random, |random| home(new_session(random))),
    };
    let (session, endpoint) = found.ok_or(NoEndpoint)?;
    let entry = &pool.endpoints[endpoint];
    // A clock that is behind the revocation's must not give pins that are revoked.
    let issued = moment.now.max(entry.pins_revoked_s.saturating_add(u32::from(entry.pins_revoked_s > 0)));
    let pin = Pin { session, pool: pool.id, endpoint: entry.id, revision: entry.revision, issued };
    Ok(Choice { endpoint, placement, session: Some(session), pin: Some(pin) })
}

fn new_session(random: &mut impl FnMut() -> u64) -> SessionId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random().to_be_bytes());
    id[8..].copy_from_slice(&random().to_be_bytes());
    SessionId(id)
}

#[cfg(test)]
mod tests;
