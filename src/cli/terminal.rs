//! Where data and messages are written.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use super::Format;
use super::logging::Queue;

/// How long the program waits, at its end, for its messages to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The two outputs of the program: data to stdout, messages to stderr.
pub(super) struct Terminal {
    format: Format,
    out: io::Stdout,
    /// Where messages go that must not wait for whoever reads stderr.
    queue: Option<Queue>,
}

/// Whoever read stdout has gone, as `head` does: there is nobody left to write to, and nothing to complain about.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads stdout any more")]
pub(super) struct Closed;

impl Terminal {
    pub fn new(format: Format) -> Terminal {
        Terminal { format, out: io::stdout(), queue: None }
    }

    /// From here on messages go the way of the logs, and wait for nobody.
    pub fn say_through(&mut self, queue: Queue) {
        self.queue = Some(queue);
    }

    /// Waits for the messages to have been written, but not for long.
    pub fn finish(&self) {
        if let Some(queue) = &self.queue {
            queue.finish(LAST_LINES);
        }
    }

    /// Prints `data` as JSON or YAML where that was asked for; otherwise what `table` makes of it.
    pub fn show<T: Serialize + ?Sized>(&mut self, data: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self.format {
            Format::Table => self.write(&table(data)),
            Format::Json => self.line(serde_json::to_string_pretty(data)?),
            Format::Yaml => self.write(&serde_yaml::to_string(data)?),
        }
    }

    /// Prints one line.
    pub fn line(&mut self, text: impl fmt::Display) -> anyhow::Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// Prints `text` as it is, at once.
    pub fn write(&mut self, text: &str) -> anyhow::Result<()> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
            Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
            Ok(()) => Ok(()),
        }
    }

    /// Tells the person something. Where stderr is closed, nobody wants to know.
    pub fn say(&self, message: impl fmt::Display) {
        match &self.queue {
            Some(queue) => queue.send(format!("{message}\n").as_bytes()),
            None => {
                writeln!(io::stderr(), "{message}").ok();
            }
        }
    }

    /// Asks the person to confirm. `false` also where there is nobody to ask.
    pub fn confirm(&self, question: &str) -> io::Result<bool> {
        if !io::stdin().is_terminal() {
            return Ok(false);
        }
        write!(io::stderr(), "{question} [y/N] ").ok();
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// Columns of which some words are coloured on a terminal.
const COLOURED: [&str; 3] = ["STATE", "LAST VERDICT", "ROLE"];

/// The longest word that is never broken, in characters: longer ones are no names or instants.
const WORD_MOST: usize = 64;

/// A table that fits the terminal as far as it can without breaking a word; as wide as it needs to be where there is none.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    arranged(head, rows, None, is_coloured(io::stdout().is_terminal()))
}

/// Whether what is written to a terminal is coloured: <https://no-color.org>.
pub(super) fn is_coloured(is_terminal: bool) -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    is_terminal && !is_dumb && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

fn arranged(
    head: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    width: Option<u16>,
    is_coloured: bool,
) -> String {
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| visible(cell)).collect());
    let rows: Vec<Vec<String>> = rows.collect();
    let longest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str).chain([head[column]]);
        let words = cells.flat_map(|cell| cell.split(' ')).map(|word| word.chars().count());
        u16::try_from(words.max().unwrap_or(0).min(WORD_MOST)).unwrap_or(u16::MAX)
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    if let Some(width) = width {
        table.set_width(width);
    }
    if is_coloured {
        table.enforce_styling();
    } else {
        table.style_text_only();
    }
    for row in &rows {
        table.add_row(row.iter().zip(head).map(|(text, head)| cell(text, head, is_coloured)));
    }
    for column in 0..head.len() {
        if let Some(arranged) = table.column_mut(column) {
            // With the space on either side of it.
            arranged.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(longest(column) + 2)));
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

fn cell(text: &str, head: &str, is_coloured: bool) -> Cell {
    let colour = match text {
        _ if !is_coloured || !COLOURED.contains(&head) => None,
        "succeeded" | "done" | "leader" => Some(Color::Green),
        "failed" | "timed_out" | "lost" => Some(Color::Red),
        "unknown" | "cancelled" | "held back" | "leader, held back" => Some(Color::Yellow),
        _ => None,
    };
    let cell = Cell::new(text);
    match colour {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

/// `text` on one line, without what would control the terminal.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let row = |state: &str| {
            let run = "nightly-report-of-the-shop@2026-11-21T02:00:00Z";
            ["2026-11-21T02:00:00.123Z", run, state, "exit code 3, after it had said a good deal about why"]
                .map(str::to_owned)
        };
        [row("failed"), row("succeeded")].map(Vec::from).into()
    }

    const HEAD: [&str; 4] = ["STARTED", "RUN", "STATE", "REASON"];

    #[test]
    fn instants_and_names_are_not_broken_where_the_terminal_is_narrow() {
        for width in [20, 80, 110, 200] {
            let table = arranged(&HEAD, rows(), Some(width), false);
            for word in rows().iter().flatten().flat_map(|cell| cell.split(' ')) {
                assert!(table.contains(word), "{word} is broken at {width}:\n{table}");
            }
            assert!(!table.contains('\u{1b}'), "{table:?}");
        }
        let narrow = arranged(&HEAD, rows(), Some(110), false);
        assert!(narrow.lines().count() > 3, "what has spaces is on more than one line:\n{narrow}");
    }

    #[test]
    fn verdicts_are_coloured_where_that_is_wanted() {
        let table = arranged(&HEAD, rows(), Some(200), true);
        assert!(table.contains("\u{1b}[38;5;9m") && table.contains("\u{1b}[38;5;10m"), "{table:?}");
        assert!(!is_coloured(false));
    }
}
