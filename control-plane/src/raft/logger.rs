//! The raft crate logs through slog; this drain hands its records to `tracing`.
//!
//! Its levels are one lower here: what raft calls `info` is a transition that status and metrics
//! already show, and the driver logs the few that an operator must see.

use std::fmt::{self, Write};

use slog::{Drain, KV, Level, Logger, OwnedKVList, Record, o};

/// A logger for one node; `node` is on each record, so that several nodes of a test stay apart.
pub(crate) fn logger(node: u64) -> Logger {
    Logger::root(ToTracing.fuse(), o!("node" => format!("{node:016x}")))
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        // Formatting is the costly part: ask first whether anybody listens.
        let level = level(record.level());
        if !enabled(level) {
            return Ok(());
        }
        let mut fields = Fields(String::new());
        // Writing to a String cannot fail, and a log line is not worth an error of its own.
        let _ = values.serialize(record, &mut fields);
        let _ = record.kv().serialize(record, &mut fields);
        let (message, fields) = (record.msg(), fields.0);
        match level {
            tracing::Level::ERROR => tracing::error!(target: "raft", "{message}{fields}"),
            tracing::Level::WARN => tracing::warn!(target: "raft", "{message}{fields}"),
            tracing::Level::DEBUG => tracing::debug!(target: "raft", "{message}{fields}"),
            _ => tracing::trace!(target: "raft", "{message}{fields}"),
        }
        Ok(())
    }
}

fn level(level: Level) -> tracing::Level {
    match level {
        Level::Critical | Level::Error => tracing::Level::ERROR,
        Level::Warning => tracing::Level::WARN,
        Level::Info => tracing::Level::DEBUG,
        Level::Debug | Level::Trace => tracing::Level::TRACE,
    }
}

fn enabled(level: tracing::Level) -> bool {
    match level {
        tracing::Level::ERROR => tracing::enabled!(target: "raft", tracing::Level::ERROR),
        tracing::Level::WARN => tracing::enabled!(target: "raft", tracing::Level::WARN),
        tracing::Level::DEBUG => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
        _ => tracing::enabled!(target: "raft", tracing::Level::TRACE),
    }
}

struct Fields(String);

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}
