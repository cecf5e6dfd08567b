//! Everything in this crate that reads bytes of others, before damaged input: entries of the log, snapshots,
//! specs as the API takes them, cookies and tickets as clients send them.

mod counting;
mod mutate;

use mutate::{Decoder, try_all};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidelock_core::affinity::{CookieKey, KeySecret, Pin, Sealer, SessionId};
use tidelock_core::command::Proposal;
use tidelock_core::id::{EndpointId, Epoch, PoolId};
use tidelock_core::spec::{EndpointSpec, PoolSpec, RouteSpec};
use tidelock_core::state::State;
use tidelock_core::table::Table;
use tidelock_core::ticket::TicketSealer;

const COMMANDS: [&str; 19] = [
    r#"{"op":"set-level","level":2}"#,
    r#"{"op":"put-pool","name":"app","spec":{}}"#,
    r#"{"op":"put-pool","name":"full","spec":{"protocol":"auto","tls":{"authorities":"PEM","server_name":"app.internal",
        "verify":"none"},"limits":{"max_connections":2,"max_requests":8,"max_pending":3},
        "health":{"check":{"kind":"http","path":"/healthz"},"slow_start_ms":5000}}}"#,
    r#"{"op":"put-endpoint","pool":"app","name":"a","spec":{"address":"10.0.0.1:4000","weight":3,"revision":"v1"}}"#,
    r#"{"op":"put-endpoint","pool":"app","name":"b","spec":{"address":"[::1]:4000"}}"#,
    r#"{"op":"put-route","name":"web","spec":{"host":"*.example.com","path_prefix":"/x","pool":"app",
        "affinity":{"kind":"header","name":"x-user"},"expose":true}}"#,
    r#"{"op":"put-route","name":"all","spec":{"pool":"full","affinity":{"kind":"none"}}}"#,
    r#"{"op":"start-drain","pool":"app","endpoint":"a","mode":"sessions","deadline_ms":5000,"reason":"x"}"#,
    r#"{"op":"start-drain","pool":"app","endpoint":"b","mode":"streams","deadline_ms":null,"reason":""}"#,
    r#"{"op":"finish-drain","drain":"d9","forced":true}"#,
    r#"{"op":"cancel-drain","pool":"app","endpoint":"b"}"#,
    r#"{"op":"set-health","pool":"app","endpoint":"a","id":3,"verdict":"down","detail":"x"}"#,
    r#"{"op":"set-observers","nodes":["00000000000000ab"]}"#,
    r#"{"op":"set-member","node":"00000000000000ab","wanted":"gone"}"#,
    r#"{"op":"put-join-token","token":{"sha256":"ff","wanted":"voter","expires_ms":99000}}"#,
    r#"{"op":"use-join-token","sha256":"ff","node":"00000000000000ac"}"#,
    r#"{"op":"batch","commands":[{"op":"delete-route","name":"all"},{"op":"delete-pool","name":"full"}]}"#,
    r#"{"op":"delete-endpoint","pool":"app","name":"b"}"#,
    r#"{"op":"put-cookie-key","key":{"id":3,"secret":"abababababababababababababababababababababababababababababababab",
        "promoted":true}}"#,
];

fn proposals() -> Vec<Vec<u8>> {
    let keyed =
        |(index, command): (u64, &str)| format!("{{\"at_ms\":{index}000,\"key\":\"k{index}\",\"command\":{command}}}");
    (1..).zip(COMMANDS).map(|entry| [&[1], keyed(entry).as_bytes()].concat()).collect()
}

/// After each of the proposals.
fn states() -> Vec<State> {
    let mut state = State::default();
    let mut apply = |(index, bytes): (u64, &Vec<u8>)| {
        state.apply(Epoch(index), &Proposal::decode(bytes).expect("a sample"));
        state.clone()
    };
    (1..).zip(&proposals()).map(&mut apply).collect()
}

/// What is read is also applied, to a fleet in which most names are known.
fn proposal(bytes: &[u8]) -> Option<Vec<u8>> {
    let proposal = Proposal::decode(bytes).ok()?;
    thread_local! {
        static STATES: Vec<State> = states();
    }
    STATES.with(|states| {
        for state in [7, 9, 18].map(|at: usize| &states[at]) {
            let mut state = state.clone();
            let _ = state.check(1, &proposal.command);
            state.apply(Epoch(100), &proposal);
            state.apply(Epoch(u64::MAX), &proposal);
        }
    });
    Some(proposal.encode())
}

