//! Tidelock's decisions: what is configured, what a change does to it, and where a request goes.
//!
//! Everything here is pure. There is no socket, clock, thread, randomness or unordered iteration:
//! time and random bits come in as arguments, effects go out as data. Both planes depend on this
//! crate and it depends on neither, so equal inputs give equal choices on every node.
//!
//! Where to start: [`state`] is what the fleet agrees on, [`table`] is the compiled view that
//! requests read, [`choose`] is the way of one request through it.

pub mod affinity;
pub mod choose;
pub mod command;
pub mod drain;
pub mod health;
pub mod id;
pub mod member;
pub mod pace;
pub mod plan;
pub mod report;
pub mod retry;
pub mod ring;
pub mod route;
pub mod spec;
pub mod state;
pub mod switchover;
pub mod table;
pub mod ticket;
