//! How many sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// What a node has open beside its clients' connections: endpoints', peers', files.
const OTHERS: u64 = 1_024;

/// Raises the soft limit to the hard one: the soft one, mostly 1,024, is there for programs that still use select(2). Tells when that is
/// not enough for so many clients, each of which may need a connection to an endpoint.
pub(crate) fn raise(max_connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        warn!(?limit, "the limit on open files cannot be raised");
    }
    let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = 2 * max_connections as u64 + OTHERS;
    if open < wanted {
        warn!(
            open,
            wanted,
            "the limit on open files is less than limits.max_connections may need: raise it (LimitNOFILE= with systemd, \
             ulimit -n), or lower max_connections"
        );
    }
}
