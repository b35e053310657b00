//! Where data and messages are written.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
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

/// A table that fits the terminal; as wide as it needs to be where there is none.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| visible(&cell)));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

/// `text` on one line, without what would control the terminal.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
