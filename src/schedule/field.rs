//! One field of a cron expression into the bits of a pattern.

use super::jitter::{hash_text, mix};
use super::pattern::{FIRST_YEAR, LAST_YEAR, Pattern, Years};

/// A piece of an expression that cannot be read, and why.
#[derive(Debug)]
pub(super) struct Wrong<'a> {
    pub text: &'a str,
    pub message: String,
}

impl<'a> Wrong<'a> {
    pub(super) fn new(text: &'a str, message: impl Into<String>) -> Wrong<'a> {
        Wrong { text, message: message.into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Second,
    Minute,
    Hour,
    Date,
    Month,
    Weekday,
    Year,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// `H` names no later date, so that it names a day of every month.
const LAST_HASHED_DATE: u32 = 28;

impl Field {
    /// In the order in which they are written.
    pub(super) const ALL: [Field; 7] =
        [Field::Second, Field::Minute, Field::Hour, Field::Date, Field::Month, Field::Weekday, Field::Year];

    fn name(self) -> &'static str {
        match self {
            Field::Second => "second",
            Field::Minute => "minute",
            Field::Hour => "hour",
            Field::Date => "day of month",
            Field::Month => "month",
            Field::Weekday => "weekday",
            Field::Year => "year",
        }
    }

    fn allowed(self) -> &'static str {
        match self {
            Field::Second | Field::Minute => "0-59",
            Field::Hour => "0-23",
            Field::Date => "1-31, L, L-3, LW, 15W or ?",
            Field::Month => "1-12 or JAN-DEC",
            Field::Weekday => "0-7 (both 0 and 7 are Sunday), SUN-SAT, 5L, FRI#2 or ?",
            Field::Year => "1970-2199",
        }
    }

    /// The least and the greatest value. A weekday may also be written 7.
    fn bounds(self) -> (u32, u32) {
        match self {
            Field::Second | Field::Minute => (0, 59),
            Field::Hour => (0, 23),
            Field::Date => (1, 31),
            Field::Month => (1, 12),
            Field::Weekday => (0, 6),
            Field::Year => (FIRST_YEAR, LAST_YEAR),
        }
    }

    fn names(self) -> (&'static [&'static str], u32) {
        match self {
            Field::Month => (&MONTHS, 1),
            Field::Weekday => (&WEEKDAYS, 0),
            _ => (&[], 0),
        }
    }

    /// For `@every`, where a step of this field is too long.
    fn unit(self) -> Option<&'static str> {
        match self {
            Field::Second => Some("s"),
            Field::Minute => Some("m"),
            Field::Hour => Some("h"),
            Field::Date => Some("d"),
            _ => None,
        }
    }

    fn is_day(self) -> bool {
        matches!(self, Field::Date | Field::Weekday)
    }

    fn wrong<'a>(self, text: &'a str, why: impl std::fmt::Display) -> Wrong<'a> {
        let message = format!("{} `{}`: {why}; allowed: {}", self.name(), shorten(text), self.allowed());
        Wrong::new(text, message)
    }

    fn hash(self, job: &str) -> u64 {
        mix(hash_text(job) ^ self as u64)
    }
}

/// Values from `from` to `to` (beyond the greatest value it goes on at the least), each `step`th.
struct Run {
    from: u32,
    to: u32,
    step: u32,
    kind: Kind,
}

#[derive(PartialEq)]
enum Kind {
    Whole,
    Stepped,
    Listed,
}

/// What a field says once all its items are read.
#[derive(Default)]
struct Values {
    bits: u64,
    years: Years,
    /// `*`, alone or in a list.
    whole: bool,
    stepped: bool,
}

/// Reads the text of `field` into `pattern`.
pub(super) fn read<'a>(pattern: &mut Pattern, field: Field, text: &'a str, job: &str) -> Result<(), Wrong<'a>> {
    let mut values = Values::default();
    for item in text.split(',') {
        if item.is_empty() {
            return Err(field.wrong(text, "there is an empty place in the list: remove the comma that is too many"));
        }
        if !special(pattern, field, item)? {
            values.add(field, run(field, item, job)?);
        }
    }
    let Values { bits, years, whole, stepped } = values;
    let star = starred(text);
    match field {
        Field::Second => pattern.seconds = bits,
        Field::Minute => pattern.minutes = bits,
        Field::Hour => {
            pattern.hours = bits as u32;
            pattern.interval = whole || stepped || bits.count_ones() == 24;
        }
        Field::Date => (pattern.days.dates, pattern.days.starred_date) = (bits as u32, star),
        Field::Month => pattern.months = bits as u16,
        Field::Weekday => (pattern.days.weekdays, pattern.days.starred_weekday) = (bits as u8, star),
        Field::Year => pattern.years = (!whole).then(|| Box::new(years)),
    }
    Ok(())
}

