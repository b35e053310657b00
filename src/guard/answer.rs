//! Answers as they are kept, and the bytes that stand for them in a state.

use bytes::Bytes;

/// The first byte of a stored answer. Another one means that a newer fencron wrote it.
#[cfg(any(feature = "sqlite", feature = "sql"))]
const VERSION: u8 = 1;

/// How large the headers may be, names and values together, to be kept.
const HEADERS_MOST: usize = 16 << 10;

/// What was answered, and is answered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A status of HTTP, or the exit code of a command.
    pub status: u16,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, Bytes)>,
    pub body: Bytes,
    /// `false`: the answer was too large to be kept, and is not there.
    pub whole: bool,
}

impl Answer {
    /// An answer without headers.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into(), whole: true }
    }

    /// That it was answered, but not what.
    pub fn too_large(status: u16) -> Answer {
        Answer { whole: false, ..Answer::new(status, Bytes::new()) }
    }

    /// The answer, or that there was one, where it is larger than `most`.
    pub(super) fn within(self, most: usize) -> Answer {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let fits = self.body.len() <= most && headers <= HEADERS_MOST;
        if fits { self } else { Answer::too_large(self.status) }
    }
}

/// As bytes, for the states that are not in memory.
#[cfg(any(feature = "sqlite", feature = "sql"))]
impl Answer {
    /// That it was answered, where the bytes that were kept cannot be read.
    pub(super) fn lost() -> Answer {
        Answer::too_large(500)
    }

    /// The bytes to keep.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::from(self.whole)];
        bytes.extend(self.status.to_be_bytes());
        let mut part = |part: &[u8]| {
            bytes.extend(u32::try_from(part.len()).expect("answers are bounded").to_be_bytes());
            bytes.extend(part);
        };
        part(&self.body);
        for (name, value) in &self.headers {
            part(name.as_bytes());
            part(value);
        }
        bytes
    }

    /// The answer that was kept; `None` where these bytes are not one.
    pub(super) fn decode(bytes: Vec<u8>) -> Option<Answer> {
        let mut rest = Bytes::from(bytes);
        let (version, whole) = (*rest.first()?, *rest.get(1)? == 1);
        let status = u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?);
        if version != VERSION {
            return None;
        }
        rest = rest.slice(4..);
        let mut part = || {
            let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
            rest.get(4..)?.get(..length)?;
            let part = rest.slice(4..4 + length);
            rest = rest.slice(4 + length..);
            Some(part)
        };
        let body = part()?;
        let mut headers = Vec::new();
        while let Some(name) = part() {
            headers.push((String::from_utf8(name.to_vec()).ok()?, part()?));
        }
        Some(Answer { status, headers, body, whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "sqlite", feature = "sql"))]
    #[test]
    fn an_answer_is_read_as_it_was_kept() {
        let headers = vec![("content-type".to_owned(), Bytes::from("text/plain")), ("x".to_owned(), Bytes::new())];
        let answer = Answer { headers, ..Answer::new(201, "made\n") };
        assert_eq!(Answer::decode(answer.encode()), Some(answer.clone()));
        for length in 0..8 {
            assert_eq!(Answer::decode(answer.encode()[..length].to_vec()), None, "{length}");
        }
    }

    #[test]
    fn of_what_is_too_large_only_the_status_is_kept() {
        assert_eq!(Answer::new(200, "12345").within(4), Answer::too_large(200));
        assert_eq!(Answer::new(200, "1234").within(4), Answer::new(200, "1234"));
    }
}
