//! A request that a job makes, as plain data.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::Text;

/// A request, and what its answers mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// `GET`, `POST` and so on, in capitals.
    pub method: String,
    /// An `http` or `https` URL with a host.
    pub url: Text,
    /// Sent as they are, beside those of the stamp, none of which is among them. Each name is there once.
    pub headers: Vec<(String, Text)>,
    pub body: Option<Text>,
    /// The statuses of an answer that says that it was done.
    pub expect: Statuses,
    /// After what it may be repeated; `None`: what HTTP says, see [`Http::may_repeat_after`].
    pub retry_on: Option<RetryOn>,
    /// How many redirects are followed, all of them within the origin of the URL.
    pub redirects: u32,
    /// A file of certificates (PEM) of the authorities that are trusted, instead of those that the machine trusts.
    pub ca: Option<Text>,
    pub identity: Option<Identity>,
    /// The longest wait for a connection, from the look-up of the name to the end of the TLS handshake.
    pub connect_timeout: Duration,
}

/// What a client shows a server of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A file with its certificate (PEM), and those that lead to its authority.
    pub cert: Text,
    /// A file with the private key (PEM) of the first of them.
    pub key: Text,
}

/// What a job says of when its request may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// It could not be sent.
    pub connect: bool,
    /// It was sent, and no whole answer came.
    pub no_answer: bool,
    pub statuses: Statuses,
}

/// A set of HTTP statuses, as ranges.
///
/// ```
/// use fencron::job::Statuses;
/// let statuses: Statuses = ["2xx", "304", "400-403"].map(|text| text.parse().unwrap()).into_iter().collect();
/// assert!(statuses.contain(204) && statuses.contain(304) && statuses.contain(403) && !statuses.contain(404));
/// assert_eq!(statuses.to_string(), "2xx, 304, 400-403");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Statuses(Vec<StatusRange>);

/// One of them: `200`, `2xx` or `200-299`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange(RangeInclusive<u16>);

/// A text that names no statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no status from 100 to 599: write one like `200`, a class like `2xx`, or a range like `200-204`")]
pub struct NotAStatus;

impl Http {
    /// A request without headers and a body, of which every 2xx says that it was done.
    pub fn new(method: &str, url: Text) -> Http {
        Http {
            method: method.to_owned(),
            url,
            headers: Vec::new(),
            body: None,
            expect: Statuses::successful(),
            retry_on: None,
            redirects: 0,
            ca: None,
            identity: None,
            connect_timeout: Duration::ZERO,
        }
    }

    /// Whether doing it twice leaves the same as doing it once, by the definition of its method
    /// (<https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2>).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// Whether a request that was answered with this status may be repeated as `retry` says. Without `retry_on`: 408,
    /// 425, 429 and 5xx; and 409, when the answer says when to come again, as a guard does while the first is under way.
    pub fn may_repeat_after(&self, status: u16, says_when: bool) -> bool {
        match &self.retry_on {
            Some(retry_on) => retry_on.statuses.contain(status),
            None => matches!(status, 408 | 425 | 429 | 500..=599) || (status == 409 && says_when),
        }
    }

    /// Whether an answer with this status leaves open if it was done: it comes from a gateway that had no answer itself,
    /// to a method that does not bear repetition. A `retry_on` that names the status knows better.
    pub fn leaves_in_doubt(&self, status: u16) -> bool {
        let named = self.retry_on.as_ref().is_some_and(|retry_on| retry_on.statuses.contain(status));
        matches!(status, 502 | 504) && !self.is_idempotent() && !named
    }

    /// Whether it may be repeated when it could not be sent.
    pub fn may_repeat_unsent(&self) -> bool {
        self.retry_on.as_ref().is_none_or(|retry_on| retry_on.connect)
    }

    /// Whether one that may be repeated at all is, when it was sent and no whole answer came.
    pub fn may_repeat_unanswered(&self) -> bool {
        self.retry_on.as_ref().is_none_or(|retry_on| retry_on.no_answer)
    }
}

impl Statuses {
    /// Those that mean that a request was done: 2xx.
    pub fn successful() -> Statuses {
        Statuses(vec![StatusRange(200..=299)])
    }

    /// Whether `status` is among them.
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.0.contains(&status))
    }
}

impl FromIterator<StatusRange> for Statuses {
    fn from_iter<I: IntoIterator<Item = StatusRange>>(ranges: I) -> Statuses {
        Statuses(ranges.into_iter().collect())
    }
}

impl FromStr for StatusRange {
    type Err = NotAStatus;
    fn from_str(text: &str) -> Result<StatusRange, NotAStatus> {
        let code = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let code = text.parse().ok().filter(|_| digits);
            code.filter(|code| (100..=599).contains(code)).ok_or(NotAStatus)
        };
        if let Some(class) = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX")) {
            let first = code(&format!("{class}00"))?;
            return Ok(StatusRange(first..=first + 99));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (code(first.trim())?, code(last.trim())?);
        if first <= last { Ok(StatusRange(first..=last)) } else { Err(NotAStatus) }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (*self.0.start(), *self.0.end());
        match last - first {
            0 => write!(f, "{first}"),
            99 if first % 100 == 0 => write!(f, "{}xx", first / 100),
            _ => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, retry_on: Option<RetryOn>) -> Http {
        Http { retry_on, ..Http::new(method, Text::plain("http://localhost/")) }
    }

    #[test]
    fn statuses_are_read_as_codes_classes_and_ranges() {
        for text in ["200", "2xx", "200-204", "599"] {
            assert_eq!(text.parse::<StatusRange>().unwrap().to_string(), text);
        }
        for text in ["", "20", "2000", "099", "600", "6xx", "xx", "20x", "204-200", "+20", "ok", "200-", "€xx"] {
            assert!(text.parse::<StatusRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_may_be_repeated_follows_http_unless_the_job_says_otherwise() {
        let repeated = |http: &Http| (100..600).filter(|status| http.may_repeat_after(*status, false)).count();
        let http = request("POST", None);
        assert!([408, 425, 429, 500, 503].iter().all(|status| http.may_repeat_after(*status, false)));
        assert_eq!(repeated(&http), 103);
        assert!(http.may_repeat_after(409, true) && !http.may_repeat_after(409, false));
        let statuses: Statuses = ["418".parse().unwrap()].into_iter().collect();
        let own = request("POST", Some(RetryOn { connect: false, no_answer: true, statuses }));
        assert_eq!(repeated(&own), 1);
        assert!(!own.may_repeat_after(409, true) && !own.may_repeat_unsent() && own.may_repeat_unanswered());
    }

    #[test]
    fn a_gateway_without_an_answer_leaves_in_doubt_what_does_not_bear_repetition() {
        assert!(request("POST", None).leaves_in_doubt(504) && request("PATCH", None).leaves_in_doubt(502));
        assert!(!request("PUT", None).leaves_in_doubt(504) && !request("POST", None).leaves_in_doubt(503));
        let statuses: Statuses = ["5xx".parse().unwrap()].into_iter().collect();
        assert!(!request("POST", Some(RetryOn { connect: true, no_answer: true, statuses })).leaves_in_doubt(504));
    }
}