/// Whether a field begins with a star: what vixie cron looks at, and nothing else, to decide how the two fields of a day
/// go together. So `*/2` is a star, and `1-31` and `15,*` are none. `?` is another way to write `*`.
pub(super) fn starred(text: &str) -> bool {
    text.starts_with(['*', '?'])
}

/// Whether a field names all its values by a star.
pub(super) fn is_whole(text: &str) -> bool {
    matches!(text, "*" | "?" | "*/1")
}

impl Values {
    fn add(&mut self, field: Field, run: Run) {
        self.whole |= run.kind == Kind::Whole;
        self.stepped |= run.kind == Kind::Stepped;
        let (least, greatest) = field.bounds();
        for value in (run.from..=run.to).step_by(run.step as usize) {
            if field == Field::Year {
                self.years.insert(value);
            } else {
                self.bits |= 1 << (least + (value - least) % (greatest - least + 1));
            }
        }
    }
}

/// Reads `L`, `L-3`, `LW`, `15W` of a day of month, and `5L`, `FRI#2` of a weekday; false if it is none of these.
fn special<'a>(pattern: &mut Pattern, field: Field, item: &'a str) -> Result<bool, Wrong<'a>> {
    match field {
        Field::Date => special_date(pattern, item),
        Field::Weekday => special_weekday(pattern, item),
        _ => Ok(false),
    }
}

fn special_date<'a>(pattern: &mut Pattern, item: &'a str) -> Result<bool, Wrong<'a>> {
    let (field, upper, days) = (Field::Date, item.to_ascii_uppercase(), &mut pattern.days);
    if upper == "L" {
        days.before_last |= 1;
    } else if upper == "LW" || upper == "WL" {
        days.last_workday = true;
    } else if let Some(before) = upper.strip_prefix("L-") {
        match number(before) {
            Some(before @ 1..=30) => days.before_last |= 1 << before,
            _ => return Err(field.wrong(item, "`L-` takes how many days before the last, 1-30")),
        }
    } else if let Some(date) = upper.strip_suffix('W') {
        match number(date) {
            Some(date @ 1..=31) => days.nearest_workday |= 1 << date,
            _ => return Err(field.wrong(item, "`W` takes one date before it, like 15W")),
        }
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn special_weekday<'a>(pattern: &mut Pattern, item: &'a str) -> Result<bool, Wrong<'a>> {
    let (field, days) = (Field::Weekday, &mut pattern.days);
    if let Some((weekday, nth)) = item.split_once('#') {
        let weekday = value(field, weekday, item)? % 7;
        match number(nth) {
            Some(nth @ 1..=5) => days.nth_weekdays[nth as usize - 1] |= 1 << weekday,
            _ if nth.eq_ignore_ascii_case("L") => days.last_weekdays |= 1 << weekday,
            _ => return Err(field.wrong(item, "after `#` comes which one in the month, 1-5; the last is written 5L")),
        }
        return Ok(true);
    }
    let Some(weekday) = item.strip_suffix(['L', 'l']) else {
        return Ok(false);
    };
    if weekday.is_empty() {
        return Err(field.wrong(item, "`L` takes a weekday before it: 5L is the last Friday of the month"));
    }
    let weekday = value(field, weekday, item)? % 7;
    days.last_weekdays |= 1 << weekday;
    Ok(true)
}

fn run<'a>(field: Field, item: &'a str, job: &str) -> Result<Run, Wrong<'a>> {
    let (base, step) = match item.split_once('/') {
        Some((base, text)) => (base, Some(step(field, item, text)?)),
        None => (item, None),
    };
    let (least, greatest) = field.bounds();
    let kind = |otherwise| if step.is_some() { Kind::Stepped } else { otherwise };
    if base == "*" || (base == "?" && field.is_day() && step.is_none()) {
        return Ok(Run { from: least, to: greatest, step: step.unwrap_or(1), kind: kind(Kind::Whole) });
    }
    if base.starts_with(['H', 'h']) {
        return hashed(field, item, base, step, job);
    }
    let (from, to) = if let Some((from, to)) = base.split_once('-') {
        range(field, item, from, to)?
    } else {
        let from = value(field, base, item)?;
        (from, if step.is_some() { greatest.max(from) } else { from })
    };
    Ok(Run { from, to, step: step.unwrap_or(1), kind: kind(Kind::Listed) })
}

