//! Unit files of systemd as text: sections, settings, words, lengths of time.

use std::time::Duration;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub section: String,
    pub key: String,
    pub value: String,
    /// The file that it is in: drop-ins add to a unit.
    pub file: usize,
    /// The line at which it begins, and the one at which it ends, from 1.
    pub line: usize,
    pub last: usize,
}

/// What a unit file says, and the lines that are no settings.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// `backup.timer`
    pub name: String,
    pub file: usize,
    pub settings: Vec<Setting>,
    pub headers: Vec<usize>,
    pub comments: Vec<usize>,
    /// Lines that systemd does not understand either.
    pub wrong: Vec<usize>,
    /// The file has nothing in it, which is how a unit is switched off.
    pub is_masked: bool,
}

impl Unit {
    pub fn read(name: String, file: usize, text: &str) -> Unit {
        let mut unit = Unit { name, file, is_masked: text.is_empty(), ..Unit::default() };
        let mut section = String::new();
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() {
                continue;
            }
            if line.starts_with(['#', ';']) {
                unit.comments.push(number);
            } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
                unit.headers.push(number);
            } else if let Some((key, value)) = line.split_once('=') {
                let (mut value, mut last) = (value.trim().to_owned(), number);
                while let Some(begun) = value.strip_suffix('\\') {
                    let Some((index, next)) = lines.next() else { break };
                    last = index + 1;
                    let is_comment = next.trim_start().starts_with(['#', ';']);
                    let next = if is_comment { "\\" } else { next.trim() };
                    value = format!("{} {next}", begun.trim_end());
                }
                let (section, key) = (section.clone(), key.trim().to_owned());
                unit.settings.push(Setting { section, key, value, file, line: number, last });
            } else {
                unit.wrong.push(number);
            }
        }
        unit
    }

    /// The name without what is behind the point.
    pub fn stem(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(stem, _)| stem)
    }

    /// The values of a setting that may come several times; an empty one takes those before it back, and an empty time of
    /// a timer all of its times.
    pub fn all<'u>(&'u self, section: &str, key: &str) -> Vec<&'u Setting> {
        let mut found = Vec::new();
        for setting in self.settings.iter().filter(|setting| setting.section == section) {
            let takes_back = setting.value.is_empty() && is_time(section, key) && is_time(section, &setting.key);
            match (setting.key == key, setting.value.is_empty()) {
                _ if takes_back => found.clear(),
                (true, true) => found.clear(),
                (true, false) => found.push(setting),
                (false, _) => {}
            }
        }
        found
    }

    /// Whether a later line has taken a setting back, or stands in its place.
    pub fn is_replaced(&self, setting: &Setting) -> bool {
        let (section, key) = (setting.section.as_str(), setting.key.as_str());
        let is_list = is_time(section, key) || LISTS.iter().any(|list| key.starts_with(list));
        let still = self.all(section, key);
        let counts = |found: &&Setting| std::ptr::eq(*found, setting);
        let stands = if is_list { still.iter().any(counts) } else { still.last().is_some_and(counts) };
        !setting.value.is_empty() && !stands
    }

    /// The unit with what its drop-ins say, in their order.
    pub fn with<'d>(&self, name: &str, drop_ins: impl Iterator<Item = &'d Unit>) -> Unit {
        let added = drop_ins.flat_map(|drop_in| &drop_in.settings);
        let settings = self.settings.iter().chain(added).cloned().collect();
        Unit { name: name.to_owned(), file: self.file, settings, is_masked: self.is_masked, ..Unit::default() }
    }

    /// The value that counts.
    pub fn last(&self, section: &str, key: &str) -> Option<&Setting> {
        self.all(section, key).pop()
    }
}

/// With what settings begin whose values add up; of others, the last one counts.
const LISTS: [&str; 8] = ["Exec", "Environment", "Condition", "Assert", "Wants", "Requires", "After", "Documentation"];

/// What makes a timer due.
fn is_time(section: &str, key: &str) -> bool {
    section == "Timer" && (key == "OnCalendar" || (key.starts_with("On") && key.ends_with("Sec")))
}

/// `yes` and its like.
pub(super) fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "1" | "yes" | "y" | "true" | "t" | "on")
}

/// A length of time as systemd writes it: `5min 20s`, `1h`, and seconds where there is no unit. `None`: it is none, or
/// without an end.
pub(super) fn length(text: &str) -> Option<Duration> {
    const UNITS: [(&[&str], f64); 8] = [
        (&["us", "usec", "µs"], 1e-6),
        (&["ms", "msec"], 1e-3),
        (&["s", "sec", "second", "seconds", ""], 1.0),
        (&["m", "min", "minute", "minutes"], 60.0),
        (&["h", "hr", "hour", "hours"], 3600.0),
        (&["d", "day", "days"], 86_400.0),
        (&["w", "week", "weeks"], 604_800.0),
        (&["M", "month", "months"], 2_630_016.0),
    ];
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !matches!(c, '0'..='9' | '.')).unwrap_or(rest.len()));
        let behind = behind.trim_start();
        let (unit, behind) = behind.split_at(behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len()));
        let number: f64 = number.parse().ok()?;
        let (_, unit) = UNITS.iter().find(|(names, _)| names.contains(&unit))?;
        seconds += number * unit;
        rest = behind.trim_start();
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// What stands before the program of `ExecStart`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prefix {
    pub ignores_failure: bool,
    pub has_own_name: bool,
    pub keeps_dollars: bool,
    /// `+` and `!`: with more rights than the unit has.
    pub is_privileged: bool,
}

/// Takes the prefixes off.
pub(super) fn prefix(mut text: &str) -> (Prefix, &str) {
    let mut found = Prefix::default();
    while let Some(c) = text.chars().next().filter(|c| "-@:+!|".contains(*c)) {
        match c {
            '-' => found.ignores_failure = true,
            '@' => found.has_own_name = true,
            ':' => found.keeps_dollars = true,
            _ => found.is_privileged = true,
        }
        text = &text[1..];
    }
    (found, text.trim_start())
}

/// One word of a command line: whether it was in quotes, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub is_quoted: bool,
    pub text: String,
}

/// The words of a command line, with quotes and escapes resolved. `None`: a quote has no end.
pub(super) fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = chars.peek().copied() else { return Some(words) };
        let (mut word, mut quote, is_quoted) = (String::new(), None, matches!(first, '"' | '\''));
        loop {
            match (quote, chars.next()) {
                (None, None) => break,
                (Some(_), None) => return None,
                (None, Some(c)) if c.is_whitespace() => break,
                (None, Some(c @ ('"' | '\''))) => quote = Some(c),
                (Some(open), Some(c)) if c == open => quote = None,
                (_, Some('\\')) => word.push(match chars.next()? {
                    'n' => '\n',
                    't' => '\t',
                    's' => ' ',
                    c => c,
                }),
                (_, Some(c)) => word.push(c),
            }
        }
        words.push(Word { is_quoted, text: word });
    }
}
