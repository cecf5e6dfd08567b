//! `[[initial.pools]]` and `[[initial.routes]]`: what a new fleet begins with, in the API's shapes.
//! The first leader proposes it once, to an empty fleet; afterwards the API is the only way.

use std::path::PathBuf;

use tidelock_core::command::{Command, LEVEL, Proposal};
use tidelock_core::id::{Epoch, Name};
use tidelock_core::spec::{Authorities, EndpointLimits, EndpointSpec, EndpointTls, PoolSpec, RouteSpec, Timeouts};
use tidelock_core::state::{Outcome, State};

use super::layers::{Found, Located, Section};
use super::problem::{Problems, Source};

/// Commands in an order in which each applies.
#[derive(Debug, Default)]
pub(crate) struct Initial {
    pub commands: Vec<Command>,
}

/// Commands with their place in the file; what could not be read has been reported.
#[derive(Default)]
pub(super) struct InitialDraft {
    commands: Vec<Placed>,
}

struct Placed {
    source: Source,
    key: String,
    command: Command,
}

pub(super) fn shape(section: Section<'_>) -> InitialDraft {
    let mut draft = InitialDraft::default();
    for pool in section.sections("pools").unwrap_or_default() {
        shape_pool(pool, &mut draft.commands);
    }
    for route in section.sections("routes").unwrap_or_default() {
        shape_route(route, &mut draft.commands);
    }
    section.finish();
    draft
}

fn shape_pool(section: Section<'_>, commands: &mut Vec<Placed>) {
    let name = section.required("name", section.scalar::<Name>("name"));
    let spec = section.section_if_present("spec").map(pool_spec).unwrap_or_default();
    if let Some(Located { value: name, source }) = &name {
        let command = Command::PutPool { name: name.clone(), spec };
        commands.push(Placed { source: source.clone(), key: section.key("name"), command });
    }
    for endpoint in section.sections("endpoints").unwrap_or_default() {
        shape_endpoint(endpoint, name.as_ref(), commands);
    }
    section.finish();
}

fn pool_spec(section: Section<'_>) -> PoolSpec {
    let spec = PoolSpec {
        protocol: given(section.shaped("protocol")).unwrap_or_default(),
        strip_content_length: given(section.shaped("strip_content_length")).unwrap_or_default(),
        timeouts: section.section_if_present("timeouts").map(pool_timeouts).unwrap_or_default(),
        tls: section.section_if_present("tls").map(pool_tls),
        health: given(section.shaped("health")),
        limits: section.section_if_present("limits").map(pool_limits).unwrap_or_default(),
        hold: given(section.shaped("hold")).unwrap_or_default(),
        route_to: given(section.shaped("route_to")).unwrap_or_default(),
    };
    if let Err(reason) = spec.check() {
        section.report(&section.source, "tls", reason);
    }
    section.finish();
    spec
}

/// The authorities are a file's here, and the file's content in the fleet.
fn pool_tls(section: Section<'_>) -> EndpointTls {
    let authorities = section.scalar::<PathBuf>("authorities_file").value().and_then(|at| {
        let read = std::fs::read_to_string(&at.value).map_err(|error| error.to_string());
        let read = read.and_then(Authorities::try_from);
        let read = read.map_err(|error| format!("{} cannot be used: {error}", at.value.display()));
        read.map_err(|reason| section.report(&at.source, "authorities_file", reason)).ok()
    });
    let tls = EndpointTls {
        authorities,
        server_name: given(section.shaped("server_name")),
        verify: given(section.shaped("verify")).unwrap_or_default(),
    };
    section.finish();
    tls
}

fn pool_limits(section: Section<'_>) -> EndpointLimits {
    let limits = EndpointLimits {
        max_connections: given(section.shaped("max_connections")),
        max_requests: given(section.shaped("max_requests")),
        max_pending: given(section.shaped("max_pending")).unwrap_or(EndpointLimits::default().max_pending),
        max_websockets_per_second: given(section.shaped("max_websockets_per_second")),
    };
    section.finish();
    limits
}

