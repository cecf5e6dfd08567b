//! Tidelock's control plane: what the fleet agrees on, the way in which it agrees, and the API
//! through which people and programs ask for changes.
//!
//! Entries go one way: `api` makes a command, `fleet` proposes it, Raft orders it, `apply` feeds it
//! to the core's state, `publish` shows the result. Requests never wait for any of it: the data
//! plane reads the newest table and reports what is alive. [`ControlPlane`] is the whole seam.

mod api;
mod apply;
mod fleet;
#[cfg(test)]
mod hostile;
mod metrics;
mod publish;
pub mod raft;
mod ui;

pub use api::auth::{BearerToken, InvalidToken};
pub use fleet::leave::{Leave, LeaveState};
pub use fleet::{AdminConfig, ControlPlane, ControlPlaneConfig, FleetConfig, GivenSockets, StartError};
pub use metrics::MetricsHook;
pub use raft::{Credentials, GivenFiles};

/// Out of a lost majority, by hand.
pub mod recovery {
    pub use crate::fleet::recovery::{Error, Plan};
}
