use proptest::prelude::*;

use super::*;
use crate::id::{EndpointId, Epoch};
use crate::report::{Counts, NodeReport};

fn drain(endpoint: u64, pace: u32, switchover: Option<u64>) -> Drain {
    Drain {
        pool: "p".parse().unwrap(),
        endpoint: "e".parse().unwrap(),
        endpoint_id: EndpointId(endpoint),
        mode: DrainMode::Streams,
        started_ms: 0,
        deadline_ms: Some(100_000),
        reason: String::new(),
        state: DrainState::Draining,
        ended_ms: None,
        pace: Some(Pace::try_from(pace).unwrap()),
        switchover: switchover.map(SwitchoverId),
        shares: BTreeMap::new(),
        closed: None,
        shared: None,
    }
}

/// A fleet whose nodes may lag behind or be away: what they close at is what they have read.
struct Fleet {
    state: State,
    epoch: u64,
    nodes: Vec<Node>,
}

#[derive(Clone)]
struct Node {
    /// What is left on endpoint 1, 2, ...
    left: Vec<u64>,
    read: u64,
    shares: BTreeMap<DrainId, u64>,
    is_away: bool,
}

impl Fleet {
    fn new(drains: &[Drain], left: &[&[u64]]) -> Fleet {
        let mut state = State::default();
        for (i, drain) in drains.iter().enumerate() {
            state.drains.insert(DrainId(i as u64 + 1), drain.clone());
        }
        let node = |left: &&[u64]| Node { left: left.to_vec(), read: 1, shares: BTreeMap::new(), is_away: false };
        Fleet { state, epoch: 10, nodes: left.iter().map(node).collect() }
    }

    fn id(node: usize) -> NodeId {
        NodeId(node as u64 + 1)
    }

    /// What the leader proposes by what it sees.
    fn proposed(&self) -> Option<Command> {
        let report = |node: &Node| {
            let counts =
                |n: &u64| Counts { requests: *n, websockets: *n / 2, event_streams: n - n / 2, ..Counts::default() };
            let endpoints = node.left.iter().enumerate().map(|(i, n)| (EndpointId(i as u64 + 1), counts(n))).collect();
            NodeReport { epoch: Some(Epoch(node.read)), endpoints, ..NodeReport::default() }
        };
        let reports: Vec<Option<NodeReport>> =
            self.nodes.iter().map(|node| (!node.is_away).then(|| report(node))).collect();
        let seen: Vec<Seen<'_>> =
            reports.iter().enumerate().map(|(i, r)| Seen { node: Fleet::id(i), report: r.as_ref() }).collect();
        shares(&self.state, &seen)
    }

    fn lead(&mut self) -> bool {
        let Some(Command::ShareClosing { shares, .. }) = self.proposed() else { return false };
        let seen = Some(Epoch(self.epoch));
        self.epoch += 1;
        self.state.share_closing(Epoch(self.epoch), seen, &shares);
        true
    }

    fn read(&mut self, node: usize) {
        self.nodes[node].read = self.epoch;
        self.nodes[node].shares =
            self.state.drains.iter().filter_map(|(id, d)| Some((*id, *d.shares.get(&Fleet::id(node))?))).collect();
    }

    /// What the fleet closes at, whoever has read what.
    fn rate(&self) -> u64 {
        self.nodes.iter().flat_map(|node| node.shares.values()).sum()
    }

    fn settle(&mut self) {
        for _ in 0..8 {
            self.lead();
            (0..self.nodes.len()).for_each(|node| self.read(node));
        }
        assert_eq!(self.proposed(), None, "it comes to rest");
    }
}

#[test]
fn a_pace_is_shared_out_by_what_is_left() {
    let mut fleet = Fleet::new(&[drain(1, 10, None)], &[&[300], &[100], &[0]]);
    fleet.settle();
    assert_eq!(fleet.nodes[0].shares[&DrainId(1)], 7_500);
    assert_eq!(fleet.nodes[1].shares[&DrainId(1)], 2_500);
    assert!(fleet.nodes[2].shares.is_empty());
    // A little more here or there is not worth an entry; an empty node's part goes to the others.
    fleet.nodes[0].left = vec![280];
    assert_eq!(fleet.proposed(), None);
    fleet.nodes[0].left = vec![0];
    fleet.settle();
    assert_eq!(fleet.nodes[1].shares[&DrainId(1)], 10_000);
}

