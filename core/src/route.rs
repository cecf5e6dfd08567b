//! Which route takes a request: of all that match, the one with the most specific host, then the
//! longest path prefix. Two routes never have both equal, so the order is total.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::Name;
use crate::spec::{HostPattern, RouteSpec};

#[derive(Debug, Clone)]
pub struct Route {
    pub name: Name,
    pub spec: Arc<RouteSpec>,
    /// The pool's place in the table.
    pub pool: usize,
}

/// No route takes the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// No route is for this host: 421 Misdirected Request (RFC 9110 section 15.5.20).
    Host,
    /// The host is known, the path is not: 404.
    Path,
}

/// Routes by host; in each list the longest prefix comes first.
#[derive(Debug, Default)]
pub struct RouteIndex {
    exact: BTreeMap<Arc<str>, Vec<Arc<Route>>>,
    wildcard: BTreeMap<Arc<str>, Vec<Arc<Route>>>,
    any: Vec<Arc<Route>>,
    /// What it was built of, in order.
    source: Vec<Arc<Route>>,
}

impl RouteIndex {
    /// Whether it was built of the very same routes.
    pub fn is_of(&self, routes: &[Route]) -> bool {
        let same =
            |(a, b): (&Arc<Route>, &Route)| a.pool == b.pool && Arc::ptr_eq(&a.spec, &b.spec) && a.name == b.name;
        self.source.len() == routes.len() && self.source.iter().zip(routes).all(same)
    }

    pub fn build(routes: impl Iterator<Item = Route>) -> RouteIndex {
        let mut index = RouteIndex::default();
        for route in routes.map(Arc::new) {
            index.source.push(route.clone());
            let list = match &route.spec.host {
                None => &mut index.any,
                Some(HostPattern::Exact(host)) => index.exact.entry(host.clone()).or_default(),
                Some(HostPattern::Wildcard(rest)) => index.wildcard.entry(rest.clone()).or_default(),
            };
            list.push(route);
        }
        let lists = index.exact.values_mut().chain(index.wildcard.values_mut());
        for list in lists.chain(std::iter::once(&mut index.any)) {
            list.sort_by(|a, b| {
                let longest_first = b.spec.path_prefix.as_str().len().cmp(&a.spec.path_prefix.as_str().len());
                longest_first.then_with(|| a.spec.path_prefix.cmp(&b.spec.path_prefix))
            });
        }
        index
    }

    /// `host` in lower case and without a port; `path` without a query.
    pub fn find(&self, host: &str, path: &str) -> Result<&Arc<Route>, NoRoute> {
        let exact = self.exact.get(host);
        let wildcard = host.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        let any = (!self.any.is_empty()).then_some(&self.any);
        let mut known = false;
        for list in [exact, wildcard, any].into_iter().flatten() {
            known = true;
            if let Some(route) = list.iter().find(|route| route.spec.path_prefix.covers(path)) {
                return Ok(route);
            }
        }
        Err(if known { NoRoute::Path } else { NoRoute::Host })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::Affinity;

    fn route(name: &str, host: Option<&str>, prefix: &str) -> Route {
        let spec = RouteSpec {
            host: host.map(|h| h.to_owned().try_into().unwrap()),
            path_prefix: prefix.to_owned().try_into().unwrap(),
            pool: "p".parse().unwrap(),
            affinity: Affinity::default(),
            strength: Default::default(),
            profile: None,
            expose: false,
        };
        Route { name: name.parse().unwrap(), spec: Arc::new(spec), pool: 0 }
    }

    fn found(index: &RouteIndex, host: &str, path: &str) -> String {
        index.find(host, path).map(|r| r.name.to_string()).unwrap_or_else(|e| format!("{e:?}"))
    }

    #[test]
    fn the_most_specific_route_wins() {
        let index = RouteIndex::build(
            [
                route("any", None, "/"),
                route("wild", Some("*.example.com"), "/"),
                route("wild-app", Some("*.example.com"), "/app"),
                route("exact", Some("a.example.com"), "/"),
                route("exact-app", Some("a.example.com"), "/app"),
                route("exact-app-x", Some("a.example.com"), "/app/x"),
            ]
            .into_iter(),
        );
        assert_eq!(found(&index, "a.example.com", "/app/x/y"), "exact-app-x");
        assert_eq!(found(&index, "a.example.com", "/app/xy"), "exact-app");
        assert_eq!(found(&index, "a.example.com", "/apple"), "exact");
        assert_eq!(found(&index, "b.example.com", "/app"), "wild-app");
        assert_eq!(found(&index, "b.c.example.com", "/app"), "any", "a wildcard is one label");
        assert_eq!(found(&index, "example.com", "/"), "any");
    }

    #[test]
    fn a_less_specific_host_serves_what_the_specific_one_does_not() {
        let index = RouteIndex::build([route("app", Some("a.b"), "/app"), route("any", None, "/")].into_iter());
        assert_eq!(found(&index, "a.b", "/other"), "any");
    }

    #[test]
    fn unknown_hosts_and_unknown_paths_differ() {
        let index = RouteIndex::build([route("app", Some("a.b"), "/app")].into_iter());
        assert_eq!(found(&index, "a.b", "/x"), "Path");
        assert_eq!(found(&index, "x.y", "/app"), "Host");
    }

    proptest! {
        /// The index finds what a plain search over all routes finds, in any listing order.
        #[test]
        fn the_index_agrees_with_a_plain_search(
            hosts in proptest::collection::btree_set((0usize..4, 0usize..4), 1..8),
            host in 0usize..3, path in 0usize..4, reversed: bool,
        ) {
            let patterns = [None, Some("a.b.c"), Some("*.b.c"), Some("x.b.c")];
            let prefixes = ["/", "/p", "/p/q", "/r"];
            let mut routes: Vec<Route> = hosts.iter().enumerate()
                .map(|(i, (h, p))| route(&format!("r{i}"), patterns[*h], prefixes[*p])).collect();
            if reversed { routes.reverse(); }
            let host = ["a.b.c", "y.b.c", "other"][host];
            let path = ["/", "/p/z", "/p/q", "/pq"][path];
            let rank = |r: &Route| (match &r.spec.host {
                Some(HostPattern::Exact(h)) if **h == *host => 3,
                Some(HostPattern::Wildcard(rest)) if host.split_once('.').is_some_and(|(_, tail)| tail == &**rest) => 2,
                None => 1,
                _ => 0,
            }, r.spec.path_prefix.as_str().len());
            let plain = routes.iter().filter(|r| rank(r).0 > 0 && r.spec.path_prefix.covers(path)).max_by_key(|r| rank(r));
            let index = RouteIndex::build(routes.iter().cloned());
            prop_assert_eq!(index.find(host, path).ok().map(|r| &r.name), plain.map(|r| &r.name));
        }
    }
}
