//! What is said about an expression that cannot be read.

use fencron::schedule::ScheduleError;

use crate::{DEFAULT, parse};

/// The message for `expression` contains `parts`, and its place is that of `at` in the expression.
#[track_caller]
fn refused(expression: &str, at: &str, parts: &[&str]) {
    let errors = parse(&[expression], "Europe/Berlin", DEFAULT).expect_err(expression);
    let [ScheduleError::Expression { index: 0, offset, message }] = errors.as_slice() else {
        panic!("{expression}: {errors:?}");
    };
    assert_eq!(expression.find(at), Some(*offset), "{expression}: {message}");
    for part in parts {
        assert!(message.contains(part), "{expression}: `{message}` does not say `{part}`");
    }
}

#[test]
fn a_wrong_field_is_named_with_its_text_and_what_is_allowed() {
    refused("61 2 * * *", "61", &["minute", "`61`", "allowed: 0-59"]);
    refused("0 24 * * *", "24", &["hour", "24 is not a hour", "midnight is 0"]);
    refused("0 0 0 * *", "0 * *", &["day of month", "the first is 1"]);
    refused("0 0 * 13 *", "13", &["month", "1-12 or JAN-DEC"]);
    refused("0 0 * * 8", "8", &["weekday", "both 0 and 7 are Sunday"]);
    refused("0 0 * * MONDAY", "MONDAY", &["did you mean MON?"]);
    refused("0 0 1,,2 * *", "1,,2", &["comma"]);
    refused("0 ? * * *", "?", &["did you mean `*`?"]);
    refused("0 0 W * *", "W", &["like 15W"]);
    refused("0 0 * * L", "L", &["5L is the last Friday"]);
    refused("0 0 * * FRI#6", "FRI#6", &["1-5"]);
    refused("0 0 0 1 1 * 2027-2026", "2027-2026", &["did you mean 2026-2027?"]);
    refused("H(5) 0 * * *", "H(5)", &["H(0-29)"]);
    refused("-5 * * * *", "-5", &["a value is missing"]);
}

#[test]
fn a_step_longer_than_its_field_is_answered_with_what_was_meant() {
    refused("*/90 * * * *", "*/90", &["`@every 90m`"]);
    refused("*/60 * * * *", "*/60", &["write 0 for once an hour"]);
    refused("0 */36 * * *", "*/36", &["`@every 36h`"]);
    refused("*/90 * * * * *", "*/90", &["`@every 90s`"]);
    refused("*/0 * * * *", "*/0", &["1-59"]);
}

#[test]
fn a_wrong_number_of_fields_is_counted() {
    refused("0 2 * *", "0 2", &["has 4 fields", "did you mean `0 2 * * *`?"]);
    refused("15m", "15m", &["`@every 15m`"]);
    refused("0 0 0 0 0 0 0 0", "0", &["has 8 fields"]);
    refused("0 0 1 1 * 2027", "2027", &["`0 0 0 1 1 * 2027`"]);
    refused("CRON_TZ=UTC 0 2 * * *", "CRON", &["the key `timezone`"]);
}

#[test]
fn a_wrong_name_is_answered_with_the_closest() {
    refused("@dayly", "@dayly", &["did you mean `@daily`?"]);
    refused("@reboot", "@reboot", &["migration"]);
    refused("@daily 5", "@daily", &["nothing may follow"]);
    refused("@every", "@every", &["@every 15m"]);
    refused("@every 500ms", "500ms", &["at least one"]);
    refused("@every 1500ms", "1500ms", &["whole seconds"]);
    refused("@every soon", "soon", &["30s"]);
    refused("@every 5M", "5M", &["unknown unit", "`m` (minutes)"]);
    refused("@every 2days", "2days", &["unknown unit"]);
    refused("@at 2026-12-01 03:00", "2026", &["offset from UTC"]);
    refused("", "", &["empty"]);
}

#[test]
fn what_can_never_fire_is_refused() {
    refused("0 0 30 2 *", "0 0", &["can never fire", "no date"]);
    refused("0 0 31 4,6,9,11 *", "0 0", &["no date"]);
    refused("0 0 0 29 2 * 2027", "0 0", &["no date"]);
    let skip = fencron::schedule::Dst { gap: fencron::schedule::Gap::Skip, ..DEFAULT };
    let errors = parse(&["0 30 2 29 3 * 2026"], "Europe/Berlin", skip).unwrap_err();
    assert!(errors[0].to_string().contains("leaps over"), "{errors:?}");
    assert!(parse(&["0 30 2 29 3 * 2026"], "Europe/Berlin", DEFAULT).is_ok());
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let errors = parse(&["61 * * * *", "@daily", "0 0 30 2 *"], "Europe/Berlin", DEFAULT).unwrap_err();
    let places: Vec<_> = errors
        .iter()
        .map(|error| match error {
            ScheduleError::Expression { index, .. } => Some(*index),
            _ => None,
        })
        .collect();
    assert_eq!(places, [Some(0), Some(2)]);
    let errors = parse(&["61 * * * *"], "Europe/Berln", DEFAULT).unwrap_err();
    assert!(matches!(&errors[..], [ScheduleError::Zone { message }, _] if message.contains("`Europe/Berlin`")));
    assert!(matches!(parse(&[], "UTC", DEFAULT).unwrap_err()[..], [ScheduleError::Whole { .. }]));
}
