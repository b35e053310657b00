//! How the values of keys are read: each type in its own way, within the bounds of the table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::draft::{Given, Layer, Placed};
use super::env_file;
use super::http;
use super::keys::{self, Shape};
use super::problem::quoted;
use super::tables::MAX_RATE_PER_SECOND;
use super::walk::{Spot, Walk};
use crate::job::{Text, Word, check_name};
use crate::time::{parse_duration, written};

/// What a key is read into.
pub trait Place {
    /// Reads the value at `spot`. A value that cannot be read leaves the place as it is, and a problem is noted.
    fn take(&mut self, walk: &mut Walk, spot: Spot);
}

/// A value that takes the place of the one beneath it.
pub trait Value: Sized {
    /// The value at `spot`; `None`: it cannot be read, and a problem is noted.
    fn read(walk: &mut Walk, spot: Spot) -> Option<Self>;
}

impl<T: Value> Place for T {
    fn take(&mut self, walk: &mut Walk, spot: Spot) {
        if let Some(value) = T::read(walk, spot) {
            *self = value;
        }
    }
}

impl<T: Value> Value for Placed<T> {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Placed<T>> {
        let value = T::read(walk, spot)?;
        let given = Given { node: spot.node, layer: walk.layer };
        Some(Placed { value, given: Some(given).filter(|given| given.layer != Layer::Table) })
    }
}

impl<T: Word> Value for T {
    fn read(walk: &mut Walk, spot: Spot) -> Option<T> {
        let known = || T::WORDS.iter().map(|(word, _)| *word);
        let what = format!("one of {}", keys::list(known()).replace(" and ", " or "));
        let filled = walk.known(&what, spot)?;
        let value = T::named(&filled.text);
        if value.is_none() {
            let meant = keys::nearest(&filled.text, known()).filter(|_| !filled.secret);
            let meant = meant.map_or(String::new(), |meant| format!(": did you mean `{meant}`?"));
            walk.wrong(spot, format!("expected {what}, found {}{meant}", filled.shown()));
        }
        value
    }
}

impl Value for Option<Text> {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Option<Text>> {
        match *spot.shape {
            Shape::Line { most, without } => return read_line(walk, spot, (most, without)).map(Some),
            Shape::Link => return http::read_link(walk, spot).map(|(link, _)| Some(link)),
            _ => {}
        }
        let text = walk.text(spot)?;
        if matches!(spot.shape, Shape::Directory) && text.expose().is_empty() {
            return walk.refuse(spot, "expected a directory, found an empty text");
        }
        Some(Some(text))
    }
}

impl Value for u32 {
    fn read(walk: &mut Walk, spot: Spot) -> Option<u32> {
        let &Shape::Count { least, most } = spot.shape else {
            unreachable!("the table says that {} is a number", spot.path)
        };
        walk.read("a whole number", spot, |text| match text.parse::<u32>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(format!("is not a whole number from {least} to {most}")),
        })
    }
}

/// `none` stands for no bound, where the table allows it.
impl Value for Option<Duration> {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Option<Duration>> {
        let &Shape::Duration { least, most, or_none } = spot.shape else {
            unreachable!("the table says that {} is a duration", spot.path)
        };
        walk.read("a duration", spot, |text| match text {
            "none" if or_none => Ok(None),
            _ => duration_within(text, least, most).map(Some).map_err(|why| {
                let or_none = if or_none { " (or `none`)" } else { "" };
                format!("{why}{or_none}")
            }),
        })
    }
}

/// A number of bytes that need not be given.
impl Value for Option<u64> {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Option<u64>> {
        u64::read(walk, spot).map(Some)
    }
}

/// A number that need not be given.
impl Value for Option<u32> {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Option<u32>> {
        u32::read(walk, spot).map(Some)
    }
}

/// A duration, or the time from one start to the next at a rate like `5/s`.
impl Value for Duration {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Duration> {
        match spot.shape {
            Shape::Rate => walk.read("a rate", spot, parse_rate),
            _ => Option::<Duration>::read(walk, spot).flatten(),
        }
    }
}

/// A number of bytes.
impl Value for u64 {
    fn read(walk: &mut Walk, spot: Spot) -> Option<u64> {
        let &Shape::Bytes { least, most } = spot.shape else {
            unreachable!("the table says that {} is a number of bytes", spot.path)
        };
        walk.read("a number of bytes", spot, |text| match parse_bytes(text)? {
            bytes if (least..=most).contains(&bytes) => Ok(bytes),
            _ => Err(format!("is out of bounds: give {} to {}", written_bytes(least), written_bytes(most))),
        })
    }
}