fn range<'a>(field: Field, item: &'a str, from: &str, to: &str) -> Result<(u32, u32), Wrong<'a>> {
    let (from, to) = (value(field, from, item)?, value(field, to, item)?);
    if from <= to {
        return Ok((from, to));
    }
    if field == Field::Year {
        return Err(field.wrong(item, format!("the range ends before it begins; did you mean {to}-{from}?")));
    }
    let (least, greatest) = field.bounds();
    Ok((from, to + greatest - least + 1))
}

fn step<'a>(field: Field, item: &'a str, text: &str) -> Result<u32, Wrong<'a>> {
    let (least, greatest) = field.bounds();
    let Some(step) = number(text).filter(|step| *step > 0) else {
        return Err(field.wrong(item, format!("after `/` comes a step, 1-{}", greatest - least)));
    };
    if step <= greatest - least {
        return Ok(step);
    }
    let meant = match (field, field.unit()) {
        (Field::Minute, _) if step == 60 => "write 0 for once an hour".to_owned(),
        (Field::Hour, _) if step == 24 => "write 0 for once a day".to_owned(),
        (_, Some(unit)) => format!("for every {step} {}s, write `@every {step}{unit}`", long_unit(field)),
        (_, None) => "name the values instead".to_owned(),
    };
    let why = format!("the step {step} is longer than the field, which begins again after {greatest}: {meant}");
    Err(field.wrong(item, why))
}

fn long_unit(field: Field) -> &'static str {
    if field == Field::Date { "day" } else { field.name() }
}

/// Jenkins' `H`: a value that depends on nothing but the job's name.
fn hashed<'a>(field: Field, item: &'a str, base: &str, step: Option<u32>, job: &str) -> Result<Run, Wrong<'a>> {
    if field == Field::Year {
        return Err(field.wrong(item, "`H` would pick one year of 230: name the years"));
    }
    let (least, mut greatest) = field.bounds();
    if field == Field::Date {
        greatest = LAST_HASHED_DATE;
    }
    let (from, to) = match base[1..].strip_prefix('(').map(|rest| rest.strip_suffix(')')) {
        None if base.len() == 1 => (least, greatest),
        Some(Some(inner)) if let Some((from, to)) = inner.split_once('-') => range(field, item, from, to)?,
        _ => return Err(field.wrong(item, "`H` is written H, H/15, H(0-29) or H(0-29)/10")),
    };
    let among = u64::from(step.unwrap_or(u32::MAX).min(to - from + 1));
    let from = from + (field.hash(job) % among) as u32;
    Ok(match step {
        Some(step) => Run { from, to, step, kind: Kind::Stepped },
        None => Run { from, to: from, step: 1, kind: Kind::Listed },
    })
}

/// One value of `field`: a number or a name. `item` is what the error shows.
fn value<'a>(field: Field, text: &str, item: &'a str) -> Result<u32, Wrong<'a>> {
    let (names, base) = field.names();
    let (least, greatest) = field.bounds();
    let greatest = if field == Field::Weekday { 7 } else { greatest };
    if let Some(index) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(base + index as u32);
    }
    match number(text) {
        Some(value) if (least..=greatest).contains(&value) => return Ok(value),
        Some(value) => {
            return Err(field.wrong(item, format!("{value} is not a {}{}", field.name(), off_by_one(field, value))));
        }
        None => {}
    }
    let begins_like = |name: &&&str| text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let why = if let Some(name) = names.iter().find(begins_like) {
        format!("names have three letters; did you mean {name}?")
    } else if text.is_empty() {
        "a value is missing".to_owned()
    } else if text == "?" {
        "`?` belongs to the day of month and the weekday; did you mean `*`?".to_owned()
    } else if text.eq_ignore_ascii_case("L") || text.ends_with(['W', 'w']) {
        "`L` and `W` stand alone in the day of month, and `L` after a weekday".to_owned()
    } else if text.starts_with('*') {
        "`*` stands alone or before a step, like */5".to_owned()
    } else {
        format!("`{}` is not a {}", shorten(text), field.name())
    };
    Err(field.wrong(item, why))
}

fn off_by_one(field: Field, value: u32) -> &'static str {
    match (field, value) {
        (Field::Hour, 24) => "; midnight is 0",
        (Field::Minute | Field::Second, 60) => "; the full one is 0",
        (Field::Date | Field::Month, 0) => "; the first is 1",
        _ => "",
    }
}

/// Digits and nothing else; at most four of them, which no field exceeds.
fn number(text: &str) -> Option<u32> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// A text as it is shown in a message: on one line, and not endless.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