/// What is read is also compiled, as a node does it when it starts.
fn state(bytes: &[u8]) -> Option<Vec<u8>> {
    let state = State::decode(bytes).ok()?;
    Table::compile(&state, None);
    Some(state.encode())
}

fn json<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(&serde_json::from_slice::<T>(bytes).ok()?).ok()
}

fn specs(kind: &str) -> Vec<Vec<u8>> {
    let commands = COMMANDS.iter().map(|text| serde_json::from_str::<serde_json::Value>(text).expect("a sample"));
    commands.filter(|command| command["op"] == kind).map(|command| command["spec"].to_string().into_bytes()).collect()
}

fn keys() -> [CookieKey; 1] {
    [CookieKey { id: 1, secret: KeySecret([7; 32]), promoted: true }]
}

fn pin() -> Pin {
    Pin { session: SessionId([5; 16]), pool: PoolId(1), endpoint: EndpointId(2), revision: 3, issued: 4 }
}

fn cookie(bytes: &[u8]) -> Option<Vec<u8>> {
    let sealer = Sealer::new(&keys());
    Some(sealer.seal(sealer.open(bytes)?, [9; 12])?.into_bytes())
}

fn ticket(bytes: &[u8]) -> Option<Vec<u8>> {
    let sealer = TicketSealer::new(&keys());
    sealer.seal(&sealer.open(bytes)?, [9; 12])
}

#[test]
fn damaged_input_is_refused_or_read_and_nothing_else() {
    let sealed = Sealer::new(&keys()).seal(pin(), [9; 12]).expect("there is a key").into_bytes();
    let ticket_of = TicketSealer::new(&keys()).seal(b"a session's state", [9; 12]).expect("there is a key");
    try_all(&[
        Decoder { name: "log entry", samples: proposals(), decode: proposal, memory: (64, 256 << 10) },
        Decoder {
            name: "snapshot",
            samples: states().iter().map(State::encode).collect(),
            decode: state,
            memory: (64, 256 << 10),
        },
        Decoder { name: "pool", samples: specs("put-pool"), decode: json::<PoolSpec>, memory: (16, 32 << 10) },
        Decoder {
            name: "endpoint",
            samples: specs("put-endpoint"),
            decode: json::<EndpointSpec>,
            memory: (16, 32 << 10),
        },
        Decoder { name: "route", samples: specs("put-route"), decode: json::<RouteSpec>, memory: (16, 32 << 10) },
        Decoder { name: "cookie", samples: vec![sealed], decode: cookie, memory: (16, 32 << 10) },
        Decoder { name: "ticket", samples: vec![ticket_of], decode: ticket, memory: (16, 32 << 10) },
    ]);
}

/// The planted bugs: a trial that cannot fail proves nothing.
mod planted {
    use super::*;

    fn row(decode: fn(&[u8]) -> Option<Vec<u8>>) -> [Decoder; 1] {
        [Decoder { name: "planted", samples: vec![b"abcdefgh".to_vec()], decode, memory: (8, 4 << 10) }]
    }

    #[test]
    #[should_panic(expected = "slice")]
    fn a_decoder_that_trusts_a_length_is_caught() {
        try_all(&row(|bytes| Some(bytes[..8].to_vec())));
    }

    #[test]
    #[should_panic(expected = "of input")]
    fn a_decoder_that_asks_for_what_the_input_claims_is_caught() {
        try_all(&row(|bytes| {
            let claimed = bytes.first().map_or(0, |first| usize::from(*first) << 8);
            (claimed < 0xff00).then(|| Vec::with_capacity(if claimed > 0x8000 { claimed } else { 0 }))
        }));
    }

    #[test]
    #[should_panic(expected = "planted")]
    fn a_decoder_that_reads_otherwise_than_it_writes_is_caught() {
        try_all(&row(|bytes| Some(bytes.iter().map(|byte| byte.wrapping_add(1)).collect())));
    }
}
