//! Why a run ended as it did, or was never begun, for programs: a word beside the text for people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a run ended as it did, or was never begun. Words are added, not renamed; a run that ended well in the usual way has
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Its job is paused.
    Paused,
    /// Another run of its job had not ended (`overlap: skip`), or too many were open or waited.
    Overlap,
    /// No leader was there when it was due, and its job skips what it missed (`missed.run: skip`).
    Missed,
    /// No leader was there for longer than `missed.within`.
    MissedWindow,
    /// More were missed than `missed.limit`.
    MissedLimit,
    /// So many were missed that they were not decided one by one.
    MissedMany,
    /// It was missed, and a later occurrence takes its place (`missed.run: latest`).
    Superseded,
    /// The schedules were brought back over it, and whether it had run is not kept any more.
    Rewound,
    /// Its job is not configured any more.
    Unconfigured,
    /// A later run took its place (`overlap: replace`).
    Replaced,
    /// A person cancelled it.
    Cancelled,
    /// The node that ran it was stopped, or stepped down.
    Shutdown,
    /// The node that ran it lost the leadership.
    LeadershipLost,
    /// Its target has seen a greater fence.
    Fenced,
    /// Its command ended with an exit code that is not 0.
    ExitCode,
    /// A signal ended its command.
    Signal,
    /// Its task failed otherwise: a status of an answer, an error of a database, an error of a closure.
    Error,
    /// It took longer than its `timeout`.
    TimedOut,
    /// It could not be started.
    NotStarted,
    /// It was done before, by an earlier attempt or another leader.
    AlreadyApplied,
    /// Whether it took effect is not known.
    InDoubt,
    /// It took effect in part.
    Partial,
    /// Its leader was lost, and it is not begun again.
    LeaderLost,
    /// Too many of its leaders were lost for it to be begun again.
    AttemptsLost,
    /// The store was restored from a backup.
    Restored,
    /// A person said how it ended.
    Resolved,
}

impl Code {
    /// Those for which occurrences are skipped when they are due.
    pub const OF_SKIPS: [Code; 9] = {
        let [a, b, c, d, e, f, g, h, i, ..] = Code::ALL;
        [a, b, c, d, e, f, g, h, i]
    };

    /// All of them; [`Code::OF_SKIPS`] first.
    pub const ALL: [Code; 26] = [
        Code::Paused,
        Code::Overlap,
        Code::Missed,
        Code::MissedWindow,
        Code::MissedLimit,
        Code::MissedMany,
        Code::Superseded,
        Code::Rewound,
        Code::Unconfigured,
        Code::Replaced,
        Code::Cancelled,
        Code::Shutdown,
        Code::LeadershipLost,
        Code::Fenced,
        Code::ExitCode,
        Code::Signal,
        Code::Error,
        Code::TimedOut,
        Code::NotStarted,
        Code::AlreadyApplied,
        Code::InDoubt,
        Code::Partial,
        Code::LeaderLost,
        Code::AttemptsLost,
        Code::Restored,
        Code::Resolved,
    ];

    /// The word, as it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Paused => "paused",
            Code::Overlap => "overlap",
            Code::Missed => "missed",
            Code::MissedWindow => "missed_window",
            Code::MissedLimit => "missed_limit",
            Code::MissedMany => "missed_many",
            Code::Superseded => "superseded",
            Code::Rewound => "rewound",
            Code::Unconfigured => "unconfigured",
            Code::Replaced => "replaced",
            Code::Cancelled => "cancelled",
            Code::Shutdown => "shutdown",
            Code::LeadershipLost => "leadership_lost",
            Code::Fenced => "fenced",
            Code::ExitCode => "exit_code",
            Code::Signal => "signal",
            Code::Error => "error",
            Code::TimedOut => "timed_out",
            Code::NotStarted => "not_started",
            Code::AlreadyApplied => "already_applied",
            Code::InDoubt => "in_doubt",
            Code::Partial => "partial",
            Code::LeaderLost => "leader_lost",
            Code::AttemptsLost => "attempts_lost",
            Code::Restored => "restored",
            Code::Resolved => "resolved",
        }
    }

    /// This reason, in these words for a person.
    pub fn because(self, text: impl Into<String>) -> Reason {
        Reason { code: self, text: text.into() }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`Code`] of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no code of this version")]
pub struct NotACode;

impl FromStr for Code {
    type Err = NotACode;

    fn from_str(word: &str) -> Result<Code, NotACode> {
        Code::ALL.into_iter().find(|code| code.as_str() == word).ok_or(NotACode)
    }
}

/// Why something was decided: for a program, and for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: Code,
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_is_written_by_serde_as_everywhere() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert_eq!("bored".parse::<Code>(), Err(NotACode));
    }

    #[test]
    fn the_documents_name_every_code() {
        let text = include_str!("../../docs/cli.md");
        for code in Code::ALL {
            assert!(text.contains(&format!("| `{code}` |")), "docs/cli.md does not say what `{code}` means");
        }
    }
}
