//! What a text that is not the name of a time zone was probably meant to be.

use std::sync::LazyLock;

use chrono_tz::{TZ_VARIANTS, Tz};

/// The longest names of zones have 32 letters; what is much longer is not one.
const LONGEST_NAME: usize = 64;

/// What people write that is near to no name in its letters, and the zone that has those clocks: cities that the
/// database knows under another one's name, and abbreviations that the database does not list, or that stand for an
/// offset without the summer time that people mean.
const MEANT: &[(&str, &str)] = &[
    ("abudhabi", "Asia/Dubai"),
    ("atlanta", "America/New_York"),
    ("bangalore", "Asia/Kolkata"),
    ("barcelona", "Europe/Madrid"),
    ("beijing", "Asia/Shanghai"),
    ("bengaluru", "Asia/Kolkata"),
    ("boston", "America/New_York"),
    ("canberra", "Australia/Sydney"),
    ("capetown", "Africa/Johannesburg"),
    ("chennai", "Asia/Kolkata"),
    ("dallas", "America/Chicago"),
    ("delhi", "Asia/Kolkata"),
    ("frankfurt", "Europe/Berlin"),
    ("geneva", "Europe/Zurich"),
    ("hamburg", "Europe/Berlin"),
    ("hanoi", "Asia/Bangkok"),
    ("houston", "America/Chicago"),
    ("hyderabad", "Asia/Kolkata"),
    ("islamabad", "Asia/Karachi"),
    ("miami", "America/New_York"),
    ("milan", "Europe/Rome"),
    ("mumbai", "Asia/Kolkata"),
    ("munich", "Europe/Berlin"),
    ("newdelhi", "Asia/Kolkata"),
    ("osaka", "Asia/Tokyo"),
    ("ottawa", "America/Toronto"),
    ("pune", "Asia/Kolkata"),
    ("riodejaneiro", "America/Sao_Paulo"),
    ("sanfrancisco", "America/Los_Angeles"),
    ("seattle", "America/Los_Angeles"),
    ("shenzhen", "Asia/Shanghai"),
    ("stpetersburg", "Europe/Moscow"),
    ("washington", "America/New_York"),
    ("wellington", "Pacific/Auckland"),
    ("aedt", "Australia/Sydney"),
    ("aest", "Australia/Sydney"),
    ("bst", "Europe/London"),
    ("cdt", "America/Chicago"),
    ("cest", "Europe/Berlin"),
    ("ct", "America/Chicago"),
    ("edt", "America/New_York"),
    ("eest", "Europe/Helsinki"),
    ("et", "America/New_York"),
    ("ist", "Asia/Kolkata"),
    ("jst", "Asia/Tokyo"),
    ("mdt", "America/Denver"),
    ("mesz", "Europe/Berlin"),
    ("mez", "Europe/Berlin"),
    ("msk", "Europe/Moscow"),
    ("pdt", "America/Los_Angeles"),
    ("pst", "America/Los_Angeles"),
    ("pt", "America/Los_Angeles"),
    ("z", "UTC"),
];

/// What to write in place of `text`, as the end of a message.
pub fn advice(text: &str) -> String {
    let text: String = text.chars().take(LONGEST_NAME).collect();
    if let Some(hours) = offset(&text) {
        return of_an_offset(hours);
    }
    match Some(text).filter(|text| !text.is_empty()).and_then(|text| meant(&text)) {
        Some(zone) => format!("did you mean `{zone}`?"),
        None => "name it as IANA does, like `Europe/Berlin`, `America/New_York` or `UTC`".to_owned(),
    }
}

/// By how much `+2`, `GMT+3` or `UTC-03:30` says that it is ahead of UTC, in minutes.
fn offset(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    let digits = ["UTC", "GMT"].iter().find_map(|name| upper.strip_prefix(name)).unwrap_or(&upper).trim();
    let (sign, digits) = match digits.strip_prefix('+') {
        Some(digits) => (1, digits),
        None => (-1, digits.strip_prefix('-')?),
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if digits.len() == 4 && digits.is_ascii() => digits.split_at(2),
        None => (digits, "0"),
    };
    let number = |text: &str| text.parse::<u8>().ok().map(i32::from);
    Some(sign * (number(hours)? * 60 + number(minutes)?))
}

