//! Route-to: an endpoint says that a request is another one's, by the node's name or by a key.

use http::HeaderValue;

use super::Availability;
use crate::ring;
use crate::table::PoolTable;

/// The response header that says so.
pub const ROUTE_TO: &str = "tidelock-route-to";
/// Beside it: for so many seconds, up to 3600, so are later requests with the same path.
pub const ROUTE_FOR: &str = "tidelock-route-for";
/// The longest time that is believed.
pub const ROUTE_FOR_MAX_S: u32 = 3_600;

/// Whose a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTo {
    /// `node=app@10.0.3.7`: the endpoint whose app calls itself so.
    Node(Box<str>),
    /// `key=room-12`: the endpoint that the ring gives for it, the same on every node.
    Key(Box<[u8]>),
}

impl RouteTo {
    /// None for what is neither.
    pub fn parse(value: &HeaderValue) -> Option<RouteTo> {
        let text = value.as_bytes().trim_ascii();
        if let Some(key) = text.strip_prefix(b"key=") {
            return (!key.is_empty()).then(|| RouteTo::Key(key.into()));
        }
        let node = std::str::from_utf8(text.strip_prefix(b"node=")?).ok()?;
        (!node.is_empty()).then(|| RouteTo::Node(node.into()))
    }

    /// Seconds as `tidelock-route-for` writes them. None for what says nothing.
    pub fn parse_for(value: &HeaderValue) -> Option<u32> {
        let seconds: u32 = std::str::from_utf8(value.as_bytes()).ok()?.trim().parse().ok()?;
        (seconds > 0).then_some(seconds.min(ROUTE_FOR_MAX_S))
    }

    /// The endpoint that takes it now. One that drains still has its processes: a node's name finds it
    /// as a pin does.
    pub fn find(&self, pool: &PoolTable, tried: &[usize], available: &impl Availability) -> Option<usize> {
        let admits =
            |place: usize, pinned| pool.is_up(place) && !tried.contains(&place) && available.admits(place, pinned);
        match self {
            RouteTo::Node(node) => {
                let named = pool
                    .endpoints
                    .iter()
                    .position(|endpoint| endpoint.node.as_ref().is_some_and(|name| *name.as_str() == **node));
                named.filter(|place| pool.endpoints[*place].takes_pinned_sessions() && admits(*place, true))
            }
            RouteTo::Key(key) => {
                let mut walk = pool.ring.walk(ring::position(key)).map(|place| place as usize);
                walk.find(|place| admits(*place, false))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_a_node_or_a_key() {
        let parse = |text: &'static str| RouteTo::parse(&HeaderValue::from_static(text));
        assert_eq!(parse("node=app@10.0.3.7"), Some(RouteTo::Node("app@10.0.3.7".into())));
        assert_eq!(parse(" key=a b=c "), Some(RouteTo::Key((*b"a b=c").into())));
        for bad in ["", "node=", "key=", "app@10.0.3.7", "nodes=a"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        let seconds = |text: &'static str| RouteTo::parse_for(&HeaderValue::from_static(text));
        assert_eq!((seconds(" 60"), seconds("1000000")), (Some(60), Some(ROUTE_FOR_MAX_S)));
        for bad in ["", "0", "-1", "1.5", "1m"] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
    }
}
