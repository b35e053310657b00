//! The bounds of a command, as plain data: the user that it runs as, what it is given, and how much of the machine it
//! may take.

use std::fmt;
use std::time::Duration;

use super::{Text, Word};

/// All of it. Nothing of this is left out where it cannot be kept: the command is not started then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The user that it runs as, by name or number. `None`: that of the node.
    pub user: Option<Text>,
    /// Its group; `None`: that of `user`, or of the node.
    pub group: Option<Text>,
    pub limits: Limits,
    pub nice: Option<Nice>,
    pub ionice: Option<Ionice>,
    pub umask: Option<Umask>,
    /// The variables of the node that it inherits. `None`: all but the node's own settings.
    pub inherit: Option<Vec<String>>,
    /// What it reads; `None`: nothing.
    pub stdin: Option<Stdin>,
    pub no_new_privileges: bool,
}

/// How much each of its processes may take. `None`: as much as the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub open_files: Option<u32>,
    /// This and the next two in bytes.
    pub core: Option<u64>,
    pub file_size: Option<u64>,
    pub stack: Option<u64>,
    pub cpu_time: Option<Duration>,
}

/// What a command reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdin {
    Text(Text),
    /// A file, by its path.
    File(Text),
}

/// How much a process yields to others: -20 to 19.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nice(pub i32);

/// Which rights new files do not get: `027`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Umask(pub u32);

/// The order in which disks are read and written: `idle`, `best-effort/7`, `realtime/0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ionice {
    pub class: IoClass,
    /// 0 is first, 7 last; of no meaning for `idle`.
    pub level: u32,
}

/// A class of the order in which disks are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoClass {
    Realtime,
    BestEffort,
    Idle,
}

impl Word for IoClass {
    const WORDS: &'static [(&'static str, IoClass)] =
        &[("realtime", IoClass::Realtime), ("best-effort", IoClass::BestEffort), ("idle", IoClass::Idle)];
}

/// The level of a class that is named alone.
const LEVEL: u32 = 4;

/// A value that is written as one text.
pub trait Form: Sized {
    /// What it is, for messages.
    const WHAT: &'static str;
    /// What every text of it matches, for editors.
    const PATTERN: &'static str;

    /// The value; otherwise how the text continues a sentence that begins with it: "is not …".
    fn parse(text: &str) -> Result<Self, String>;
}

impl Form for Nice {
    const WHAT: &'static str = "a whole number from -20 to 19";
    const PATTERN: &'static str = "^-?[0-9]+$";

    fn parse(text: &str) -> Result<Nice, String> {
        match text.parse() {
            Ok(nice @ -20..=19) => Ok(Nice(nice)),
            _ => Err("is not a whole number from -20 (first) to 19 (last)".to_owned()),
        }
    }
}

impl Form for Umask {
    const WHAT: &'static str = "a umask";
    const PATTERN: &'static str = "^0?[0-7]{3}$";

    fn parse(text: &str) -> Result<Umask, String> {
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mask) if digits.len() == 3 => Ok(Umask(mask)),
            _ => Err("is not a umask: write three octal digits in quotes, like \"027\"".to_owned()),
        }
    }
}

impl Form for Ionice {
    const WHAT: &'static str = "a class of input and output";
    const PATTERN: &'static str = "^(idle|(best-effort|realtime)(/[0-7])?)$";

    fn parse(text: &str) -> Result<Ionice, String> {
        let (class, level) = text.split_once('/').map_or((text, None), |(class, level)| (class, Some(level)));
        let level = level.map_or(Some(LEVEL), |level| level.parse().ok().filter(|level| *level <= 7));
        match (IoClass::named(class), level) {
            (Some(IoClass::Idle), _) if class != text => None,
            (Some(class), Some(level)) => Some(Ionice { class, level }),
            _ => None,
        }
        .ok_or_else(|| {
            "is none: write `idle`, `best-effort`, `realtime`, or a level with it: `best-effort/7`".to_owned()
        })
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

impl fmt::Display for Ionice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            IoClass::Idle => f.write_str("idle"),
            class => write!(f, "{}/{}", class.word(), self.level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_within_their_bounds() {
        assert_eq!((Nice::parse("-20"), Nice::parse("19")), (Ok(Nice(-20)), Ok(Nice(19))));
        assert!(Nice::parse("20").is_err() && Nice::parse("").is_err());
        assert_eq!((Umask::parse("027"), Umask::parse("0077")), (Ok(Umask(0o27)), Ok(Umask(0o77))));
        for text in ["27", "888", "01777", "", "0o27"] {
            assert!(Umask::parse(text).is_err(), "{text}");
        }
        let ionice = |text: &str| Ionice::parse(text).map(|ionice| ionice.to_string());
        assert_eq!(ionice("idle").as_deref(), Ok("idle"));
        assert_eq!(ionice("best-effort").as_deref(), Ok("best-effort/4"));
        assert_eq!(ionice("realtime/0").as_deref(), Ok("realtime/0"));
        for text in ["idle/3", "best-effort/8", "none", "", "realtime/"] {
            assert!(ionice(text).is_err(), "{text}");
        }
    }
}
