//! What commands print: aligned tables, raw JSON, and a line that is updated in place on a
//! terminal. Nothing here panics when the reader goes away.

use std::io::{self, IsTerminal, Write};

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

pub(super) fn print_line(text: &str) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

/// Rows under a heading, each column as wide as its widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Table { rows: vec![heading.map(str::to_owned).to_vec()] }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// A state that changes: one line in place on a terminal, else a line for each change.
pub(super) struct Progress {
    terminal: bool,
    shown: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Progress { terminal: io::stderr().is_terminal(), shown: String::new() }
    }

    /// `steady` decides what is a change; `live` moves on the terminal alone (a time left).
    pub(super) fn update(&mut self, steady: &str, live: &str) {
        let mut out = io::stderr().lock();
        // A progress line that cannot be written is no reason to stop waiting.
        let _ = if self.terminal {
            write!(out, "\r\x1b[K{steady}{live}").and_then(|()| out.flush())
        } else if self.shown != steady {
            writeln!(out, "{steady}")
        } else {
            Ok(())
        };
        self.shown = steady.to_owned();
    }

    /// Leaves the last line as it stands.
    pub(super) fn finish(self) {
        if self.terminal && !self.shown.is_empty() {
            let _ = writeln!(io::stderr());
        }
    }
}

/// `####----` of `width`, for the part `done` of `all`.
pub(super) fn bar(done: u64, all: u64, width: usize) -> String {
    let filled = if all == 0 { width } else { (done.min(all) as usize * width) / all as usize };
    format!("{}{}", "#".repeat(filled), "-".repeat(width - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_blanks_at_the_end() {
        let mut table = Table::new(["NAME", "WEIGHT"]);
        table.row(["a-long-name".into(), "1".into()]);
        table.row(["b".into(), String::new()]);
        assert_eq!(table.render(), "NAME         WEIGHT\na-long-name  1\nb\n");
    }

    #[test]
    fn bars_fill() {
        assert_eq!(bar(0, 4, 8), "--------");
        assert_eq!(bar(1, 4, 8), "##------");
        assert_eq!(bar(9, 4, 8), "########");
        assert_eq!(bar(0, 0, 4), "####");
    }
}
