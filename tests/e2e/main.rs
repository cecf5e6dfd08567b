//! End to end: the real binary in several processes, real sockets, clients that check every byte.
//!
//! `support` holds the fleet and the clients; each other module is a story that an operator would
//! recognise. Nothing here waits by sleeping: it waits for what it wants to see, with a deadline.

mod activation;
mod bad_input;
mod browser;
mod clocks;
mod crashes;
mod disks;
mod drains;
mod elixir;
mod elixir_stops;
mod explain;
mod fleet;
mod gaps;
mod handover;
mod health;
mod keys;
mod membership;
mod partitions;
mod phoenix;
mod restarts;
mod sessions;
mod support;
mod switchovers;
mod upgrade;
mod wants;
