//! Session tickets that any node of the fleet opens (`tidelock_core::ticket`), on listeners that ask the same of clients.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest;
use rustls::server::ProducesTickets;
use tidelock_core::table::Table;
use tidelock_core::ticket::TicketSealer;

/// How long a client may come back with a ticket, in seconds: 12 hours, as long as browsers keep
/// one.
const LIFETIME: u32 = 12 * 60 * 60;

/// The fleet's keys, as the newest table has them. Taken by handshakes, changed when keys change.
#[derive(Debug)]
pub(crate) struct FleetTickets(RwLock<Arc<TicketSealer>>);

impl FleetTickets {
    pub(crate) fn new() -> Arc<FleetTickets> {
        Arc::new(FleetTickets(RwLock::new(Table::empty().tickets)))
    }

    pub(crate) fn adopt(&self, table: &Table) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table.tickets.clone();
    }

    fn sealer(&self) -> Arc<TicketSealer> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One listener's. A client that comes back is not asked for its certificate again, so its ticket says what was asked of it:
/// one of a listener that asks for none is good at no other.
#[derive(Debug)]
pub(super) struct ListenerTickets {
    fleet: Arc<FleetTickets>,
    asks: [u8; SCOPE],
}

const SCOPE: usize = 16;

impl ListenerTickets {
    /// `asks` is all that decides whether a client is let in.
    pub(super) fn new(fleet: Arc<FleetTickets>, asks: &[u8]) -> ListenerTickets {
        let digest = digest::digest(&digest::SHA256, asks);
        ListenerTickets { fleet, asks: *digest.as_ref().first_chunk().expect("a digest of 32 bytes") }
    }
}

impl ProducesTickets for ListenerTickets {
    fn enabled(&self) -> bool {
        self.fleet.sealer().can_seal()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; 12];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        self.fleet.sealer().seal(&[&self.asks[..], plain].concat(), nonce)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.fleet.sealer().open(cipher)?;
        let (asked, plain) = plain.split_at_checked(SCOPE)?;
        (*asked == self.asks).then(|| plain.to_vec())
    }
}