/// The names of fixed offsets have the sign the other way round: west of Greenwich is positive.
fn of_an_offset(ahead: i32) -> String {
    const PLACE: &str = "name the place instead, like `Europe/Berlin`, so that its summer time is known";
    let hours = ahead / 60;
    let name = if ahead == 0 { "UTC".to_owned() } else { format!("Etc/GMT{:+}", -hours) };
    if ahead % 60 != 0 || name.parse::<Tz>().is_err() {
        return PLACE.to_owned();
    }
    let said = match hours {
        0 => String::new(),
        1.. => format!(" ({hours} h ahead of UTC: there the sign is the other way round)"),
        _ => format!(" ({} h behind UTC: there the sign is the other way round)", -hours),
    };
    format!("{PLACE}; an offset that never changes is `{name}`{said}")
}

/// The zone whose name `text` is, but for a few letters.
fn meant(text: &str) -> Option<&'static str> {
    let wanted = plain(text);
    let city = text.rsplit_once('/').map_or(wanted.clone(), |(_, city)| plain(city));
    if let Some((_, zone)) = MEANT.iter().find(|(said, _)| *said == city) {
        return Some(zone);
    }
    // A continent that is right and a city that is misspelt, or a city alone.
    let whole = nearest(&wanted, NAMES.iter().map(|name| (name.whole.as_str(), name.zone)));
    whole.or_else(|| nearest(&wanted, NAMES.iter().filter_map(|name| Some((name.city.as_deref()?, name.zone)))))
}

/// The names of all zones, as they are compared.
static NAMES: LazyLock<Vec<Name>> = LazyLock::new(|| {
    let names = TZ_VARIANTS.iter().map(|zone| zone.name());
    let city = |name: &str| name.rsplit_once('/').map(|(_, city)| plain(city));
    names.map(|zone| Name { whole: plain(zone), city: city(zone), zone }).collect()
});

struct Name {
    whole: String,
    city: Option<String>,
    zone: &'static str,
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, ' ' | '_' | '-' | '.')).flat_map(char::to_lowercase).collect()
}

/// One letter may be wrong in a short name, two in a long one. Cities are short, and many are alike: `Mumbai` is two
/// letters away from `Dubai`.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = (&'a str, &'static str)>) -> Option<&'static str> {
    let most = match wanted.chars().count() {
        0..=3 => 0,
        4..=11 => 1,
        _ => 2,
    };
    let near = names.filter_map(|(name, zone)| {
        let distance = if name == wanted { 0 } else { strsim::osa_distance(wanted, name) };
        (distance <= most).then_some((distance, zone))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, zone)| zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_zone_is_answered_with_the_one_that_was_meant() {
        for (text, zone) in [
            ("Europe/berlin", "Europe/Berlin"),
            ("Europe/Berln", "Europe/Berlin"),
            ("Berlin", "Europe/Berlin"),
            ("America/New York", "America/New_York"),
            ("Australia/LordHowe", "Australia/Lord_Howe"),
            ("Asia/Mumbai", "Asia/Kolkata"),
            ("Asia/Beijing", "Asia/Shanghai"),
            ("US/San_Francisco", "America/Los_Angeles"),
            ("PST", "America/Los_Angeles"),
            ("CEST", "Europe/Berlin"),
            ("utc", "UTC"),
        ] {
            assert_eq!(advice(text), format!("did you mean `{zone}`?"), "{text}");
        }
    }

    #[test]
    fn nothing_is_guessed_that_is_not_near() {
        for text in ["Asia/Gotham", "Metropolis", "Europe/Atlantis", "", "XYZ", "Asia/Lubai1"] {
            assert!(advice(text).starts_with("name it as IANA does"), "{text}: {}", advice(text));
        }
    }

    #[test]
    fn an_offset_is_answered_with_one_that_has_the_same_clock() {
        for (text, name, ahead) in [("GMT+3", "Etc/GMT-3", 3), ("UTC-5", "Etc/GMT+5", -5), ("+02:00", "Etc/GMT-2", 2)] {
            let advice = advice(text);
            assert!(advice.contains(&format!("`{name}` ({}", i32::abs(ahead))), "{text}: {advice}");
            let zone: Tz = name.parse().unwrap();
            let midnight = chrono::DateTime::from_timestamp(0, 0).unwrap().with_timezone(&zone);
            assert_eq!(midnight.format("%:z").to_string(), format!("{ahead:+03}:00"));
        }
        assert!(!advice("+05:30").contains("Etc/"), "no zone of a fixed offset has half hours");
    }

    #[test]
    fn whatever_is_advised_is_a_zone() {
        for (_, zone) in MEANT {
            assert!(zone.parse::<Tz>().is_ok(), "{zone}");
        }
    }
}