#[test]
fn the_drains_of_a_switchover_share_one_pace() {
    let drains = [drain(1, 10, Some(9)), drain(2, 10, Some(9)), drain(3, 4, None)];
    let mut fleet = Fleet::new(&drains, &[&[50, 50, 7], &[0, 100, 0]]);
    fleet.settle();
    let of = |drain: u64| fleet.state.drains[&DrainId(drain)].shares.values().sum::<u64>();
    assert_eq!((of(1), of(2), of(3)), (2_500, 7_500, 4_000));
}

#[test]
fn what_is_taken_from_one_is_given_to_another_only_when_it_is_known_there() {
    let mut fleet = Fleet::new(&[drain(1, 10, None)], &[&[100], &[100]]);
    fleet.settle();
    fleet.nodes[0].left = vec![10];
    assert!(fleet.lead());
    fleet.read(1);
    assert_eq!(fleet.nodes[1].shares[&DrainId(1)], 5_000, "not yet");
    assert!(!fleet.lead(), "node 1 has not said that it knows");
    fleet.nodes[0].is_away = true;
    assert!(!fleet.lead(), "and may never say it");
    fleet.nodes[0].is_away = false;
    fleet.settle();
    assert!(fleet.nodes[1].shares[&DrainId(1)] > 9_000);
}

#[test]
fn a_part_that_was_worked_out_from_older_ones_is_passed_over() {
    let mut fleet = Fleet::new(&[drain(1, 10, None)], &[&[100], &[100]]);
    fleet.settle();
    let shares = fleet.state.drains[&DrainId(1)].shares.clone();
    let stale = [(DrainId(1), [(NodeId(1), 10_000)].into())].into();
    let shared = fleet.state.drains[&DrainId(1)].shared.unwrap();
    fleet.state.share_closing(Epoch(99), Some(Epoch(shared.0 - 1)), &stale);
    assert_eq!(fleet.state.drains[&DrainId(1)].shares, shares);
}

#[test]
fn many_small_parts_grow_to_the_whole_pace() {
    let left: Vec<u64> = vec![10; 10];
    let mut all: Vec<Vec<u64>> = left.iter().map(|n| vec![*n]).collect();
    all[0] = vec![1_000];
    let left: Vec<&[u64]> = all.iter().map(Vec::as_slice).collect();
    let mut fleet = Fleet::new(&[drain(1, 100, None)], &left);
    fleet.settle();
    fleet.nodes[0].left = vec![0];
    fleet.settle();
    assert!(fleet.rate() >= 90_000, "{}", fleet.rate());
}

#[test]
fn sessions_end_when_closing_them_takes_the_rest_of_the_time() {
    let mut state = State::default();
    state.drains.insert(DrainId(1), Drain { mode: DrainMode::Sessions, ..drain(1, 10, None) });
    let counts = Counts { requests: 200, websockets: 200, ..Counts::default() };
    let report = NodeReport { endpoints: [(EndpointId(1), counts)].into(), ..NodeReport::default() };
    let seen = [Seen { node: NodeId(1), report: Some(&report) }];
    assert_eq!(sessions_over(&state, &seen, 74_999), []);
    assert_eq!(sessions_over(&state, &seen, 75_000), [Command::EndSessions { drain: DrainId(1) }]);
    assert_eq!(sessions_over(&state, &[], 99_999), [], "nothing is left to close");
}

proptest! {
    /// Whoever lags, is away or comes back: together they never close faster than the pace (but for
    /// the rounding up of parts that would be nothing).
    #[test]
    fn the_fleet_never_closes_faster_than_the_pace(
        left in proptest::collection::vec(proptest::collection::vec(0u64..500, 2), 1..6),
        pace in 1u32..500,
        steps in proptest::collection::vec((0usize..6, 0u8..5, 0u64..500), 1..60),
    ) {
        let drains = [drain(1, pace, Some(1)), drain(2, pace, Some(1))];
        let left: Vec<&[u64]> = left.iter().map(Vec::as_slice).collect();
        let mut fleet = Fleet::new(&drains, &left);
        for (node, what, number) in steps {
            let node = node % fleet.nodes.len();
            match what {
                0 => fleet.read(node),
                1 => fleet.nodes[node].is_away ^= true,
                2 => fleet.nodes[node].left[number as usize % 2] = number,
                _ => { fleet.lead(); }
            }
            prop_assert!(fleet.rate() <= u64::from(pace) * 1_000 + 12, "{} at {pace}", fleet.rate());
        }
        for node in &mut fleet.nodes {
            node.is_away = false;
        }
        fleet.settle();
        if fleet.nodes.iter().any(|node| node.left.iter().any(|n| *n > 0)) {
            prop_assert!(fleet.rate() * 10 >= u64::from(pace) * 1_000 * 7, "{} at {pace}", fleet.rate());
        }
    }
}
