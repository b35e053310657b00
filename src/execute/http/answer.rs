//! Answers: what they mean for the attempt, and what is kept of them.

use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::Response;

use super::{Target, trouble};
use crate::execute::output::{OutputSink, Stream};
use crate::fence::{Fence, header};
use crate::job::{Again, Http, OUTPUT_KEPT, Outcome, PUT_OFF_MOST};
use crate::time::Wall;

/// How much of an answer's body is read, in bytes. Of a longer one the status counts, and the rest is left.
pub const ANSWER_READ: u64 = 64 << 20;

/// What an answer means to an attempt under `fence`, by its head. It may be the last attempt.
pub(super) fn meaning(http: &Http, (fence, is_last): (Fence, bool), answer: &Response, now: Wall) -> Outcome {
    let status = answer.status();
    if let Some(seen) = fence_seen(status, answer.headers(), fence) {
        return Outcome::Fenced { seen: Some(seen) };
    }
    if http.expect.contain(status.as_u16()) {
        return Outcome::Done;
    }
    let target = Target(http);
    match guards_word(status, answer.headers()) {
        Some("in-doubt") => {
            let why = "the guard of {} does not know whether an earlier attempt was done";
            return Outcome::InDoubt(why.replace("{}", &target.to_string()));
        }
        // What is in flight there is an attempt of this run that got no answer.
        Some("in-flight") if is_last => {
            return Outcome::InDoubt(format!("an earlier attempt at {target} is still in flight at its guard"));
        }
        Some("unreachable") => {
            let again = if http.may_repeat_unsent() { Again::AsConfigured } else { Again::Never };
            return Outcome::Failed { why: format!("the guard of {target} cannot reach the service"), again };
        }
        _ => {}
    }
    if http.leaves_in_doubt(status.as_u16()) {
        return Outcome::InDoubt(format!(
            "{target} was answered with {status} by a gateway that had no answer itself: only the receiver knows whether \
             it was done"
        ));
    }
    let advice = match status.as_u16() {
        300..=399 if http.redirects == 0 => "; redirects are followed with `redirects`",
        300..=399 => {
            "; it is not followed: only so many as `redirects` says are, within the same origin, and no POST as a GET"
        }
        _ => "",
    };
    let after = retry_after(answer.headers(), now);
    let again = match after {
        _ if !http.may_repeat_after(status.as_u16(), after.is_some()) => Again::Never,
        Some(after) => Again::After(after),
        None => Again::AsConfigured,
    };
    Outcome::Failed { why: format!("{target} was answered with {status}, not {}{advice}", http.expect), again }
}

/// The greater fence that a guard has seen. A 412 without it is about something else (`If-Match`).
fn fence_seen(status: StatusCode, headers: &HeaderMap, own: Fence) -> Option<Fence> {
    let text = headers.get(header::FENCING_TOKEN_SEEN).filter(|_| status == StatusCode::PRECONDITION_FAILED)?;
    let text = text.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok().and_then(Fence::new).filter(|seen| *seen > own)
}

/// Why it is a guard that answers, and not the service behind it.
fn guards_word(status: StatusCode, headers: &HeaderMap) -> Option<&str> {
    let is_guards = matches!(status, StatusCode::CONFLICT | StatusCode::BAD_GATEWAY);
    headers.get(header::GUARD).filter(|_| is_guards)?.to_str().ok()
}

/// How long an answer asks to wait, in seconds or until a date, which is compared with the sender's own clock if the
/// answer has its time. <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>
pub(crate) fn retry_after(headers: &HeaderMap, now: Wall) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number holds are more than the most, too.
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(PUT_OFF_MOST));
    }
    let since_epoch = |text: &str| httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok();
    let date = headers.get(DATE).and_then(|date| since_epoch(date.to_str().ok()?));
    let now = date.or_else(|| u64::try_from(now.as_millis()).ok().map(Duration::from_millis))?;
    Some(since_epoch(text)?.saturating_sub(now).min(PUT_OFF_MOST))
}

