//! First stage: a file becomes a table whose values know their line. All syntax errors are
//! reported; what could be read of a broken file goes on to the next stage.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::problem::{Problem, Problems, Source};

/// More than any real file: a mistaken path (a log, a device) is not read into memory.
const MAX_FILE_BYTES: u64 = 16 << 20;

pub(super) struct Text {
    name: Arc<str>,
    directory: PathBuf,
    text: String,
}

/// A parsed file.
pub(super) struct File<'a> {
    text: &'a Text,
    pub(super) root: DeTable<'a>,
}

pub(super) fn text(path: &Path) -> Result<Text, Problem> {
    let name: Arc<str> = path.display().to_string().into();
    let problem = |reason: String| Problem {
        source: Source::File { name: name.clone(), line: None },
        key: String::new(),
        reason,
    };
    let length = std::fs::metadata(path).map_err(|e| problem(format!("cannot be read: {e}")))?.len();
    if length > MAX_FILE_BYTES {
        return Err(problem(format!("is {length} bytes long, a configuration has at most {MAX_FILE_BYTES}")));
    }
    let bytes = std::fs::read(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| problem(format!("is not UTF-8 text: {e}")))?;
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(Text { name, directory, text })
}

impl Text {
    pub(super) fn parse(&self, problems: &mut Problems) -> File<'_> {
        let (root, errors) = DeTable::parse_recoverable(&self.text);
        let file = File { text: self, root: root.into_inner() };
        for error in errors {
            let source = error.span().map_or_else(|| file.whole(), |span| file.at(&span));
            problems.report(&source, "", error.message());
        }
        file
    }
}

impl File<'_> {
    pub(super) fn at(&self, span: &Range<usize>) -> Source {
        let before = &self.text.text.as_bytes()[..span.start.min(self.text.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Source::File { name: self.text.name.clone(), line: Some(line) }
    }

    pub(super) fn whole(&self) -> Source {
        Source::File { name: self.text.name.clone(), line: None }
    }

    /// Relative paths in a file are relative to it, so that it can be moved with what it names.
    pub(super) fn directory(&self) -> &Path {
        &self.text.directory
    }
}
