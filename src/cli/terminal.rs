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
    /// Where messages go that must not wait for the reader of stderr.
    queue: Option<Queue>,
}

/// The reader of stdout has gone, as `head` does: that is no error.
#[derive(Debug, thiserror::Error)]
#[error("stdout has no reader any more")]
pub(super) struct Closed;

impl Terminal {
    pub fn new(format: Format) -> Terminal {
        Terminal { format, out: io::stdout(), queue: None }
    }

    /// From here on messages go the way of the logs, and wait for no reader.
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
        self.write_bytes(text.as_bytes())
    }

    /// The same for what may be no text.
    pub fn write_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
            Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
            Ok(()) => Ok(()),
        }
    }

    /// Prints a message for the user. A closed stderr has no reader.
    pub fn say(&self, message: impl fmt::Display) {
        match &self.queue {
            Some(queue) => queue.send(format!("{message}\n").as_bytes()),
            None => {
                writeln!(io::stderr(), "{message}").ok();
            }
        }
    }

    /// Asks the user to confirm. `false` also without a terminal.
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

/// Columns of sentences, which may be broken between words. All others hold names, instants, durations and the like.
const SENTENCES: [&str; 2] = ["REASON", "NOTE"];

/// How narrow a column of sentences may become, in characters.
const SENTENCE_LEAST: usize = 30;

/// What stands between two columns.
const GAP: &str = "  ";

/// What stands before that of a row for which its line has no room.
const INDENT: &str = "    ";

/// A table that fits the terminal: columns for which there is no room stand below their row, each with its name. Where
/// stdout is no terminal the table is as wide as it needs to be, with one line for each row.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    arranged(head, rows, width(), is_coloured(io::stdout().is_terminal()))
}

/// How wide the terminal is; `None`: stdout is none.
fn width() -> Option<u16> {
    let is_terminal = io::stdout().is_terminal();
    // A terminal that has not been given its size says 0.
    is_terminal.then(|| Table::new().width()).flatten().filter(|width| *width > 0)
}

/// Lines of a name and what is said of it, `indent` characters from the left, which on a terminal goes on in the next line
/// where a word has no room.
pub(super) fn named_lines(text: &str, indent: usize) -> String {
    let Some(width) = width().map(usize::from) else { return text.to_owned() };
    text.lines().map(|line| named_line(line, indent, width)).collect()
}

