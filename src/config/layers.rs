//! One value from three places: a flag wins over the environment, that over the file. `shape`
//! asks here for every field; a field that nobody asks for is an unknown one.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Flags;
use super::environment::{Environment, variable};
use super::problem::{Problem, Source};
use super::read::File;
use super::scalar::{Scalar, kind};
use super::suggest::nearest;

/// An item of a list, good or not, and where it was written.
type Item<T> = (Source, Result<T, String>);

pub(super) struct Layers<'a> {
    file: Option<&'a File<'a>>,
    flags: &'a Flags,
    env: &'a Environment,
    problems: RefCell<Vec<Problem>>,
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) source: Source,
}

/// What was found under a key. A bad value has been reported; whoever needs it steps aside.
pub(super) enum Found<T> {
    Absent,
    Bad,
    Value(Located<T>),
}

impl<T> Found<T> {
    pub(super) fn or(self, default: T) -> Option<Located<T>> {
        match self {
            Found::Value(located) => Some(located),
            Found::Absent => Some(Located { value: default, source: Source::Default }),
            Found::Bad => None,
        }
    }

    pub(super) fn value(self) -> Option<Located<T>> {
        match self {
            Found::Value(located) => Some(located),
            Found::Absent | Found::Bad => None,
        }
    }
}

impl<'a> Layers<'a> {
    pub(super) fn new(file: Option<&'a File<'a>>, flags: &'a Flags, env: &'a Environment) -> Self {
        Layers { file, flags, env, problems: RefCell::new(Vec::new()) }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.extend(self.env.problems());
        problems
    }

    pub(super) fn root(&'a self) -> Section<'a> {
        let source = self.file.map_or(Source::Default, File::whole);
        Section {
            layers: self,
            path: String::new(),
            source,
            table: self.file.map(|file| &file.root),
            from_environment: false,
            asked: RefCell::default(),
        }
    }

    /// The host's name, for people who run one node on one machine.
    pub(super) fn host_name(&self) -> Option<String> {
        let named = self.env.get("HOSTNAME").or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
        named.map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty())
    }

    fn at(&self, span: &std::ops::Range<usize>) -> Source {
        self.file.map_or(Source::Default, |file| file.at(span))
    }
}

