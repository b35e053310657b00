//! `OnCalendar=` of systemd as cron expressions.

use chrono_tz::Tz;

use super::fields::ranges;
use super::fires::{Clocks, Cron};

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// What a text names.
#[derive(Debug)]
pub(super) struct Event {
    pub expression: String,
    /// The zone at its end.
    pub zone: Option<Tz>,
    /// `None`: its days are counted from the end of the month, or its years are named.
    pub cron: Option<Cron>,
    /// It names all hours, which makes it an interval here.
    pub all_hours: bool,
}

/// Dates of a month.
struct Dates {
    bits: u64,
    /// Bit 1 is the last day.
    from_end: bool,
}

/// Reads one value of `OnCalendar=`.
pub(super) fn read(text: &str) -> Result<Event, String> {
    let mut parts: Vec<&str> = text.split_whitespace().collect();
    let zone = parts.last().filter(|_| parts.len() > 1).and_then(|last| last.parse::<Tz>().ok());
    if zone.is_some() {
        parts.pop();
    }
    if let [name] = parts[..]
        && let Some(meaning) = named(name)
    {
        parts = meaning.split(' ').collect();
    }
    let mut parts = parts.into_iter().peekable();
    let weekdays = match parts.next_if(|part| part.starts_with(|c: char| c.is_ascii_alphabetic())) {
        Some(days) => weekdays(days)?,
        None => 0x7f,
    };
    let date = parts.next_if(|part| !part.contains(':') && part.contains(['-', '~'])).unwrap_or("*-*-*");
    let time = parts.next().unwrap_or("00:00:00");
    if let Some(rest) = parts.next() {
        return Err(format!("`{}` is not understood", shown(rest)));
    }
    let (years, months, dates) = dates(date)?;
    let (hours, minutes, seconds) = times(time)?;
    let (day, weekday) = days(&dates, weekdays)?;
    let all_hours = hours.count_ones() == 24;
    let field = |bits: u64, least: u32, greatest: u32| ranges(bits, least, greatest);
    let mut expression = format!(
        "{} {} {day} {} {weekday}",
        field(minutes, 0, 59),
        if all_hours { "*".to_owned() } else { field(hours, 0, 23) },
        field(months, 1, 12),
    );
    if seconds != 1 || years.is_some() {
        expression = format!("{} {expression}", field(seconds, 0, 59));
    }
    if let Some(years) = &years {
        expression = format!("{expression} {years}");
    }
    let cron = Cron {
        seconds,
        minutes,
        hours,
        months,
        dates: dates.bits,
        weekdays: u64::from(weekdays),
        both: true,
        clocks: Clocks::FirstShown,
    };
    let cron = (!dates.from_end && years.is_none()).then_some(cron);
    Ok(Event { expression, zone, cron, all_hours })
}

/// What a name stands for.
fn named(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "minutely" => "*-*-* *:*:00",
        "hourly" => "*-*-* *:00:00",
        "daily" | "midnight" => "*-*-* 00:00:00",
        "monthly" => "*-*-01 00:00:00",
        "weekly" => "Mon *-*-* 00:00:00",
        "yearly" | "annually" => "*-01-01 00:00:00",
        "quarterly" => "*-01,04,07,10-01 00:00:00",
        "semiannually" | "semi-annually" | "biannually" | "bi-annually" => "*-01,07-01 00:00:00",
        _ => return None,
    })
}

/// The day of month and the weekday, which must both match.
fn days(dates: &Dates, weekdays: u8) -> Result<(String, String), String> {
    const ALL: u64 = 0xffff_fffe;
    let named = |suffix: &str| {
        let days = (0..7).filter(|day| weekdays >> day & 1 == 1).map(|day| format!("{day}{suffix}"));
        days.collect::<Vec<_>>().join(",")
    };
    let week = |nth: u32| 0x7f_u64 << (nth * 7 + 1);
    match (dates.bits, weekdays) {
        (ALL, days) => Ok(("*".to_owned(), ranges(u64::from(days), 0, 6))),
        (bits, 0x7f) if dates.from_end => {
            let item = |day: u32| if day == 1 { "L".to_owned() } else { format!("L-{}", day - 1) };
            let items: Vec<_> = (1..32).filter(|day| bits >> day & 1 == 1).map(item).collect();
            Ok((items.join(","), "*".to_owned()))
        }
        (bits, 0x7f) => Ok((ranges(bits, 1, 31), "*".to_owned())),
        (bits, _) if dates.from_end && bits == week(0) => Ok(("*".to_owned(), named("L"))),
        (bits, _) if !dates.from_end => {
            let weeks: Vec<u32> = (0..4).filter(|nth| bits & week(*nth) != 0).collect();
            let whole = weeks.iter().fold(0, |all, nth| all | week(*nth));
            if whole == bits {
                let items: Vec<_> = weeks.iter().map(|nth| named(&format!("#{}", nth + 1))).collect();
                return Ok(("*".to_owned(), items.join(",")));
            }
            Err("dates and weekdays must both match there, and here that can be said of whole weeks only (`1..7`, \
                 `8..14`): write the dates in question"
                .to_owned())
        }
        _ => {
            Err("weekdays among the last days of a month can be said here of the last seven only (`~07/1`)".to_owned())
        }
    }
}

