//! A new process takes over on the same host: the old one gives it the listening sockets themselves,
//! so no connection is refused and none that waits in a queue is lost.
//!
//! They meet at a socket in the data directory. The new one asks and the old one gives (`offer`, `take`):
//!
//!     new  T              I want to take over (my configuration is good)
//!     old  S + socket ... each listening socket, then E and my table's epoch: my control plane has stopped
//!
//! From there on both speak at any time ([`link`]). The one that has the control plane owns the node:
//! from E on the new one. The other is its guest, whose clients end: it is told each state of the fleet, so
//! that drains reach what runs there, and tells its reports, so that no drain is called safe before.
//!
//!     new  Serving        I serve clients
//!     old  Leaving        then the node is yours, my clients end
//!     new  Owns           the service manager knows; from here on I need you no more
//!
//!     old  Revoked        you are too late, or I am told to end: the node is mine
//!     new  Released       I have let go of the data directory; if I have clients, they end and I am your guest
//!
//! Until `Owns` the old process answers for the node: if the new one ends or is late it starts its control
//! plane again. Its data plane has gone on all the time. One that does not let go is killed, for it may hold the
//! data directory.

mod link;
mod offer;
mod others;
mod take;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use link::{Link, Process, Role};
pub(crate) use offer::Offer;
pub(crate) use others::{Guests, Others, merged};
pub(crate) use take::{Predecessor, take};

/// Between the moment the new process has the sockets and its word that it serves. Reading the log
/// and compiling the table take well below a second; then the old one goes back to full service.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// For every other step: the other side has only to write what it has.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// From the word that it is too late. A process that works ends its control plane well before.
const LETS_GO_WITHIN: Duration = Duration::from_secs(5);

const TAKE: u8 = b'T';
const SOCKET: u8 = b'S';
const END: u8 = b'E';

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("handover.sock")
}