/// A line that people read.
fn read_line(walk: &mut Walk, spot: Spot, (most, without): (usize, &str)) -> Option<Text> {
    let text = walk.text(spot)?;
    if walk.is_open(&text) {
        return Some(text);
    }
    let line = text.expose();
    let cannot = |c: &char| c.is_control() || without.contains(*c);
    let why = match (line.chars().find(cannot), line.chars().count()) {
        _ if line.trim().is_empty() => "an empty text".to_owned(),
        (Some(c), _) if c.is_control() => "one with a line end or another control character".to_owned(),
        (Some(c), _) => format!("one with a `{c}`"),
        (None, length) if length > most => format!("one of {length} characters"),
        _ => return Some(text),
    };
    walk.refuse(spot, format!("expected a line of 1 to {most} characters, found {why}"))
}

/// Variables, files of them, or labels: they are added to those beneath.
impl Place for BTreeMap<String, Text> {
    fn take(&mut self, walk: &mut Walk, spot: Spot) {
        self.extend(match spot.shape {
            Shape::Named { of: Shape::Line { most, without }, .. } => {
                let check = |name: &str| check_name(name).map_err(|why| why.to_string());
                walk.named(spot, check, |walk, spot, _| read_line(walk, spot, (*most, without)))
            }
            Shape::Named { .. } => walk.named(spot, check_variable, |walk, spot, _| walk.text(spot)),
            _ => env_file::read(walk, spot),
        });
    }
}

/// Whether a job may set the variable `name`.
pub fn check_variable(name: &str) -> Result<(), String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != '=') {
        return Err(format!("{} cannot be the name of a variable: use letters, digits and `_`", quoted(name)));
    }
    if name.starts_with("FENCRON_") || name == "TRACEPARENT" {
        return Err(format!("{} is set by fencron for every run: choose another name", quoted(name)));
    }
    Ok(())
}

/// Whether a job may inherit the variable `name` from its node.
pub fn check_inherited(name: &str) -> Result<(), String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != '=') {
        return Err("is not the name of a variable: use letters, digits and `_`".to_owned());
    }
    if name.starts_with("FENCRON_") {
        return Err("is a setting of the node, which no command inherits: take it out".to_owned());
    }
    Ok(())
}

fn duration_within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|why| why.to_string())?;
    if duration < least || duration > most {
        let [least, most] = [least, most].map(written);
        return Err(format!("is out of bounds: give a duration from {least} to {most}"));
    }
    Ok(duration)
}

/// The units of bytes, from the largest of each kind.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

fn parse_bytes(text: &str) -> Result<u64, String> {
    let how = || "is not a number of bytes: write it with its unit, like `64KiB`, `500MB` or `1GiB`".to_owned();
    let split = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let (number, bytes) = split.ok_or_else(how)?;
    let number = number.trim_end();
    let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number).ok_or_else(how)?;
    Ok(number.saturating_mul(*bytes))
}

/// A number of bytes as a person would write it: exactly, in the largest unit that does it.
fn written_bytes(bytes: u64) -> String {
    let fits = UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

fn parse_rate(text: &str) -> Result<Duration, String> {
    let how = || "is not a rate: write how many per second, minute or hour, like `5/s`, `30/m` or `100/h`".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(how)?;
    let number: u32 = number.trim().parse().map_err(|_| how())?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(how()),
    };
    let per_second = number.div_ceil(seconds);
    if number == 0 || per_second > MAX_RATE_PER_SECOND {
        return Err(format!("is out of bounds: give a rate above 0 and up to {}/s", MAX_RATE_PER_SECOND));
    }
    Ok(Duration::from_secs(u64::from(seconds)) / number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_within_bounds() {
        let parse = |text| duration_within(text, Duration::from_secs(1), Duration::from_secs(86_400));
        assert_eq!(parse("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert!(parse("30").unwrap_err().contains("without a unit"));
        assert!(parse("2d").unwrap_err().contains("1s to 1d"));
        assert!(parse("soon").unwrap_err().contains("1h 30m"));
        assert!(parse("").is_err());
    }

    #[test]
    fn numbers_of_bytes_have_a_unit() {
        for (text, bytes) in [("64KiB", 65_536), ("500MB", 500_000_000), ("1 GiB", 1 << 30), ("12B", 12)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "5", "GiB", "-1GiB", "+1GiB", "1.5GiB", "1 gib", "1XB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(parse_bytes("99999999999TiB"), Ok(u64::MAX));
        assert_eq!([1 << 30, 500_000_000, 1_025].map(written_bytes), ["1GiB", "500MB", "1025B"]);
    }

    #[test]
    fn rates_are_read_as_the_time_between_starts() {
        assert_eq!(parse_rate("5/s"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_rate("30/m"), Ok(Duration::from_secs(2)));
        for text in ["", "5", "0/s", "-1/s", "5/d", "1001/s", "4000000000/h", "/"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
