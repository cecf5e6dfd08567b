//! Session tickets that any node of the fleet opens (`tidelock_core::ticket`).

use std::sync::{Arc, PoisonError, RwLock};

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

impl ProducesTickets for FleetTickets {
    fn enabled(&self) -> bool {
        self.sealer().can_seal()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; 12];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        self.sealer().seal(plain, nonce)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.sealer().open(cipher)
    }
}
