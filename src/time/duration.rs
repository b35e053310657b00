//! Durations as people write and read them: the one language of the jobs file, the schedules and the options.

use std::time::Duration;

/// The units, the greatest first, in milliseconds. A month and a year are none: their length differs.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest fraction of a number, in digits.
const FRACTION_DIGITS_MOST: usize = 9;

/// Why a text is not a duration. It follows the text in a message: "`5M` has an unknown unit: …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotADuration {
    #[error("is not a duration: write it like `30s`, `10m`, `1h 30m` or `7d`")]
    Malformed,
    #[error("is a number without a unit: write it like `30s`, `10m` or `2h`")]
    NoUnit,
    #[error("has an unknown unit: the units are `ms`, `s`, `m` (minutes), `h`, `d` and `w`, in small letters")]
    UnknownUnit,
    #[error("is finer than a millisecond, which is the shortest")]
    TooFine,
    #[error("is too long")]
    TooLong,
}

/// Reads a duration: numbers, each with one of the units `ms s m h d w`.
///
/// ```
/// use fencron::time::{NotADuration, parse_duration};
/// use std::time::Duration;
/// assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5_400)));
/// assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
/// assert_eq!(parse_duration("5M"), Err(NotADuration::UnknownUnit));
/// ```
///
/// # Errors
///
/// Where `text` is none, with what to write in its place.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return Err(NotADuration::Malformed);
    }
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !matches!(c, '0'..='9' | '.')).unwrap_or(rest.len()));
        if number.is_empty() {
            return Err(NotADuration::Malformed);
        }
        let behind = behind.trim_start();
        let (unit, behind) = behind.split_at(behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len()));
        let unit = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, unit)) => *unit,
            None if !unit.is_empty() => return Err(NotADuration::UnknownUnit),
            None if behind.is_empty() => return Err(NotADuration::NoUnit),
            None => return Err(NotADuration::Malformed),
        };
        millis = millis.checked_add(in_millis(number, unit)?).ok_or(NotADuration::TooLong)?;
        rest = behind.trim_start();
    }
    Ok(Duration::from_millis(millis))
}

fn in_millis(number: &str, unit: u64) -> Result<u64, NotADuration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > FRACTION_DIGITS_MOST {
        return Err(NotADuration::Malformed);
    }
    let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(unit)).ok_or(NotADuration::TooLong)?;
    let parts = fraction.parse::<u64>().expect("few enough digits") * unit;
    let scale = 10_u64.pow(u32::try_from(fraction.len()).expect("few enough digits"));
    if !parts.is_multiple_of(scale) {
        return Err(NotADuration::TooFine);
    }
    whole.checked_add(parts / scale).ok_or(NotADuration::TooLong)
}

/// A duration as one would write it, in whole milliseconds: what [`parse_duration`] reads.
///
/// ```
/// use fencron::time::written;
/// use std::time::Duration;
/// assert_eq!(written(Duration::from_secs(100)), "1m 40s");
/// ```
pub fn written(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    // Weeks are read and not written: "10d" is easier to compare with "30d" than "1w 3d".
    for (name, unit) in &UNITS[1..] {
        if rest >= *unit {
            parts.push(format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Result<u64, NotADuration> {
        parse_duration(text).map(|duration| duration.as_millis() as u64)
    }

    #[test]
    fn six_units_and_their_fractions_are_read() {
        for (text, expected) in [
            ("7ms", 7),
            ("5s", 5_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("1h30m", 5_400_000),
            (" 1h  30 m ", 5_400_000),
            ("1.5h", 5_400_000),
            ("0.25s", 250),
            ("0s", 0),
        ] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn no_other_unit_is_and_no_other_spelling() {
        for text in ["5M", "1y", "1month", "5S", "5MS", "2days", "1hour", "3min", "10sec", "5us", "5ns", "5µs", "1h 5M"]
        {
            assert_eq!(millis(text), Err(NotADuration::UnknownUnit), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_told_why() {
        use NotADuration::{Malformed, NoUnit, TooFine, TooLong};
        for (text, why) in [
            ("", Malformed),
            ("soon", Malformed),
            ("-5s", Malformed),
            ("1.s", Malformed),
            (".5s", Malformed),
            ("1.2.3s", Malformed),
            ("5, 3s", Malformed),
            ("1.0000000001s", Malformed),
            ("30", NoUnit),
            ("1h 30", NoUnit),
            ("0", NoUnit),
            ("0.5ms", TooFine),
            ("99999999999999999999s", TooLong),
            ("18446744073709551615s", TooLong),
            ("18446744073709551615ms 1ms", TooLong),
        ] {
            assert_eq!(millis(text), Err(why), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (millis_, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1s 500ms"),
            (100_000, "1m 40s"),
            (86_400_000, "1d"),
            (40 * 86_400_000, "40d"),
            (400 * 86_400_000 + 61_000, "400d 1m 1s"),
            (u64::MAX, "213503982334d 14h 25m 51s 615ms"),
        ] {
            assert_eq!(written(Duration::from_millis(millis_)), text);
            assert_eq!(millis(text), Ok(millis_), "{text}");
        }
        assert_eq!(written(Duration::MAX), written(Duration::from_millis(u64::MAX)));
    }
}