/// One table of the configuration, which may be absent from the file.
pub(super) struct Section<'a> {
    layers: &'a Layers<'a>,
    path: String,
    pub(super) source: Source,
    table: Option<&'a DeTable<'a>>,
    /// Not lists of tables, and what is in them: they have no names there.
    from_environment: bool,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// `fleet`, `listeners[0].tls`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn report(&self, source: &Source, key: &str, reason: impl Into<String>) {
        let problem = Problem { source: source.clone(), key: self.key(key), reason: reason.into() };
        self.layers.problems.borrow_mut().push(problem);
    }

    /// Whether anything is written for this section or one of `keys` in it.
    pub(super) fn is_present(&self, keys: &[&str]) -> bool {
        self.table.is_some() || keys.iter().any(|key| self.outside(key).is_some())
    }

    /// The text of a flag or of the environment.
    fn outside(&self, key: &str) -> Option<(Source, String)> {
        if !self.from_environment {
            return None;
        }
        let path = self.key(key);
        let variable = variable(&path);
        // Asked even where a flag wins: it is known.
        let in_environment = self.layers.env.get(&variable);
        if let Some((flag, value)) = self.layers.flags.find(&path) {
            return Some((Source::Flag(flag), value.to_owned()));
        }
        in_environment.map(|value| (Source::Environment(variable), value))
    }

    fn inside(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.and_then(|table| table.get(key))
    }

    fn found<T>(&self, key: &str, source: Source, result: Result<T, String>) -> Found<T> {
        match result {
            Ok(value) => Found::Value(Located { value, source }),
            Err(reason) => {
                self.report(&source, key, reason);
                Found::Bad
            }
        }
    }

    pub(super) fn scalar<T: Scalar>(&self, key: &'static str) -> Found<T> {
        let inside = self.inside(key);
        if let Some((source, text)) = self.outside(key) {
            return self.found(key, source, T::from_text(&text));
        }
        let Some((value, file)) = inside.zip(self.layers.file) else { return Found::Absent };
        self.found(key, file.at(&value.span()), T::from_toml(value.get_ref(), file.directory()))
    }

    /// A list; in the environment its items are separated by commas.
    pub(super) fn list<T: Scalar>(&self, key: &'static str) -> Found<Vec<Located<T>>> {
        let inside = self.inside(key);
        let (source, items): (Source, Vec<Item<T>>) = match (self.outside(key), inside) {
            (Some((source, text)), _) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                (source.clone(), items.map(|item| (source.clone(), T::from_text(item))).collect())
            }
            (None, Some(list)) => {
                let source = self.layers.at(&list.span());
                let (DeValue::Array(items), Some(file)) = (list.get_ref(), self.layers.file) else {
                    let reason = format!("expected a list, found {}", kind(list.get_ref()));
                    return self.found(key, source, Err(reason));
                };
                let parse = |item: &Spanned<DeValue<'_>>| {
                    (file.at(&item.span()), T::from_toml(item.get_ref(), file.directory()))
                };
                (source, items.iter().map(parse).collect())
            }
            (None, None) => return Found::Absent,
        };
        let count = items.len();
        let value: Vec<Located<T>> =
            items.into_iter().filter_map(|(source, item)| self.found(key, source, item).value()).collect();
        if value.len() == count { Found::Value(Located { value, source }) } else { Found::Bad }
    }

    /// A whole number within `range`. One that is not is reported, and the default stands in.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some(number) = self.scalar::<u64>(key).or(default) else { return default };
        if range.contains(&number.value) {
            return number.value;
        }
        let reason = format!("{} is out of range: use {} to {}", number.value, range.start(), range.end());
        self.report(&number.source, key, reason);
        default
    }

    pub(super) fn millis(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> Duration {
        Duration::from_millis(self.number(key, range, default))
    }

    /// A value whose shape is the API's: serde reads it, and says what is wrong with it.
    pub(super) fn shaped<T: DeserializeOwned>(&self, key: &'static str) -> Found<T> {
        let Some(value) = self.inside(key) else { return Found::Absent };
        let source = self.layers.at(&value.span());
        let result = T::deserialize(toml::de::ValueDeserializer::from(value.clone()));
        self.found(key, source, result.map_err(|e| e.message().to_owned()))
    }

    /// The same, where leaving it out is a problem.
    pub(super) fn required<T>(&self, key: &str, found: Found<T>) -> Option<Located<T>> {
        if matches!(found, Found::Absent) {
            self.report(&self.source, key, "is missing");
        }
        found.value()
    }

    /// A table in this one.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let inside = self.inside(key);
        let mut source = inside.map_or(self.source.clone(), |value| self.layers.at(&value.span()));
        let table = inside.and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                self.report(&source, key, format!("expected a table, found {}", kind(other)));
                source = self.source.clone();
                None
            }
        });
        let from_environment = self.path.is_empty() || self.from_environment;
        Section { layers: self.layers, path: self.key(key), source, table, from_environment, asked: RefCell::default() }
    }

    /// A table that may be left out; it is there when one of `keys` is in the environment, too.
    pub(super) fn section_if_any(&self, key: &'static str, keys: &[&str]) -> Option<Section<'a>> {
        let section = self.section(key);
        section.is_present(keys).then_some(section)
    }

    /// A table that may be left out.
    pub(super) fn section_if_present(&self, key: &'static str) -> Option<Section<'a>> {
        self.section_if_any(key, &[])
    }

    /// A list of tables, none when the key is absent.
    pub(super) fn sections(&self, key: &'static str) -> Option<Vec<Section<'a>>> {
        let value = self.inside(key)?;
        let mistake = |value: &Spanned<DeValue<'_>>, path: &str| {
            let reason = format!("expected a list of tables, written [[{path}]], found {}", kind(value.get_ref()));
            self.report(&self.layers.at(&value.span()), key, reason);
        };
        let DeValue::Array(items) = value.get_ref() else {
            mistake(value, &self.key(key));
            return Some(Vec::new());
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let DeValue::Table(table) = item.get_ref() else {
                mistake(item, &self.key(key));
                continue;
            };
            sections.push(Section {
                layers: self.layers,
                path: format!("{}[{index}]", self.key(key)),
                source: self.layers.at(&item.span()),
                table: Some(table),
                from_environment: false,
                asked: RefCell::default(),
            });
        }
        Some(sections)
    }

    /// Reports what is written here and was never asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let word = key.get_ref().as_ref();
            if asked.contains(&word) {
                continue;
            }
            let reason = match nearest(word, asked.iter().copied()) {
                Some(known) => format!("unknown field, did you mean {known}?"),
                None => format!("unknown field; known are {}", asked.join(", ")),
            };
            self.report(&self.layers.at(&key.span()), word, reason);
        }
    }
}
