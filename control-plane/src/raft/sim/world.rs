//! A fleet in one thread: drivers, disks, a network and time, all moved by one generator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use raft::prelude::MessageType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checker::{Checker, Register};
use super::power::{Power, Powered, until_lost};
use super::promises::Promises;
use crate::raft::bootstrap;
use crate::raft::driver::{Config, Driver, Fatal, Role, Status};
use crate::raft::exchange::{Answer, Input, Outbox, Outgoing, ProposeError, Token};
use crate::raft::membership::Change;
use crate::raft::storage::memory::{Disk, MemoryStore};
use crate::raft::storage::{Store, StoreError};
use crate::raft::wire;

/// How the network treats a message, in percent and units of time. A tick is about ten units.
#[derive(Debug, Clone, Copy)]
pub(in crate::raft) struct Network {
    pub(in crate::raft) loss: u32,
    pub(in crate::raft) duplication: u32,
    pub(in crate::raft) delay: u64,
}

impl Network {
    pub(in crate::raft) const GOOD: Self = Self { loss: 0, duplication: 0, delay: 2 };
}

pub(in crate::raft) struct World {
    pub(in crate::raft) rng: StdRng,
    pub(in crate::raft) now: u64,
    pub(in crate::raft) network: Network,
    pub(in crate::raft) nodes: BTreeMap<u64, Node>,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(u64, u64)>,
    /// When the last message of each pair arrives.
    latest: BTreeMap<(u64, u64), u64>,
    /// By time of arrival; the number keeps equal times apart.
    packets: BTreeMap<(u64, u64), Packet>,
    next_number: u64,
    checker: Arc<Mutex<Checker>>,
    config: Config,
    operations: BTreeMap<Token, Operation>,
    /// Finished operations, for tests: what came out.
    pub(in crate::raft) outcomes: BTreeMap<Token, Result<u64, String>>,
    next_token: u64,
    /// How often each thing happened: faults that never happen test nothing.
    pub(in crate::raft) happened: BTreeMap<&'static str, u64>,
    /// What the network was given to carry of the raft crate's own, in messages and bytes.
    pub(in crate::raft) traffic: (u64, u64),
}

type Running = Driver<Powered<MemoryStore>, Register>;

pub(in crate::raft) struct Node {
    pub(in crate::raft) disk: Disk,
    pub(in crate::raft) power: Power,
    pub(in crate::raft) driver: Option<Running>,
    promises: Promises,
    next_tick: u64,
    /// Why it last went down by itself.
    pub(in crate::raft) fatal: Option<Fatal>,
}

struct Packet {
    from: u64,
    to: u64,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Raft(Vec<u8>),
    Other(Outgoing),
}

enum Operation {
    Write { node: u64, write: u64 },
    Read { node: u64, must_see: BTreeSet<u64> },
    Change { node: u64 },
}

/// Effects of one driver, put into the world afterwards.
struct Effects {
    power: Power,
    messages: Vec<(u64, Outgoing)>,
    answers: Vec<(Token, Answer<usize>)>,
}

impl Outbox<usize> for Effects {
    fn send(&mut self, to: u64, message: Outgoing) {
        self.power.effect();
        self.messages.push((to, message));
    }

    fn answer(&mut self, token: Token, answer: Answer<usize>) {
        self.power.effect();
        self.answers.push((token, answer));
    }
}