/// Writes the status and the body to the output of the run: a text as it is, anything else as its size.
/// `Err`: why it broke off.
pub(super) async fn keep(mut answer: Response, output: &mut OutputSink) -> Result<(), String> {
    let status = format!("{:?} {}", answer.version(), answer.status());
    output.write(Stream::Stdout, format!("{status}\n").as_bytes());
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let mut is_text = is_text(&kind) && !answer.headers().contains_key(CONTENT_ENCODING);
    let (mut bytes, mut ends_line) = (0, true);
    let end = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                is_text &= bytes > 0 || !chunk.contains(&0);
                if is_text && !chunk.is_empty() {
                    output.write(Stream::Stdout, &chunk);
                    output.settle().await;
                    ends_line = chunk.ends_with(b"\n");
                }
                bytes += chunk.len() as u64;
                if bytes > ANSWER_READ {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(trouble::in_words(&error, true)),
        }
        // A server that sends without a pause must not keep a thread of the runtime to itself.
        tokio::task::coop::consume_budget().await;
    };
    if !ends_line {
        output.write(Stream::Stdout, b"\n");
    }
    let note = match &end {
        Err(_) => Some(format!("(the answer broke off after {bytes} bytes)")),
        Ok(()) if bytes > ANSWER_READ => Some(format!("({status}: the first {bytes} bytes were read, and no more)")),
        Ok(()) if !is_text && bytes > 0 => Some(format!("({bytes} bytes that are no text: {kind})")),
        // The line with the status is not among what is kept.
        Ok(()) if bytes as usize + status.len() >= OUTPUT_KEPT => Some(format!("({status}, {bytes} bytes)")),
        Ok(()) => None,
    };
    if let Some(note) = note {
        output.write(Stream::Stdout, format!("{note}\n").as_bytes());
    }
    end
}

/// Whether a body of this kind is a text, as far as the kind says it.
fn is_text(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (top, sub) = kind.split_once('/').unwrap_or((&kind, ""));
    let texts = ["json", "xml", "javascript", "x-www-form-urlencoded", "yaml", "x-yaml", "x-ndjson", "graphql"];
    let suffix = sub.rsplit_once('+').map_or(sub, |(_, suffix)| suffix);
    top.is_empty() || top == "text" || (top == "application" && texts.contains(&suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_until_a_date() {
        let now = "2026-11-21T02:00:00Z".parse().unwrap();
        let asked = |pairs: &[(&'static str, &str)]| retry_after(&headers(pairs), now).map(|wait| wait.as_secs());
        for (text, seconds) in [
            ("120", 120),
            ("0", 0),
            ("Sat, 21 Nov 2026 02:00:30 GMT", 30),
            ("Saturday, 21-Nov-26 02:00:30 GMT", 30),
            ("Sat Nov 21 02:00:30 2026", 30),
            ("Sat, 21 Nov 2026 01:00:00 GMT", 0),
            ("99999999999999999999999", 86_400),
            ("Sat, 21 Nov 2099 01:00:00 GMT", 86_400),
        ] {
            assert_eq!(asked(&[("retry-after", text)]), Some(seconds), "{text}");
        }
        for text in ["", "soon", "-1", "1.5", "2026-11-21T02:00:30Z"] {
            assert_eq!(asked(&[("retry-after", text)]), None, "{text}");
        }
        // The server's clock is an hour ahead, and it says so.
        let pairs = [("retry-after", "Sat, 21 Nov 2026 03:00:10 GMT"), ("date", "Sat, 21 Nov 2026 03:00:00 GMT")];
        assert_eq!(asked(&pairs), Some(10));
    }

    #[test]
    fn only_a_greater_fence_in_a_412_says_that_this_one_is_stale() {
        let own = Fence::new(7).unwrap();
        let seen = |status, text| fence_seen(status, &headers(&[("fencing-token-seen", text)]), own).map(Fence::get);
        assert_eq!(seen(StatusCode::PRECONDITION_FAILED, "8"), Some(8));
        for text in ["7", "6", "", "0", "+8", "8 ", "8, 9", "9999999999999999999999"] {
            assert_eq!(seen(StatusCode::PRECONDITION_FAILED, text), None, "{text}");
        }
        assert_eq!(seen(StatusCode::OK, "8"), None);
        assert_eq!(fence_seen(StatusCode::PRECONDITION_FAILED, &HeaderMap::new(), own), None);
    }

    #[test]
    fn kinds_of_texts_are_known() {
        for kind in ["", "text/html; charset=utf-8", "application/json", "application/problem+json", "Application/XML"]
        {
            assert!(is_text(kind), "{kind}");
        }
        for kind in ["image/png", "application/octet-stream", "application/zip", "application/vnd.x"] {
            assert!(!is_text(kind), "{kind}");
        }
    }
}
