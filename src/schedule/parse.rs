//! The text of a schedule into its rules.

use std::time::Duration;

use super::field::{self, Field, Wrong};
use super::moment::{self, Moment};
use super::pattern::{Cycle, DAY_SECONDS, Pattern};
use super::rule::Rule;
use crate::time::{Wall, parse_duration};

/// The longest expression, in bytes.
pub(super) const LONGEST_EXPRESSION: usize = 1_000;

const NAMED: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Reads one expression. `job` is what `H` is made from.
pub(super) fn expression<'a>(whole: &'a str, job: &str) -> Result<Rule, Wrong<'a>> {
    let text = whole.trim();
    if text.len() > LONGEST_EXPRESSION {
        let message = format!("an expression of {} bytes is too long: {LONGEST_EXPRESSION} are enough", text.len());
        return Err(Wrong::new(&whole[..0], message));
    }
    if text.is_empty() {
        let message = "the schedule is empty: write five fields like `0 2 * * *`, or `@daily`, or `@every 15m`";
        return Err(Wrong::new(whole, message));
    }
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let message = format!("`{}`: the zone belongs to the key `timezone` beside the schedule", field::shorten(text));
        return Err(Wrong::new(text, message));
    }
    match text.split_once(char::is_whitespace) {
        _ if !text.starts_with('@') => fields(text, job).map(Rule::Pattern),
        Some(("@every", span)) => every(span.trim()),
        Some(("@at", instant)) => at(instant.trim()),
        Some((name, rest)) => Err(not_a_name(name, Some(rest))),
        None => named(text, job),
    }
}

/// Whether the instants depend on the job's name.
pub(super) fn uses_hash(expression: &str) -> bool {
    let stands_alone = |item: &str| matches!(item.as_bytes(), [b'H' | b'h'] | [b'H' | b'h', b'(' | b'/', ..]);
    !expression.trim_start().starts_with('@')
        && expression.split(|c: char| c.is_whitespace() || c == ',').any(stands_alone)
}

/// What an expression that can be read probably does not mean, for a person.
pub(super) fn surprise(expression: &str) -> Option<String> {
    let parts: Vec<&str> = expression.split_whitespace().collect();
    let (second, [minute, _, date, _, weekday]) = match parts[..] {
        [minute, hour, date, month, weekday] => (None, [minute, hour, date, month, weekday]),
        [second, minute, hour, date, month, weekday] | [second, minute, hour, date, month, weekday, _] => {
            (Some(second), [minute, hour, date, month, weekday])
        }
        _ => return None,
    };
    if second.is_some_and(field::is_whole) && !field::is_whole(minute) {
        let shown = field::shorten(minute);
        return Some(format!(
            "the seconds, which come first, are `*`: it fires 60 times in each minute that `{shown}` names; for once a \
             minute write 0 in the place of that `*` (`0-59`, where every second is meant)"
        ));
    }
    if field::is_whole(date) || field::is_whole(weekday) {
        return None;
    }
    let shown = format!("day of month `{}` and weekday `{}`", field::shorten(date), field::shorten(weekday));
    Some(if field::starred(date) || field::starred(weekday) {
        format!("{shown}: it fires on the days that fit both, since one of them begins with `*`")
    } else {
        format!(
            "{shown} are both restricted: it fires on the days that fit either; where that is meant, write a list of two \
             expressions, each with a `*` for the other"
        )
    })
}

fn named<'a>(text: &'a str, job: &str) -> Result<Rule, Wrong<'a>> {
    match NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        Some((_, meaning)) => Ok(Rule::Pattern(fields(meaning, job).expect("the names stand for sound expressions"))),
        None => Err(not_a_name(text, None)),
    }
}

fn not_a_name<'a>(name: &'a str, rest: Option<&str>) -> Wrong<'a> {
    let shown = field::shorten(name);
    if name.eq_ignore_ascii_case("@reboot") {
        let message = "`@reboot` has no meaning for several replicas, of which any may start at any time: \
                       use a migration for what is done once, or `@at` for an instant";
        return Wrong::new(name, message);
    }
    if rest.is_some() && NAMED.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Wrong::new(name, format!("nothing may follow `{shown}`"));
    }
    if matches!(name, "@every" | "@at") {
        let example = if name == "@every" { "@every 15m" } else { "@at 2026-12-01T03:00:00+01:00" };
        return Wrong::new(name, format!("something is missing after `{name}`: write it like `{example}`"));
    }
    let known = NAMED.iter().map(|(known, _)| *known).chain(["@every", "@at"]);
    let lower = name.to_ascii_lowercase();
    let close = known.map(|known| (strsim::jaro_winkler(known, &lower), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match close {
        Some((closeness, known)) if closeness > 0.85 => format!("; did you mean `{known}`?"),
        _ => String::new(),
    };
    let message = format!(
        "`{shown}` is not known; allowed are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, \
         `@every 15m` and `@at 2026-12-01T03:00:00+01:00`{hint}"
    );
    Wrong::new(name, message)
}

/// `15m`, or `14d from 2026-01-05T09:00`.
fn every(text: &str) -> Result<Rule, Wrong<'_>> {
    let (length, from) = match text.split_once(" from ") {
        Some((length, from)) => (length.trim(), Some(from.trim())),
        None => (text, None),
    };
    let shown = field::shorten(length);
    let span = parse_duration(length).map_err(|why| Wrong::new(length, format!("`@every {shown}`: it {why}")))?;
    if span < Duration::from_secs(1) || span.subsec_nanos() != 0 {
        let message =
            format!("`@every {shown}`: it must be whole seconds, and at least one; write a length like 1s or 15m");
        return Err(Wrong::new(length, message));
    }
    let seconds = i64::try_from(span.as_secs()).ok().filter(|seconds| *seconds <= Wall::MAX.as_millis() / 1000);
    let Some(seconds) = seconds else {
        return Err(Wrong::new(length, format!("`@every {shown}` is longer than the calendar")));
    };
    from.map_or(Ok(Rule::Every { seconds, from: None }), |from| every_from(seconds, from))
}

