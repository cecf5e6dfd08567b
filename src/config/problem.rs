//! What is wrong with a configuration, and where it was written.

use std::fmt;
use std::sync::Arc;

/// Where a value comes from. The order is the one in which problems are printed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    File {
        name: Arc<str>,
        /// Counted from 1; none when the file as a whole is meant.
        line: Option<usize>,
    },
    Environment(String),
    Flag(&'static str),
    /// Nothing was written.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { name, line: Some(line) } => write!(f, "{name}:{line}"),
            Source::File { name, line: None } => f.write_str(name),
            Source::Environment(name) => f.write_str(name),
            Source::Flag(flag) => f.write_str(flag),
            Source::Default => f.write_str("default"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) source: Source,
    /// `admin.listen`; empty when no key is to blame.
    pub(super) key: String,
    pub(super) reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.source, self.reason),
            key => write!(f, "{}: {key}: {}", self.source, self.reason),
        }
    }
}

/// Everything that is wrong, one line each, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, problem: Problem) {
        let place = self.0.partition_point(|known| *known <= problem);
        self.0.insert(place, problem);
    }

    pub(super) fn extend(&mut self, problems: Vec<Problem>) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }

    pub(super) fn report(&mut self, source: &Source, key: impl Into<String>, reason: impl Into<String>) {
        self.push(Problem { source: source.clone(), key: key.into(), reason: reason.into() });
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
