//! What endpoints have said of requests to come: those with a path are another one's, for so long
//! (`tidelock-route-for`). It is a guess that saves a detour: whoever gets the request may say otherwise.
//!
//! Each worker learns for itself, so that nothing is shared on the way of requests.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tidelock_core::choose::RouteTo;
use tidelock_core::id::PoolId;
use tokio::time::Instant;

/// Entries of one worker that are kept at least; up to twice as many are.
const KEPT: usize = 2_048;

/// Longer paths are not learned: clients choose them, and all of them together shall stay small.
const LONGEST_PATH: usize = 512;

/// Which requests: those of one pool with this host and path, whatever their query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Which<'a> {
    pub(crate) pool: PoolId,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
}

#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// By a hash, so that looking one up makes no string. Of two with one hash the later is kept.
    young: HashMap<u64, Entry>,
    /// What was young when there were too many: the next time it goes.
    old: HashMap<u64, Entry>,
    hash: RandomState,
}

#[derive(Debug)]
struct Entry {
    pool: PoolId,
    host: Box<str>,
    path: Box<str>,
    to: RouteTo,
    until: Instant,
}

impl Entry {
    fn is_of(&self, which: Which<'_>) -> bool {
        which == Which { pool: self.pool, host: &self.host, path: &self.path }
    }
}

impl Learned {
    pub(crate) fn learn(&mut self, which: Which<'_>, to: RouteTo, time: Duration) {
        if which.path.len() > LONGEST_PATH {
            return;
        }
        if self.young.len() >= KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        let Which { pool, host, path } = which;
        let entry = Entry { pool, host: host.into(), path: path.into(), to, until: Instant::now() + time };
        self.young.insert(self.hash.hash_one(which), entry);
    }

    pub(crate) fn find(&self, which: Which<'_>) -> Option<RouteTo> {
        if self.young.is_empty() && self.old.is_empty() {
            return None;
        }
        let hash = self.hash.hash_one(which);
        let entry = self.young.get(&hash).or_else(|| self.old.get(&hash))?;
        (entry.is_of(which) && Instant::now() < entry.until).then(|| entry.to.clone())
    }

    pub(crate) fn forget(&mut self, which: Which<'_>) {
        let hash = self.hash.hash_one(which);
        self.young.remove(&hash);
        self.old.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_end_with_their_time_and_the_oldest_make_room() {
        let mut learned = Learned::default();
        let which = |path| Which { pool: PoolId(1), host: "a", path };
        let to = |number: usize| RouteTo::Node(number.to_string().into());
        let minute = Duration::from_secs(60);
        learned.learn(which("/0"), to(0), minute);
        assert_eq!(learned.find(which("/0")), Some(to(0)));
        assert_eq!(learned.find(Which { pool: PoolId(2), ..which("/0") }), None);
        assert_eq!(learned.find(Which { host: "b", ..which("/0") }), None);
        let long = "/".repeat(LONGEST_PATH + 1);
        learned.learn(which(&long), to(0), minute);
        assert_eq!(learned.find(which(&long)), None);
        learned.learn(which("/0"), to(9), minute);
        assert_eq!(learned.find(which("/0")), Some(to(9)), "the later word counts");
        tokio::time::advance(minute).await;
        assert_eq!(learned.find(which("/0")), None);
        let paths: Vec<String> = (0..3 * KEPT).map(|number| format!("/{number}")).collect();
        for (number, path) in paths.iter().enumerate() {
            learned.learn(which(path), to(number), minute);
        }
        assert!(learned.young.len() + learned.old.len() <= 2 * KEPT);
        assert!((2 * KEPT..3 * KEPT).all(|number| learned.find(which(&paths[number])) == Some(to(number))));
        learned.forget(which(&paths[3 * KEPT - 1]));
        assert_eq!(learned.find(which(&paths[3 * KEPT - 1])), None);
    }
}
