//! What each client address does, over all connections, listeners and workers (H12). Only kept where there is a limit;
//! the lock is taken when a connection begins and ends and when a request is broken off, never by one that goes well.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::budget::Budget;
use crate::config::Limits;

/// Over what time a client's new connections and broken-off requests are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Clients {
    /// 0 is no limit, in each.
    connections: usize,
    arrivals: usize,
    resets: usize,
    known: Mutex<HashMap<IpAddr, Known>>,
}

#[derive(Debug)]
struct Known {
    connections: usize,
    arrivals: Budget,
    resets: Budget,
}

/// One connection's place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place(Option<(Arc<Clients>, IpAddr)>);

impl Clients {
    pub(crate) fn new(limits: &Limits) -> Arc<Clients> {
        Arc::new(Clients {
            connections: limits.max_connections_per_client,
            arrivals: limits.max_new_connections_per_client,
            resets: limits.max_resets_per_client,
            known: Mutex::default(),
        })
    }

    /// None when the client has as many connections as it may, opens them too fast, or has broken off too much.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        if self.connections == 0 && self.arrivals == 0 && self.resets == 0 {
            return Some(Place::unlimited());
        }
        let address = network(address);
        let mut all = self.lock();
        make_room(&mut all);
        let known = all.entry(address).or_insert_with(|| Known {
            connections: 0,
            arrivals: Budget::new(self.arrivals),
            resets: Budget::new(self.resets),
        });
        let is_too_fast = self.arrivals > 0 && known.arrivals.is_spent(WINDOW);
        let has_too_many = self.connections > 0 && known.connections >= self.connections;
        let is_calmed = self.resets > 0 && known.resets.is_over(WINDOW);
        if is_too_fast || has_too_many || is_calmed {
            return None;
        }
        known.connections += 1;
        Some(Place(Some((self.clone(), address))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_needed(&self) -> bool {
        self.connections > 0 || self.arrivals.is_touched(WINDOW) || self.resets.is_touched(WINDOW)
    }
}

impl Place {
    /// For whom no limit counts.
    pub(crate) fn unlimited() -> Place {
        Place(None)
    }

    /// Counts requests that the client has broken off, and says whether they are too many.
    pub(crate) fn broke_off(&self, requests: usize) -> bool {
        let Some((clients, address)) = &self.0 else { return false };
        if clients.resets == 0 {
            return false;
        }
        let mut all = clients.lock();
        let Some(known) = all.get_mut(address) else { return false };
        known.resets.spend(requests, WINDOW);
        known.resets.is_over(WINDOW)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((clients, address)) = &self.0 else { return };
        let mut all = clients.lock();
        if let Some(known) = all.get_mut(address) {
            known.connections -= 1;
            if !known.is_needed() {
                all.remove(address);
            }
        }
    }
}

/// Before it grows: who has gone, and has done nothing lately, needs no place. It grows all the same where that leaves it more
/// than half full: else each newcomer would have all looked at again.
fn make_room(all: &mut HashMap<IpAddr, Known>) {
    if all.len() == all.capacity() {
        all.retain(|_, known| known.is_needed());
        all.reserve(all.len());
    }
}

/// What one client is known by: whoever has an IPv6 address has the 64 bits behind its network's, too.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(connections: usize, arrivals: usize, resets: usize) -> Arc<Clients> {
        Clients::new(&Limits {
            max_connections_per_client: connections,
            max_new_connections_per_client: arrivals,
            max_resets_per_client: resets,
            ..Limits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_places_and_none_is_kept_for_nobody() {
        let (clients, a, b) = (clients(2, 0, 0), ip("192.0.2.1"), ip("192.0.2.2"));
        let first = clients.enter(a).unwrap();
        let second = clients.enter(ip("::ffff:192.0.2.1")).unwrap();
        assert!(clients.enter(a).is_none() && clients.enter(b).is_some());
        drop(first);
        assert!(clients.enter(a).is_some());
        drop(second);
        assert!(clients.lock().is_empty());
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let clients = clients(1, 0, 0);
        let _place = clients.enter(ip("2001:db8::1")).unwrap();
        assert!(clients.enter(ip("2001:db8::ffff:0:0:2")).is_none() && clients.enter(ip("2001:db8:0:1::1")).is_some());
    }

    /// Closing them between does not help.
    #[tokio::test(start_paused = true)]
    async fn connections_come_no_faster_than_allowed() {
        let (clients, a) = (clients(0, 3, 0), ip("192.0.2.1"));
        assert!((0..3).all(|_| clients.enter(a).is_some()));
        assert!(clients.enter(a).is_none() && clients.enter(ip("192.0.2.2")).is_some());
        tokio::time::advance(WINDOW).await;
        assert!(clients.enter(a).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_breaks_off_too_much_stays_outside_for_a_while() {
        let (clients, a) = (clients(0, 0, 3), ip("192.0.2.1"));
        let (first, second) = (clients.enter(a).unwrap(), clients.enter(a).unwrap());
        assert!(!first.broke_off(2) && !second.broke_off(1) && first.broke_off(1));
        drop((first, second));
        assert!(clients.lock().len() == 1);
        assert!(clients.enter(a).is_none() && clients.enter(ip("192.0.2.2")).is_some());
        tokio::time::advance(WINDOW).await;
        // However long it was here before.
        let third = clients.enter(a).unwrap();
        assert!(!third.broke_off(1));
        tokio::time::advance(2 * WINDOW).await;
        assert!(third.broke_off(4));
        drop(third);
        assert!(clients.enter(a).is_none());
    }

    #[test]
    fn all_are_looked_at_seldom() {
        let mut all = HashMap::with_capacity(1_000);
        for n in 0..all.capacity() as u32 {
            let connections = usize::from(n > 0);
            let known = Known { connections, arrivals: Budget::new(1), resets: Budget::new(1) };
            all.insert(IpAddr::from(n.to_be_bytes()), known);
        }
        let before = all.len();
        make_room(&mut all);
        assert!(all.len() == before - 1 && all.capacity() >= 2 * all.len(), "{} of {}", all.len(), all.capacity());
    }

    /// Addresses that come once are forgotten.
    #[tokio::test(start_paused = true)]
    async fn the_memory_of_clients_is_bounded_by_their_window() {
        let clients = clients(0, 100, 0);
        for n in 0..100_000u32 {
            drop(clients.enter(IpAddr::from(n.to_be_bytes())));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!(clients.lock().len() < 1_000, "{}", clients.lock().len());
    }
}
