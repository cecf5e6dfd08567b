//! The environment: what is asked of it, and what is written there and nobody asks for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::problem::{Problem, Source};
use super::suggest::nearest;

const PREFIX: &str = "TIDELOCK_";
/// What flags of the command line stand for.
const OF_FLAGS: [&str; 4] = ["API", "CONFIG", "PRESTOP_ADDRESS", "TOKEN"];

#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
    asked: RefCell<BTreeSet<String>>,
}

/// `admin.listen` is `TIDELOCK_ADMIN_LISTEN`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Kubernetes tells each container of every Service in its namespace, one named `tidelock-admin` perhaps.
fn is_of_a_service(word: &str, value: &str) -> bool {
    let is_numbered = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    word.contains("SERVICE_HOST")
        || word.contains("SERVICE_PORT")
        || word.split("PORT_").skip(1).any(is_numbered)
        || word.ends_with("PORT") && value.contains("://")
}

impl Environment {
    /// The process's.
    pub(crate) fn of_process() -> Environment {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.variables.get(name).cloned()
    }

    /// What looks like a field of a section and is none.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let asked = self.asked.borrow();
        let known: Vec<&str> = asked.iter().filter_map(|name| name.strip_prefix(PREFIX)).collect();
        let unknown = self.variables.iter().filter_map(|(name, value)| {
            let word = name.strip_prefix(PREFIX)?;
            if known.contains(&word) || OF_FLAGS.contains(&word) || is_of_a_service(word, value) {
                return None;
            }
            let section = word.split('_').next().unwrap_or_default();
            let is_of_a_section = known.iter().any(|known| known.split('_').next() == Some(section));
            let reason = match nearest(word, known.iter().copied()) {
                Some(near) => format!("unknown variable, did you mean {PREFIX}{near}?"),
                None if is_of_a_section => "unknown variable: no field has this name".into(),
                None => return None,
            };
            Some(Problem { source: Source::Environment(name.clone()), key: String::new(), reason })
        });
        unknown.collect()
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Environment {
        Environment { variables: variables.into_iter().collect(), asked: RefCell::default() }
    }
}
