//! The driver's limits and intervals, in ticks, entries and bytes.

use raft::ReadOnlyOption;

#[derive(Debug, Clone)]
pub struct Config {
    /// Ticks without a leader before a node asks for votes. Default 10: five heartbeats may be lost.
    pub election_ticks: usize,
    /// A node adds a random number of ticks below this, so that two seldom ask at once. Default 10;
    /// 1 makes a simulation deterministic (raft draws from the thread's own generator).
    pub election_spread: usize,
    /// Ticks between a leader's heartbeats. Default 2.
    pub heartbeat_ticks: usize,
    /// Entries applied between two snapshots. Default 1,000: a restart replays at most so many.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot. Default 500: a follower that missed fewer catches up from the
    /// log, one that missed more gets the snapshot.
    pub keep_entries: u64,
    /// Size of the log that forces a snapshot, whatever its number of entries. Default 32 MiB, since
    /// the log is held in memory; half of it stays.
    pub compact_bytes: usize,
    /// Largest command. Default 1 MiB; larger ones are refused to the caller.
    pub max_payload: usize,
    /// Commands in the log and not yet committed, in bytes. Default 16 MiB; above it proposals wait.
    pub max_uncommitted: u64,
    /// Random, and different at each start: request ids and read contexts begin here.
    pub nonce: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            election_ticks: 10,
            election_spread: 10,
            heartbeat_ticks: 2,
            snapshot_every: 1_000,
            keep_entries: 500,
            compact_bytes: 32 << 20,
            max_payload: 1 << 20,
            max_uncommitted: 16 << 20,
            nonce: rand::random(),
        }
    }
}

/// Entries of one append message, in bytes. Raft's own default of 0 means one entry a message.
const MESSAGE_BYTES: u64 = 1 << 20;

/// Committed entries handed out at once, in bytes: bounds the work between two heartbeats.
const APPLY_BYTES: u64 = 8 << 20;

/// Append messages under way to one follower before the leader waits for it.
const IN_FLIGHT: usize = 256;

impl Config {
    pub(super) fn for_raft(&self, id: u64, applied: u64) -> raft::Config {
        raft::Config {
            id,
            applied,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            min_election_tick: self.election_ticks,
            max_election_tick: self.election_ticks + self.election_spread.max(1),
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: IN_FLIGHT,
            max_uncommitted_size: self.max_uncommitted.max(MESSAGE_BYTES),
            max_committed_size_per_ready: APPLY_BYTES,
            // A leader that cannot reach a majority steps down, and a node that returns from a
            // partition asks before it raises the term: neither disturbs a working fleet.
            check_quorum: true,
            pre_vote: true,
            // Leases would trust clocks.
            read_only_option: ReadOnlyOption::Safe,
            ..raft::Config::default()
        }
    }
}