impl World {
    /// `founders` nodes with ids from 1 that begin a fleet.
    pub(in crate::raft) fn new(seed: u64, founders: u64, config: Config) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            network: Network::GOOD,
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            latest: BTreeMap::new(),
            packets: BTreeMap::new(),
            next_number: 0,
            checker: Arc::default(),
            // Raft would draw election timeouts from a generator without a seed; ticks of different
            // length break the ties instead.
            config: Config { election_spread: 1, ..config },
            operations: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            next_token: 0,
            happened: BTreeMap::new(),
            traffic: (0, 0),
        };
        let ids: Vec<u64> = (1..=founders).collect();
        for id in &ids {
            let disk = Disk::new(*id);
            bootstrap::found(&mut disk.store(), &ids, Vec::new()).unwrap();
            world.add(*id, disk);
        }
        world
    }

    /// A node with an empty disk, which the fleet does not know.
    pub(in crate::raft) fn add_newcomer(&mut self, id: u64) {
        self.add(id, Disk::new(id));
    }

    fn add(&mut self, id: u64, disk: Disk) {
        let power = Power::new(disk.clone());
        self.nodes
            .insert(id, Node { disk, power, driver: None, promises: Promises::default(), next_tick: 0, fatal: None });
        self.start(id);
    }

    pub(in crate::raft) fn start(&mut self, id: u64) {
        let config = Config { nonce: self.rng.random(), ..self.config.clone() };
        let checker = self.checker.clone();
        let next_tick = self.now + self.rng.random_range(1..10);
        let node = self.nodes.get_mut(&id).unwrap();
        node.fatal = None;
        node.next_tick = next_tick;
        let register = Register::powered(checker, node.power.clone());
        match until_lost(|| Driver::open(config, node.power.store(), register)) {
            Some(Ok(driver)) => node.driver = Some(driver),
            Some(Err(error)) => panic!("node {id} cannot restart: {error}"),
            None => {
                self.count("power lost while starting");
                self.crash(id);
            }
        }
        self.act(id, |_, _| Ok(()));
    }

    /// Power loss: the process ends and so does what its disk had not made durable.
    pub(in crate::raft) fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.driver = None;
        node.power.restore();
        node.disk.crash();
        node.promises.hold(id, &node.disk.store().load().expect("no crash damages the log"));
        // Callers of a node that died hear nothing, which is "unknown".
        self.operations.retain(|_, operation| match operation {
            Operation::Write { node, .. } | Operation::Read { node, .. } | Operation::Change { node } => *node != id,
        });
    }

    pub(in crate::raft) fn is_up(&self, id: u64) -> bool {
        self.nodes[&id].driver.is_some()
    }

    pub(in crate::raft) fn status(&self, id: u64) -> Status {
        self.nodes[&id].driver.as_ref().expect("the node is up").status()
    }

    pub(in crate::raft) fn writes(&self, id: u64) -> &[u64] {
        &self.nodes[&id].driver.as_ref().expect("the node is up").machine().writes
    }

    /// The leader of the highest term among the nodes that are up.
    pub(in crate::raft) fn leader(&self) -> Option<u64> {
        self.up()
            .map(|id| self.status(id))
            .filter(|status| status.role == Role::Leader)
            .max_by_key(|status| status.term)
            .map(|status| status.id)
    }

    pub(in crate::raft) fn up(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes.iter().filter(|(_, node)| node.driver.is_some()).map(|(id, _)| *id)
    }

    pub(in crate::raft) fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap()
    }

    /// Parts `group` from all others.
    pub(in crate::raft) fn partition(&mut self, group: &[u64]) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for a in &ids {
            for b in &ids {
                if group.contains(a) != group.contains(b) {
                    self.cut.insert((*a, *b));
                }
            }
        }
    }

    /// Parts one way only: what `group` says to the others is lost, or what the others say to it.
    pub(in crate::raft) fn silence(&mut self, group: &[u64], towards: bool) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for outside in ids.iter().filter(|id| !group.contains(id)) {
            for inside in group {
                self.cut.insert(if towards { (*outside, *inside) } else { (*inside, *outside) });
            }
        }
    }

    pub(in crate::raft) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(in crate::raft) fn write(&mut self, node: u64, ticks: u64) -> Token {
        let token = self.token();
        self.operations.insert(token, Operation::Write { node, write: token.0 });
        let payload = token.0.to_be_bytes().to_vec();
        self.input(node, Input::Propose { token, id: u128::from(token.0), payload, ticks });
        token
    }

    pub(in crate::raft) fn read(&mut self, node: u64, ticks: u64) -> Token {
        let token = self.token();
        let must_see = self.checker().acknowledged();
        self.operations.insert(token, Operation::Read { node, must_see });
        self.input(node, Input::ReadIndex { token, ticks });
        token
    }

    pub(in crate::raft) fn change(&mut self, node: u64, changes: &[Change], ticks: u64) -> Token {
        let token = self.token();
        self.operations.insert(token, Operation::Change { node });
        let changes = changes.to_vec();
        self.input(node, Input::ChangeMembership { token, id: u128::from(token.0), changes, ticks });
        token
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub(in crate::raft) fn input(&mut self, id: u64, input: Input) {
        self.act(id, |driver, effects| driver.step(input, effects));
    }

    /// One unit of time: what arrives, who ticks.
    pub(in crate::raft) fn advance(&mut self) {
        self.now += 1;
        while let Some(entry) = self.packets.first_entry()
            && entry.key().0 <= self.now
        {
            let packet = entry.remove();
            self.deliver(packet);
        }
        let due: Vec<u64> = self.up().filter(|id| self.nodes[id].next_tick <= self.now).collect();
        for id in due {
            let length = self.rng.random_range(8..=12);
            self.nodes.get_mut(&id).unwrap().next_tick = self.now + length;
            self.act(id, |driver, effects| {
                driver.tick(effects);
                Ok(())
            });
        }
    }

    /// Advances until the condition holds; fails after `limit` units of time.
    #[track_caller]
    pub(in crate::raft) fn until(&mut self, limit: u64, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !condition(self) {
            assert!(self.now < end, "waited {limit} units of time in vain: {what}");
            self.advance();
        }
    }

    /// Everything operations are still waiting for.
    pub(in crate::raft) fn is_quiet(&self) -> bool {
        self.operations.is_empty()
    }

    fn deliver(&mut self, packet: Packet) {
        if !self.is_up(packet.to) || self.cut.contains(&(packet.from, packet.to)) {
            if let Content::Raft(_) = packet.content
                && self.is_up(packet.from)
            {
                self.input(packet.from, Input::Unreachable(packet.to));
            }
            return;
        }
        let input = match packet.content {
            Content::Raft(bytes) => {
                Input::Peer(Box::new(wire::decode(&bytes).expect("a driver's own message decodes")))
            }
            Content::Other(Outgoing::Forward(forward)) => Input::Forward { from: packet.from, forward },
            Content::Other(Outgoing::ForwardReply { request, outcome }) => Input::ForwardReply { request, outcome },
            Content::Other(Outgoing::Raft(_)) => unreachable!("encoded in `post`"),
        };
        self.input(packet.to, input);
    }

    /// Runs a driver and its Ready loop, then carries out what came of it.
    fn act(&mut self, id: u64, action: impl FnOnce(&mut Running, &mut Effects) -> Result<(), Fatal>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(driver) = node.driver.as_mut() else { return };
        let mut effects = Effects { power: node.power.clone(), messages: Vec::new(), answers: Vec::new() };
        let result = until_lost(|| action(driver, &mut effects).and_then(|()| driver.ready(&mut effects)));
        if let Some(Ok(())) = result {
            effects.power.at_rest();
            let status = driver.status();
            if status.role == Role::Leader {
                self.checker().leads(status.term, id);
            }
            if status.membership.is_joint() {
                self.count("step in a joint membership");
            }
        }
        let promises = &mut self.nodes.get_mut(&id).unwrap().promises;
        for (_, message) in &effects.messages {
            if let Outgoing::Raft(message) = message {
                promises.sent(message);
            }
        }
        // What left the node before it died has left it.
        for (token, answer) in effects.answers {
            self.finish(token, answer);
        }
        match result {
            Some(Ok(())) => {}
            None => {
                self.count("power lost between two effects");
                self.crash(id);
            }
            Some(Err(Fatal::Store(StoreError::Injected))) => {
                self.count("disk failed");
                self.crash(id);
            }
            Some(Err(fatal)) => {
                self.crash(id);
                self.nodes.get_mut(&id).unwrap().fatal = Some(fatal);
            }
        }
        for (to, message) in effects.messages {
            self.post(id, to, message);
        }
    }

    pub(in crate::raft) fn count(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    fn post(&mut self, from: u64, to: u64, message: Outgoing) {
        let is_snapshot =
            matches!(&message, Outgoing::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot);
        let content = match message {
            Outgoing::Raft(message) => {
                let bytes = wire::encode(&message).expect("raft only sends what peers may send");
                self.traffic = (self.traffic.0 + 1, self.traffic.1 + bytes.len() as u64);
                Content::Raft(bytes)
            }
            other => Content::Other(other),
        };
        let lost = self.rng.random_ratio(self.network.loss, 100) || !self.nodes.contains_key(&to);
        let copies = match lost {
            true => 0,
            false => 1 + usize::from(self.rng.random_ratio(self.network.duplication, 100)),
        };
        match copies {
            0 => self.count("message lost"),
            1 => {}
            _ => self.count("message doubled"),
        }
        if is_snapshot {
            self.count("snapshot sent");
        }
        for _ in 0..copies {
            let arrival = self.now + self.rng.random_range(1..=self.network.delay);
            let latest = self.latest.entry((from, to)).or_default();
            if arrival < *latest {
                *self.happened.entry("message overtaken").or_default() += 1;
            }
            *latest = arrival.max(*latest);
            self.next_number += 1;
            self.packets.insert((arrival, self.next_number), Packet { from, to, content: content.clone() });
        }
        // The transport knows that the bytes left, or that they did not.
        if is_snapshot {
            self.input(from, Input::SnapshotSent { to, delivered: !lost });
        }
        if lost && let Content::Other(Outgoing::Forward(forward)) = content {
            // Half of the losses are noticed before anything left the node.
            if self.rng.random() {
                self.input(from, Input::ForwardDropped { request: forward.request });
            }
        }
    }

    fn finish(&mut self, token: Token, answer: Answer<usize>) {
        let operation = self.operations.remove(&token);
        let outcome = match (operation, answer) {
            (Some(Operation::Write { node, write }), Answer::Proposal(Ok(applied))) => {
                assert!(self.writes(node).contains(&write), "write {write} was answered before this node applied it");
                self.checker().acknowledge(write);
                Ok(applied.index)
            }
            (Some(Operation::Write { write, .. }), Answer::Proposal(Err(error))) => {
                if error != ProposeError::Unknown {
                    self.checker().deny(write);
                }
                Err(error.to_string())
            }
            (Some(Operation::Read { node, must_see }), Answer::Read(Ok(index))) => {
                let seen: BTreeSet<u64> = self.writes(node).iter().copied().collect();
                let missed: Vec<_> = must_see.difference(&seen).collect();
                assert!(missed.is_empty(), "a linearizable read missed {missed:?}");
                Ok(index)
            }
            (Some(Operation::Read { .. }), Answer::Read(Err(error))) => Err(error.to_string()),
            (_, Answer::Membership(result)) => {
                if result.is_ok() {
                    self.count("membership changed");
                }
                result.map_err(|error| error.to_string())
            }
            // The node had died and its caller with it.
            (None, _) => return,
            (_, answer) => panic!("{token:?} got an answer of another kind: {answer:?}"),
        };
        self.outcomes.insert(token, outcome);
    }
}