fn weekdays(text: &str) -> Result<u8, String> {
    let day = |name: &str| {
        let name = name.to_ascii_lowercase();
        let is = |day: &&str| name.len() >= 3 && (name == day[..3] || name == **day);
        WEEKDAYS.iter().position(is).ok_or_else(|| format!("`{}` is no weekday", shown(&name)))
    };
    let mut bits = 0;
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (from, to) = item.split_once("..").or_else(|| item.split_once('-')).unwrap_or((item, item));
        // Its week begins on Monday, and no range goes over the end of it.
        let from_monday = |name: &str| day(name).map(|day| (day + 6) % 7);
        let (from, to) = (from_monday(from)?, from_monday(to)?);
        if from > to {
            return Err(format!("`{}` ends before it begins: systemd refuses it", shown(item)));
        }
        (from..=to).for_each(|day| bits |= 1 << ((day + 1) % 7));
    }
    Ok(bits)
}

fn dates(text: &str) -> Result<(Option<String>, u64, Dates), String> {
    let (front, day, from_end) = match text.rsplit_once('~') {
        Some((front, day)) => (front, day, true),
        None => text.rsplit_once('-').map(|(front, day)| (front, day, false)).ok_or("it has no day")?,
    };
    let (year, month) = front.split_once('-').unwrap_or(("*", front));
    let months = component(month, 1, 12)?;
    let bits = if from_end { from_the_end(day)? } else { component(day, 1, 31)? };
    let years = match year {
        "*" => None,
        year if year.bytes().all(|byte| byte.is_ascii_digit() || b",".contains(&byte)) => Some(year.to_owned()),
        year if year.contains("..") && !year.contains('/') => Some(year.replace("..", "-")),
        year => return Err(format!("the years `{}` cannot be said here", shown(year))),
    };
    Ok((years, months, Dates { bits, from_end }))
}

fn times(text: &str) -> Result<(u64, u64, u64), String> {
    let mut parts = text.split(':');
    let (Some(hour), Some(minute)) = (parts.next(), parts.next()) else {
        return Err(format!("`{}` is no time", shown(text)));
    };
    let second = parts.next().unwrap_or("00");
    if parts.next().is_some() {
        return Err(format!("`{}` is no time", shown(text)));
    }
    if second.contains(['.']) && !second.contains("..") {
        return Err("fractions of a second cannot be said here".to_owned());
    }
    Ok((component(hour, 0, 23)?, component(minute, 0, 59)?, component(second, 0, 59)?))
}

/// Days counted from the end, 1 being the last: a step goes towards the end.
fn from_the_end(text: &str) -> Result<u64, String> {
    let Some((first, step)) = text.split_once('/') else { return component(text, 1, 31) };
    let first = component(first, 1, 31)?.trailing_zeros();
    let step: u32 = step.parse().ok().filter(|step| *step > 0).ok_or("a step is missing")?;
    Ok((1..=first).rev().step_by(step as usize).fold(0, |bits, day| bits | 1 << day))
}

/// A list of values, ranges and steps.
fn component(text: &str, least: u32, greatest: u32) -> Result<u64, String> {
    let number = |text: &str| {
        let value = text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let fits = value.filter(|value| (least..=greatest).contains(value));
        fits.ok_or_else(|| format!("`{}` is not within {least}-{greatest}", shown(text)))
    };
    let mut bits = 0;
    for item in text.split(',') {
        let (base, step) = match item.split_once('/') {
            Some((base, step)) => {
                (base, Some(step.parse::<u32>().ok().filter(|step| *step > 0).ok_or("a step is missing")?))
            }
            None => (item, None),
        };
        let (from, to) = match base.split_once("..") {
            _ if base == "*" => (least, greatest),
            Some((from, to)) => (number(from)?, number(to)?),
            None => {
                let from = number(base)?;
                (from, if step.is_some() { greatest } else { from })
            }
        };
        let mut value = from;
        while value <= to {
            bits |= 1 << value;
            value = value.saturating_add(step.unwrap_or(1));
        }
    }
    if bits == 0 { Err(format!("`{}` names no value", shown(text))) } else { Ok(bits) }
}

fn shown(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
