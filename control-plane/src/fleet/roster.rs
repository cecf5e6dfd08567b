//! Who is in the fleet, and what each node said last.
//!
//! Raft knows the members; their reports say what runs on them. A node that was not heard of for
//! [`FRESH`] counts as missing: its last report is shown to nobody as the present, and no drain is
//! called safe without it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidelock_core::drain::Seen;
use tidelock_core::id::{Epoch, Name, NodeId};
use tidelock_core::report::NodeReport;

use crate::raft::{Peer, Role, Status};

/// For how long a report speaks for its node: three of the at most one second apart bulletins may
/// be lost. After that the node is missing.
pub(crate) const FRESH: Duration = Duration::from_secs(3);

/// Bulletins are kept of this many nodes, so that ids which are no members cannot fill the memory.
/// More are ignored; fleets are far smaller.
const MAX_NODES: usize = 1_024;

/// What a node tells the others about itself. JSON between the nodes, and unknown fields are
/// ignored, because nodes of two versions run together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bulletin {
    pub(crate) name: Name,
    /// Where its Admin API is, for people.
    #[serde(default)]
    pub(crate) admin: Option<String>,
    /// How much of the log's language it knows.
    #[serde(default = "first_level")]
    pub(crate) level: u32,
    /// Nodes that are connected and have been removed: they may not have heard of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) removed: Vec<NodeId>,
    pub(crate) report: NodeReport,
}

/// Of nodes that say nothing about it.
fn first_level() -> u32 {
    1
}

impl Bulletin {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps have number keys and a Vec takes every write")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Bulletin, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[derive(Debug)]
pub(crate) struct Roster {
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    bulletin: Arc<Bulletin>,
}

/// One node of the fleet as this node sees it at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) role: Role,
    /// It is the node that looks.
    pub(crate) local: bool,
    /// Its name. While it was never heard of: its address, or its id.
    pub(crate) label: String,
    /// Since its last bulletin; none when there never was one.
    pub(crate) age: Option<Duration>,
    /// What it said last, however long ago.
    pub(crate) bulletin: Option<Arc<Bulletin>>,
}

impl Member {
    /// What it reports, unless that is too old to be true.
    pub(crate) fn report(&self) -> Option<&NodeReport> {
        let fresh = self.age.is_some_and(|age| age <= FRESH);
        self.bulletin.as_ref().filter(|_| fresh).map(|bulletin| &bulletin.report)
    }

    /// How much of the log's language it knows, by its last word.
    pub(crate) fn level(&self) -> Option<u32> {
        self.bulletin.as_ref().map(|bulletin| bulletin.level)
    }

    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.report().and_then(|report| report.epoch)
    }
}

/// The members in the form in which the core judges drains.
pub(crate) fn seen(members: &[Member]) -> Vec<Seen<'_>> {
    members.iter().map(|member| Seen { node: member.id, report: member.report() }).collect()
}

impl Roster {
    pub(crate) fn new() -> Roster {
        Roster { heard: BTreeMap::new() }
    }

    /// Takes note of a bulletin. True when it says something new, and not only "still here".
    pub(crate) fn hear(&mut self, node: NodeId, bulletin: Arc<Bulletin>, now: Instant) -> bool {
        if let Some(heard) = self.heard.get_mut(&node) {
            let news = heard.bulletin != bulletin || now.duration_since(heard.at) > FRESH;
            *heard = Heard { at: now, bulletin };
            return news;
        }
        if self.heard.len() >= MAX_NODES {
            return false;
        }
        self.heard.insert(node, Heard { at: now, bulletin });
        true
    }

    /// Every voter and learner, and this node even before it is one, in the order of their names.
    /// `peers` knows nodes by name or address before their first bulletin.
    pub(crate) fn members(&self, raft: &Status, peers: &[Peer], now: Instant) -> Vec<Member> {
        let mut ids: Vec<u64> = raft.membership.ids().chain([raft.id]).collect();
        ids.sort_unstable();
        ids.dedup();
        let member = |id: u64| {
            let heard = self.heard.get(&NodeId(id));
            Member {
                id: NodeId(id),
                role: role_of(id, raft),
                local: id == raft.id,
                label: label(id, heard, peers),
                age: heard.map(|heard| now.saturating_duration_since(heard.at)),
                bulletin: heard.map(|heard| heard.bulletin.clone()),
            }
        };
        let mut members: Vec<Member> = ids.into_iter().map(member).collect();
        members.sort_by(|a, b| a.label.cmp(&b.label).then(a.id.cmp(&b.id)));
        members
    }
}