/// From an instant on, so many seconds apart; from a time by the clocks of the zone on, so many days apart at that
/// time, whatever the clocks do in between.
fn every_from(seconds: i64, from: &str) -> Result<Rule, Wrong<'_>> {
    let shown = field::shorten(from);
    let Some(moment) = Moment::read(from) else {
        return Err(Wrong::new(from, format!("`from {shown}`: it is no time; write it like {}", moment::FORMS)));
    };
    let local = match moment {
        Moment::Instant(at) if at >= Wall::EPOCH && at.as_millis() % 1000 == 0 => {
            return Ok(Rule::Every { seconds, from: Some(at.as_millis() / 1000) });
        }
        Moment::Local(second) | Moment::Day(second) if second >= 0 => second,
        _ => {
            let message = format!("`from {shown}`: it must be a whole second from 1970 on");
            return Err(Wrong::new(from, message));
        }
    };
    let days = u32::try_from(seconds / DAY_SECONDS).ok().filter(|days| i64::from(*days) * DAY_SECONDS == seconds);
    let (Some(days), Ok(first)) = (days, i32::try_from(local / DAY_SECONDS)) else {
        let message = format!(
            "`from {shown}`: by the clocks of a zone only whole days are counted; write the offset from UTC, like \
             2026-12-01T09:00:00+01:00, for other lengths"
        );
        return Err(Wrong::new(from, message));
    };
    let time = local % DAY_SECONDS;
    let mut pattern = fields("0 0 0 * * *", "").expect("it is sound");
    (pattern.hours, pattern.minutes, pattern.seconds) = (1 << (time / 3600), 1 << (time / 60 % 60), 1 << (time % 60));
    pattern.cycle = Some(Cycle { first, days });
    Ok(Rule::Pattern(pattern))
}

fn at(text: &str) -> Result<Rule, Wrong<'_>> {
    match text.parse::<Wall>() {
        Ok(at) if at >= Wall::EPOCH => Ok(Rule::At(at)),
        Ok(_) => Err(Wrong::new(text, format!("`@at {}` is before 1970", field::shorten(text)))),
        Err(_) => {
            let shown = field::shorten(text);
            let message = format!(
                "`@at {shown}`: it is not an instant; write it like 2026-12-01T03:00:00+01:00, with its offset from UTC"
            );
            Err(Wrong::new(text, message))
        }
    }
}

fn fields<'a>(text: &'a str, job: &str) -> Result<Pattern, Wrong<'a>> {
    let parts: Vec<&'a str> = text.split_whitespace().collect();
    let order: &[Field] = match parts.len() {
        5 => &Field::ALL[1..6],
        6 => &Field::ALL[..6],
        7 => &Field::ALL,
        count => return Err(wrong_count(text, &parts, count)),
    };
    let mut pattern = Pattern { seconds: 1, ..Pattern::default() };
    for (field, part) in order.iter().zip(&parts) {
        field::read(&mut pattern, *field, part, job).map_err(|wrong| year_last(wrong, *field, &parts))?;
    }
    Ok(pattern)
}

fn wrong_count<'a>(text: &'a str, parts: &[&str], count: usize) -> Wrong<'a> {
    let hint = if let [one] = parts {
        meant(format!("@every {one}"))
    } else if count < 5 {
        meant(format!("{text} {}", ["*"; 4][..5 - count].join(" ")))
    } else {
        String::new()
    };
    let message = format!(
        "`{}` has {count} field{}; allowed are 5 (minute, hour, day of month, month, weekday), 6 (with the seconds \
         first) or 7 (and the year last){hint}",
        field::shorten(text),
        if count == 1 { "" } else { "s" }
    );
    Wrong::new(text, message)
}

/// A suggestion, where it would be taken itself.
fn meant(expression: String) -> String {
    let sound = self::expression(&expression, "").is_ok();
    if sound { format!("; did you mean `{}`?", field::shorten(&expression)) } else { String::new() }
}

/// Six fields are read with the seconds first; some people mean the year last.
fn year_last<'a>(wrong: Wrong<'a>, field: Field, parts: &[&str]) -> Wrong<'a> {
    let is_year = |text: &&str| text.len() == 4 && text.parse::<u32>().is_ok();
    let with_seconds = format!("0 {}", parts.join(" "));
    if field == Field::Weekday
        && parts.len() == 6
        && parts.last().is_some_and(is_year)
        && fields(&with_seconds, "").is_ok()
    {
        let message =
            format!("{}; six fields begin with the seconds: with a year, write `{with_seconds}`", wrong.message);
        return Wrong::new(wrong.text, message);
    }
    wrong
}
