//! How many connections each client address has, over all workers. Only kept where there is a
//! limit; the lock is taken when a connection begins and ends, never by a request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
pub(crate) struct Clients {
    /// 0 is no limit.
    most: usize,
    connections: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place(Option<(Arc<Clients>, IpAddr)>);

impl Clients {
    pub(crate) fn new(most: usize) -> Arc<Clients> {
        Arc::new(Clients { most, connections: Mutex::default() })
    }

    /// None when the client has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        if self.most == 0 {
            return Some(Place(None));
        }
        let address = address.to_canonical();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let count = connections.entry(address).or_default();
        if *count == self.most {
            return None;
        }
        *count += 1;
        Some(Place(Some((self.clone(), address))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((clients, address)) = &self.0 else { return };
        let mut connections = clients.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_places_and_none_is_kept_for_nobody() {
        let (clients, a, b) = (Clients::new(2), "192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = clients.enter(a).unwrap();
        let second = clients.enter("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert!(clients.enter(a).is_none() && clients.enter(b).is_some());
        drop(first);
        assert!(clients.enter(a).is_some());
        drop(second);
        assert!(clients.connections.lock().unwrap().is_empty());
        assert!(Clients::new(0).enter(a).is_some());
    }
}