fn label(id: u64, heard: Option<&Heard>, peers: &[Peer]) -> String {
    if let Some(heard) = heard {
        return heard.bulletin.name.to_string();
    }
    let peer = peers.iter().find(|peer| peer.id == id);
    let known = peer.and_then(|peer| [&peer.name, &peer.address].into_iter().find(|text| !text.is_empty()));
    known.map_or_else(|| NodeId(id).to_string(), Clone::clone)
}

fn role_of(id: u64, raft: &Status) -> Role {
    if raft.membership.learners.contains(&id) {
        Role::Learner
    } else if id == raft.id {
        raft.role
    } else if raft.leader == Some(id) {
        Role::Leader
    } else {
        Role::Follower
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::consensus::local::leading;
    use crate::raft::Membership;

    fn bulletin(name: &str) -> Arc<Bulletin> {
        Arc::new(Bulletin {
            name: name.parse().unwrap(),
            admin: None,
            level: 1,
            removed: Vec::new(),
            report: NodeReport::default(),
        })
    }

    fn raft(voters: &[u64], learners: &[u64]) -> Status {
        let membership = Membership { learners: learners.to_vec(), ..Membership::of_voters(voters) };
        Status { role: Role::Follower, leader: Some(2), membership, ..leading(voters) }
    }

    fn peer(id: u64, name: &str, address: &str) -> Peer {
        let (name, address) = (name.to_owned(), address.to_owned());
        Peer {
            id,
            name,
            address,
            admin: String::new(),
            version: String::new(),
            last_seen: None,
            connected: false,
            join_token: None,
        }
    }

    #[test]
    fn members_come_from_raft_and_words_from_bulletins() {
        let start = Instant::now();
        let mut roster = Roster::new();
        roster.hear(NodeId(1), bulletin("z"), start);
        roster.hear(NodeId(2), bulletin("a"), start);
        roster.hear(NodeId(9), bulletin("stranger"), start);
        let peers = [peer(4, "", "c.peers:7946"), peer(5, "d", "d.peers:7946"), peer(1, "old", "a:1")];
        let members = roster.members(&raft(&[1, 2, 3, 5], &[4]), &peers, start);
        let labels: Vec<&str> = members.iter().map(|member| member.label.as_str()).collect();
        assert_eq!(labels, ["0000000000000003", "a", "c.peers:7946", "d", "z"]);
        let roles: Vec<Role> = members.iter().map(|m| m.role).collect();
        assert_eq!(roles, [Role::Follower, Role::Leader, Role::Learner, Role::Follower, Role::Follower]);
        assert!(members[0].report().is_none() && members[4].local);
    }

    #[test]
    fn a_report_expires() {
        let start = Instant::now();
        let mut roster = Roster::new();
        assert!(roster.hear(NodeId(1), bulletin("a"), start));
        assert!(!roster.hear(NodeId(1), bulletin("a"), start + Duration::from_secs(1)), "nothing new");
        let at = |age| roster.members(&raft(&[1], &[]), &[], start + Duration::from_secs(1) + age);
        assert!(at(FRESH)[0].report().is_some());
        let late = at(FRESH + Duration::from_millis(1));
        assert!(late[0].report().is_none());
        assert_eq!(late[0].label, "a", "its name is still known");
    }

    #[test]
    fn a_node_that_comes_back_is_news() {
        let start = Instant::now();
        let mut roster = Roster::new();
        roster.hear(NodeId(2), bulletin("b"), start);
        assert!(roster.hear(NodeId(2), bulletin("b"), start + FRESH + Duration::from_millis(1)));
    }

    #[test]
    fn bulletins_survive_newer_fields() {
        let mut json: serde_json::Value = serde_json::from_slice(&bulletin("a").encode()).unwrap();
        json["later"] = true.into();
        json["report"]["later"] = 1.into();
        assert_eq!(Bulletin::decode(json.to_string().as_bytes()).unwrap(), *bulletin("a"));
        assert!(Bulletin::decode(b"rubbish").is_err());
    }
}