fn pool_timeouts(section: Section<'_>) -> Timeouts {
    let default = Timeouts::default();
    let timeouts = Timeouts {
        connect_ms: given(section.shaped("connect_ms")).unwrap_or(default.connect_ms),
        first_byte_ms: given(section.shaped("first_byte_ms")).unwrap_or(default.first_byte_ms),
        idle_ms: given(section.shaped("idle_ms")).unwrap_or(default.idle_ms),
        websocket_idle_ms: given(section.shaped("websocket_idle_ms")).unwrap_or(default.websocket_idle_ms),
        total_ms: given(section.shaped("total_ms")),
        keep_alive_ms: given(section.shaped("keep_alive_ms")),
        connection_age_ms: given(section.shaped("connection_age_ms")),
    };
    section.finish();
    timeouts
}

fn shape_endpoint(section: Section<'_>, pool: Option<&Located<Name>>, commands: &mut Vec<Placed>) {
    let name = section.required("name", section.scalar::<Name>("name"));
    let address = section.required("address", section.scalar("address"));
    let weight = given(section.shaped("weight")).unwrap_or_default();
    let revision = given(section.shaped("revision"));
    let node = given(section.shaped("node"));
    if let (Some(pool), Some(name), Some(address)) = (pool, name, address) {
        let spec = EndpointSpec { address: address.value, weight, revision, node };
        let command = Command::PutEndpoint { pool: pool.value.clone(), name: name.value, spec };
        commands.push(Placed { source: name.source, key: section.key("name"), command });
    }
    section.finish();
}

fn shape_route(section: Section<'_>, commands: &mut Vec<Placed>) {
    let name = section.required("name", section.scalar::<Name>("name"));
    let present = section.section_if_present("spec");
    if present.is_none() {
        section.report(&section.source, "spec", "is missing: a route names at least its pool");
    }
    let spec = present.and_then(route_spec);
    if let (Some(name), Some(spec)) = (name, spec) {
        let command = Command::PutRoute { name: name.value, spec };
        commands.push(Placed { source: name.source, key: section.key("name"), command });
    }
    section.finish();
}

fn route_spec(section: Section<'_>) -> Option<RouteSpec> {
    let host = given(section.shaped("host"));
    let path_prefix = given(section.shaped("path_prefix")).unwrap_or_default();
    let affinity = given(section.shaped("affinity")).unwrap_or_default();
    let strength = given(section.shaped("strength")).unwrap_or_default();
    let profile = given(section.shaped("profile"));
    let expose = given(section.shaped("expose")).unwrap_or_default();
    let pool = section.required("pool", section.scalar::<Name>("pool"));
    let spec = pool.map(|pool| RouteSpec { host, path_prefix, pool: pool.value, affinity, strength, profile, expose });
    if let Some(Err(reason)) = spec.as_ref().map(RouteSpec::check) {
        section.report(&section.source, "affinity", reason);
    }
    section.finish();
    spec
}

fn given<T>(found: Found<T>) -> Option<T> {
    found.value().map(|located| located.value)
}

/// Applies the commands to an empty state, one after the other, and reports those that fail.
pub(super) fn check(draft: InitialDraft, problems: &mut Problems) -> Initial {
    let mut state = State::default();
    // As it will be when the first leader proposes them.
    let command = Command::SetLevel { level: LEVEL };
    state.apply(Epoch(1), &Proposal { at_ms: 0, key: None, command });
    let mut commands = Vec::new();
    for (index, Placed { source, key, command }) in draft.commands.into_iter().enumerate() {
        if let Some(what) = repeats(&state, &command) {
            problems.report(&source, key, format!("there is {what} of this name further up"));
            continue;
        }
        let proposal = Proposal { at_ms: 0, key: None, command };
        match state.apply(Epoch(index as u64 + 2), &proposal) {
            Outcome::Applied { .. } => commands.push(proposal.command),
            Outcome::Rejected { reason } => problems.report(&source, key, reason.to_string()),
        }
    }
    Initial { commands }
}

/// A second PUT would quietly replace the first: in one file that is a mistake.
fn repeats(state: &State, command: &Command) -> Option<&'static str> {
    match command {
        Command::PutPool { name, .. } => state.pools.contains_key(name).then_some("a pool"),
        Command::PutRoute { name, .. } => state.routes.contains_key(name).then_some("a route"),
        Command::PutEndpoint { pool, name, .. } => {
            let known = state.pools.get(pool).is_some_and(|pool| pool.endpoints.contains_key(name));
            known.then_some("an endpoint")
        }
        _ => None,
    }
}
