//! The fields of an expression by the rules of its source, and what means the same here.

use super::fires::{Clocks, Cron};

/// Whose rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// vixie cron and what came of it: Debian's cron, cronie. Five fields.
    Vixie,
    /// robfig/cron for Go, which Kubernetes uses. Five fields.
    Robfig,
}

/// An expression that its source takes.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub cron: Cron,
    /// The expressions that mean the same here.
    pub here: String,
    /// It is an interval by the rules here (see the module `schedule`).
    pub interval_here: bool,
    /// The source picks a value at random.
    pub random: bool,
}

/// One field: what it may hold, and what the source calls the values.
struct Kind {
    name: &'static str,
    least: u32,
    greatest: u32,
    /// The least has the first name.
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const SECOND: Kind = Kind { name: "second", least: 0, greatest: 59, names: &[] };
const MINUTE: Kind = Kind { name: "minute", least: 0, greatest: 59, names: &[] };
const HOUR: Kind = Kind { name: "hour", least: 0, greatest: 23, names: &[] };
const DATE: Kind = Kind { name: "day of month", least: 1, greatest: 31, names: &[] };
const MONTH: Kind = Kind { name: "month", least: 1, greatest: 12, names: MONTHS };
const WEEKDAY: Kind = Kind { name: "weekday", least: 0, greatest: 6, names: WEEKDAYS };
/// Where 7 is Sunday too.
const WEEKDAY_TO_7: Kind = Kind { greatest: 7, ..WEEKDAY };

/// What a field says.
#[derive(Debug, Default)]
struct Said {
    bits: u64,
    /// By the source's rule, of two fields of a day of which one has it both must match.
    star: bool,
    random: bool,
    /// As it is written here.
    here: Vec<String>,
}

/// Reads five fields, or six with the seconds first.
pub(super) fn read(parts: &[&str], dialect: Dialect) -> Result<Reading, String> {
    let weekday = if dialect == Dialect::Vixie { WEEKDAY_TO_7 } else { WEEKDAY };
    let (second, parts) = match parts {
        [second, rest @ ..] if rest.len() == 5 => (Some(field(&SECOND, second, dialect)?), rest),
        _ => (None, parts),
    };
    let [minute, hour, date, month, day] = parts else {
        return Err(format!("it has {} fields, not 5", parts.len()));
    };
    let wild = minute.starts_with('*') || hour.starts_with('*');
    let (minute, hour) = (field(&MINUTE, minute, dialect)?, field(&HOUR, hour, dialect)?);
    let (date, month) = (field(&DATE, date, dialect)?, field(&MONTH, month, dialect)?);
    let mut day = field(&weekday, day, dialect)?;
    day.bits = (day.bits | day.bits >> 7) & 0x7f;
    let both = date.star || day.star;
    let all = [second.as_ref(), Some(&minute), Some(&hour), Some(&date), Some(&month), Some(&day)];
    let random = all.iter().flatten().any(|said| said.random);
    let clocks = match dialect {
        Dialect::Vixie => Clocks::Vixie { wild },
        Dialect::Robfig => Clocks::Robfig,
    };
    let cron = Cron {
        seconds: second.as_ref().map_or(1, |said| said.bits),
        minutes: minute.bits,
        hours: hour.bits,
        dates: date.bits,
        months: month.bits,
        weekdays: day.bits,
        both,
        clocks,
    };
    let is_fixed_there = clocks == Clocks::Vixie { wild: false };
    let hour_here = written(&HOUR, &hour, is_fixed_there);
    let interval_here = hour_here.contains(['*', '/']) || hour.bits.count_ones() == 24;
    let (date_here, day_here) = days(&date, &day, both)?;
    let mut here: Vec<String> = second.iter().map(|said| written(&SECOND, said, false)).collect();
    here.extend([written(&MINUTE, &minute, false), hour_here, date_here, written(&MONTH, &month, false), day_here]);
    Ok(Reading { cron, here: here.join(" "), interval_here, random })
}

/// The two fields of a day. Here both must match where one begins with a star.
fn days(date: &Said, day: &Said, both: bool) -> Result<(String, String), String> {
    let is_all = |kind: &Kind, said: &Said| said.bits.count_ones() == kind.greatest - kind.least + 1;
    let (all_dates, all_days) = (is_all(&DATE, date), is_all(&WEEKDAY, day));
    let text = |kind: &Kind, said: &Said, all| if all { "*".to_owned() } else { written(kind, said, false) };
    match (both, all_dates, all_days) {
        // Either of them matches, and one always does: it is due each day.
        (false, true, _) | (false, _, true) => Ok(("*".to_owned(), "*".to_owned())),
        (true, true, _) | (true, _, true) => Ok((text(&DATE, date, all_dates), text(&WEEKDAY, day, all_days))),
        (false, false, false) => Ok((without_star(&DATE, date), without_star(&WEEKDAY, day))),
        (true, false, false) => {
            let (dates, days) = (written(&DATE, date, false), written(&WEEKDAY, day, false));
            if dates.starts_with('*') || days.starts_with('*') {
                return Ok((dates, days));
            }
            Err("the day of month and the weekday must both match, and what they are cannot be said here: \
                 write the dates in question"
                .to_owned())
        }
    }
}

/// The text of a field; as a list of its values where `listed`, or where no other text is the same here.
fn written(kind: &Kind, said: &Said, listed: bool) -> String {
    let steps = said.here.iter().any(|item| item.contains('/'));
    if said.here.iter().any(String::is_empty) || (listed && steps) {
        return list(kind, said);
    }
    said.here.join(",")
}

fn without_star(kind: &Kind, said: &Said) -> String {
    let text = written(kind, said, false);
    if text.starts_with('*') { list(kind, said) } else { text }
}

fn list(kind: &Kind, said: &Said) -> String {
    let greatest = if kind.names == WEEKDAYS { 6 } else { kind.greatest };
    let text = ranges(said.bits, kind.least, greatest);
    // A star would say something that the source does not say.
    if text == "*" { format!("{}-{greatest}", kind.least) } else { text }
}

/// Ranges and single values; `*` for all.
pub(super) fn ranges(bits: u64, least: u32, greatest: u32) -> String {
    let has = |value: u32| value <= greatest && bits >> value & 1 == 1;
    if (least..=greatest).all(has) {
        return "*".to_owned();
    }
    let mut items = Vec::new();
    let mut value = least;
    while value <= greatest {
        let first = value;
        while has(value) {
            value += 1;
        }
        match value - first {
            0 => {}
            1 => items.push(first.to_string()),
            2 => items.extend([first.to_string(), (first + 1).to_string()]),
            _ => items.push(format!("{first}-{}", value - 1)),
        }
        value += 1;
    }
    items.join(",")
}

fn field(kind: &Kind, text: &str, dialect: Dialect) -> Result<Said, String> {
    let mut said = Said { star: dialect == Dialect::Vixie && text.starts_with('*'), ..Said::default() };
    for item in text.split(',') {
        let read = match dialect {
            Dialect::Vixie => vixie(kind, item, &mut said),
            Dialect::Robfig if item.is_empty() => Ok(()),
            Dialect::Robfig => robfig(kind, item, &mut said),
        };
        read.map_err(|why| format!("{} `{}`: {why}", kind.name, shortened(text)))?;
    }
    if said.bits == 0 && !said.random {
        return Err(format!("{} `{}` names no value, so that it never runs", kind.name, shortened(text)));
    }
    Ok(said)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// cronie's `get_range`.
fn vixie(kind: &Kind, item: &str, said: &mut Said) -> Result<(), String> {
    if item.contains('~') {
        return random(kind, item, said);
    }
    let (base, step) = match item.split_once('/') {
        Some((base, step)) => (base, Some(positive(step)?)),
        None => (item, None),
    };
    if base == "*" {
        add(kind, said, (kind.least, kind.greatest), step, true);
        return Ok(());
    }
    let Some((from, to)) = base.split_once('-') else {
        if step.is_some() {
            return Err(format!(
                "a step after a single value: cronie refuses it, and others read only `{base}`; write \
                 `{base}-{}/…` where that is meant",
                kind.greatest.min(59)
            ));
        }
        let value = value(kind, base)?;
        add(kind, said, (value, value), None, false);
        return Ok(());
    };
    let (from, mut to) = (value(kind, from)?, value(kind, to)?);
    if from > to && to == 0 && kind.greatest == 7 {
        to = 7;
    }
    if from > to {
        return Err(format!(
            "the range ends before it begins, and names nothing there, so that cron never runs it; if it is meant to go \
             on at the beginning, write `{from}-{},{}-{to}`",
            kind.greatest, kind.least
        ));
    }
    add(kind, said, (from, to), step, false);
    Ok(())
}

/// `0~59`: a value that cronie picks when it reads the file.
fn random(kind: &Kind, item: &str, said: &mut Said) -> Result<(), String> {
    let (from, to) = item.split_once('~').unwrap_or((item, ""));
    if item.contains('/') {
        return Err("a step after `~`".to_owned());
    }
    let from = if from.is_empty() { kind.least } else { value(kind, from)? };
    let to = if to.is_empty() { kind.greatest } else { value(kind, to)? };
    if from > to {
        return Err("the range ends before it begins".to_owned());
    }
    said.random = true;
    let last = to.min(if kind.names == WEEKDAYS { 6 } else { 59 });
    said.here.push(if from == last { from.to_string() } else { format!("H({from}-{last})") });
    Ok(())
}

/// robfig/cron's `getRange`.
fn robfig(kind: &Kind, item: &str, said: &mut Said) -> Result<(), String> {
    let mut parts = item.split('/');
    let (base, step, rest) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let mut bounds = base.split('-');
    let (low, high, third) = (bounds.next().unwrap_or(""), bounds.next(), bounds.next());
    let is_star = matches!(low, "*" | "?");
    let (from, mut to) = match (is_star, high) {
        (true, _) => (kind.least, kind.greatest),
        (false, None) => (value(kind, low)?, value(kind, low)?),
        (false, Some(_)) if third.is_some() => return Err("too many hyphens".to_owned()),
        (false, Some(high)) => (value(kind, low)?, value(kind, high)?),
    };
    if rest.is_some() {
        return Err("too many slashes".to_owned());
    }
    let step = step.map(positive).transpose()?;
    if step.is_some() && high.is_none() {
        to = kind.greatest;
    }
    if from > to {
        return Err("the range ends before it begins".to_owned());
    }
    let star = is_star && step.is_none_or(|step| step == 1);
    said.star |= star;
    add(kind, said, (from, to), step, star);
    Ok(())
}

/// Adds values, and how they are written here.
fn add(kind: &Kind, said: &mut Said, (from, to): (u32, u32), step: Option<u32>, star: bool) {
    let step = step.unwrap_or(1);
    let mut value = from;
    while value <= to {
        said.bits |= 1 << value;
        value = value.saturating_add(step);
    }
    // Sunday is 0 and 7 where the field has eight values.
    let span = kind.greatest.min(if kind.names == WEEKDAYS { 6 } else { 59 }) - kind.least;
    said.here.push(match (star, step) {
        (true, 1) => "*".to_owned(),
        (true, step) if step <= span => format!("*/{step}"),
        // Written as a list.
        (true, _) => String::new(),
        (false, 1) if from == to => from.to_string(),
        (false, 1) => format!("{from}-{to}"),
        (false, step) if step <= to - from && step <= span => format!("{from}-{to}/{step}"),
        (false, _) => from.to_string(),
    });
}

fn value(kind: &Kind, text: &str) -> Result<u32, String> {
    let named = kind.names.iter().position(|name| name.eq_ignore_ascii_case(text));
    let number = named.map(|index| kind.least + index as u32).or_else(|| number(text));
    match number {
        Some(value) if (kind.least..=kind.greatest).contains(&value) => Ok(value),
        Some(_) => Err(format!("`{}` is not within {}-{}", shortened(text), kind.least, kind.greatest)),
        None if text.is_empty() => Err("a value is missing".to_owned()),
        None => Err(format!("`{}` is not a value of it", shortened(text))),
    }
}

fn number(text: &str) -> Option<u32> {
    let is_number = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn positive(text: &str) -> Result<u32, String> {
    number(text).filter(|step| *step > 0).ok_or_else(|| format!("`{}` is no step", shortened(text)))
}