fn named_line(line: &str, indent: usize, width: usize) -> String {
    let begin = line.char_indices().nth(indent).map_or(line.len(), |(at, _)| at);
    let mut text = line[..begin].to_owned();
    let mut taken = indent;
    for (nth, word) in line[begin..].split(' ').enumerate() {
        let length = word.chars().count();
        if nth > 0 && taken + 1 + length > width {
            text += &format!("\n{:indent$}", "");
            taken = indent;
        } else if nth > 0 {
            text.push(' ');
            taken += 1;
        }
        text += word;
        taken += length;
    }
    text + "\n"
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
    let least: Vec<usize> = (0..head.len()).map(|column| least_width(head[column], column, &rows)).collect();
    let beside = width.map_or(head.len(), |width| columns_that_fit(&least, usize::from(width)));
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(&head[..beside]);
    match width.filter(|_| beside == head.len()) {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    if is_coloured {
        table.enforce_styling();
    } else {
        table.style_text_only();
    }
    for row in &rows {
        table.add_row(row.iter().zip(&head[..beside]).map(|(text, head)| cell(text, head, is_coloured)));
    }
    for (column, least) in least.iter().enumerate().take(beside) {
        if let Some(arranged) = table.column_mut(column) {
            let gap = if column + 1 == beside { 0 } else { GAP.len() as u16 };
            let least = u16::try_from(*least).unwrap_or(u16::MAX).saturating_add(gap);
            arranged.set_padding((0, gap));
            arranged.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    if beside == head.len() {
        return lines.collect();
    }
    // There each row has one line.
    let width = width.map_or(usize::MAX, usize::from);
    let below = rows.iter().map(|row| below(&head[beside..], &row[beside.min(row.len())..], width, is_coloured));
    lines.zip(std::iter::once(String::new()).chain(below)).map(|(line, below)| line + &below).collect()
}

/// How many characters a column needs.
fn least_width(head: &str, column: usize, rows: &[Vec<String>]) -> usize {
    let longest = |of: fn(&str) -> usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| of(cell)).max();
    let whole = longest(|cell| cell.chars().count()).unwrap_or(0);
    let word = longest(|cell| cell.split(' ').map(|word| word.chars().count()).max().unwrap_or(0)).unwrap_or(0);
    let needed = if SENTENCES.contains(&head) { whole.min(word.max(SENTENCE_LEAST)) } else { whole };
    needed.max(head.chars().count())
}

/// How many of the first columns stand beside each other; the first one always does.
fn columns_that_fit(least: &[usize], width: usize) -> usize {
    let mut taken = 0;
    let fit = least.iter().take_while(|least| {
        taken += **least;
        let fits = taken <= width;
        taken += GAP.len();
        fits
    });
    fit.count().max(1)
}

/// The cells of a row that stand below its line, with their names; as many lines as they need.
fn below(head: &[&str], cells: &[String], width: usize, is_coloured: bool) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for (head, cell) in head.iter().zip(cells).filter(|(_, cell)| !cell.is_empty() && *cell != "-") {
        let name = head.to_lowercase();
        let whole = format!("{name}: {cell}");
        let may_break = SENTENCES.contains(head);
        let parts: Vec<&str> = if may_break { whole.split(' ').collect() } else { vec![&whole] };
        for (nth, part) in parts.into_iter().enumerate() {
            let gap = if nth == 0 { GAP } else { " " };
            let length = part.chars().count();
            if taken == 0 || taken + gap.len() + length > width {
                text += if taken == 0 { INDENT } else { "\n" };
                text += if taken == 0 { "" } else { INDENT };
                taken = INDENT.len();
            } else {
                text += gap;
                taken += gap.len();
            }
            text += &painted(part, cell, head, is_coloured);
            taken += length;
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}

/// `part` of a row below its line, in the colour that `cell` would have in its column.
fn painted(part: &str, cell: &str, head: &str, is_coloured: bool) -> String {
    match (colour(cell, head).filter(|_| is_coloured), part.strip_suffix(cell)) {
        (Some(colour), Some(name)) => format!("{name}\u{1b}[38;5;{colour}m{cell}\u{1b}[39m"),
        _ => part.to_owned(),
    }
}

/// The colour of a word of a column, by its number among the 256.
fn colour(text: &str, head: &str) -> Option<u8> {
    const GREEN: u8 = 10;
    const RED: u8 = 9;
    const YELLOW: u8 = 11;
    if !COLOURED.contains(&head) {
        return None;
    }
    match text {
        "succeeded" | "done" | "leader" => Some(GREEN),
        "failed" | "timed_out" | "lost" => Some(RED),
        "unknown" | "cancelled" | "held back" | "leader, held back" => Some(YELLOW),
        _ => None,
    }
}

fn cell(text: &str, head: &str, is_coloured: bool) -> Cell {
    let cell = Cell::new(text);
    match colour(text, head).filter(|_| is_coloured) {
        Some(colour) => cell.fg(Color::AnsiValue(colour)),
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

    /// The longest word of the rows is 47 characters long.
    #[test]
    fn a_table_fits_and_breaks_neither_names_nor_instants() {
        for width in [60, 80, 110, 150, 200] {
            let table = arranged(&HEAD, rows(), Some(width), false);
            for cell in rows().iter().flat_map(|row| &row[..3]) {
                assert!(table.contains(cell), "{cell} is broken at {width}:\n{table}");
            }
            for word in rows()[0][3].split(' ') {
                assert!(table.contains(word), "{word} is broken at {width}:\n{table}");
            }
            let widest = table.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(width)), "{widest:?} at {width}:\n{table}");
            assert!(!table.contains('\u{1b}'), "{table:?}");
        }
        let narrow = arranged(&HEAD, rows(), Some(20), false);
        assert!(narrow.contains("run: nightly-report-of-the-shop@2026-11-21T02:00:00Z\n"), "{narrow}");
    }

    #[test]
    fn what_has_no_room_beside_stands_below_its_row() {
        let row = |run: &str, took: &str, reason: &str| [run, "failed", took, reason].map(str::to_owned).to_vec();
        let rows = vec![row("nightly", "8007 ms", ""), row("b", "-", "exit code 3, after a good deal of words")];
        let head = ["RUN", "STATE", "TOOK", "REASON"];
        let expected = "RUN      STATE
nightly  failed
    took: 8007 ms
b        failed
    reason: exit code
    3, after a good
    deal of words
";
        assert_eq!(arranged(&head, rows.clone(), Some(23), false), expected);
        // Where nothing is said of the width, there is a line for each row.
        let wide = "RUN      STATE   TOOK     REASON
nightly  failed  8007 ms
b        failed  -        exit code 3, after a good deal of words
";
        assert_eq!(arranged(&head, rows.clone(), None, false), wide);
        let coloured = arranged(&["RUN", "TOOK", "STATE"], vec![row("b", "c", "")], Some(5), true);
        assert!(coloured.contains("took: failed"), "{coloured:?}");
        let coloured = arranged(&["RUN", "STATE"], vec![row("nightly", "c", "")], Some(7), true);
        assert!(coloured.contains("state: \u{1b}[38;5;9mfailed\u{1b}[39m"), "{coloured:?}");
    }

    #[test]
    fn what_is_said_of_a_name_goes_on_below_itself() {
        let line = "leader     node-7, fence 6, since 2026-11-21T02:00:00Z";
        let expected = "leader     node-7,
           fence 6,
           since
           2026-11-21T02:00:00Z
";
        assert_eq!(named_line(line, 11, 20), expected);
        assert_eq!(named_line(line, 11, 80), format!("{line}\n"));
        assert_eq!(named_line("", 11, 80), "\n");
    }

    #[test]
    fn verdicts_are_coloured_where_that_is_wanted() {
        let table = arranged(&HEAD, rows(), Some(200), true);
        assert!(table.contains("\u{1b}[38;5;9m") && table.contains("\u{1b}[38;5;10m"), "{table:?}");
        assert!(!is_coloured(false));
    }
}
