//! Who looks at the page, and how that person wants it.

use std::str::FromStr;

use chrono_tz::Tz;

use crate::config::auth::{Patterns, Role};
use crate::job::JobName;

/// A person who looks at the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looker {
    /// As the rules name the person; `None`: without a name.
    pub name: Option<String>,
    pub role: Role,
    /// The jobs that the person is narrowed to; `None`: all.
    pub jobs: Option<Patterns>,
    /// The paths of screens that the person may not open.
    pub refused: &'static [&'static str],
    /// There is a login that can be ended.
    pub has_login: bool,
    /// What became of the form that this person sent last: whether it was done, and what to say.
    pub said: Option<(bool, String)>,
    pub zones: Zones,
    pub theme: Theme,
    /// What is looked at, as this node has it: a path, with its query.
    pub path: String,
}

impl Looker {
    /// A person who reads the store itself, by a command.
    pub(crate) fn of_store() -> Looker {
        Looker {
            name: None,
            role: Role::Reader,
            jobs: None,
            refused: &[],
            has_login: false,
            said: None,
            zones: Zones::Jobs,
            theme: Theme::System,
            path: "/".to_owned(),
        }
    }

    /// Whether the job is there for this person: the page passes over the others as if they did not exist.
    pub(super) fn sees(&self, job: &JobName) -> bool {
        self.jobs.as_ref().is_none_or(|jobs| jobs.include(job))
    }

    /// Whether the person has this role, or a higher one.
    pub(super) fn may(&self, role: Role) -> bool {
        self.role >= role
    }

    /// Whether the person may do something.
    pub(super) fn may_act(&self) -> bool {
        self.may(Role::Operator)
    }

    pub(super) fn sees_all_jobs(&self) -> bool {
        self.jobs.is_none()
    }

    /// Whether what runs write may be shown, which may hold secrets.
    pub(super) fn may_read_output(&self) -> bool {
        self.role >= Role::Reader
    }

    /// Whether the screen at this path may be opened.
    pub(super) fn may_open(&self, path: &str) -> bool {
        !self.refused.iter().any(|refused| refused.strip_prefix('/') == Some(path))
    }
}

/// What leads from a path of this node to the top: links are relative, so that the page works behind any prefix.
pub(crate) fn up(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let below = path.matches('/').count().saturating_sub(1);
    if below == 0 { "./".to_owned() } else { "../".repeat(below) }
}

/// In which zones instants are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Zones {
    /// In UTC, and beside a fire in the zone of its job.
    #[default]
    Jobs,
    /// In UTC alone.
    Utc,
    /// In the zone of the person, and beside a fire in the zone of its job.
    Mine(Tz),
}

/// The word of [`Zones::Jobs`].
pub(crate) const JOBS: &str = "job";

/// The word of [`Zones::Utc`].
pub(crate) const UTC: &str = "utc";

impl Zones {
    /// How it is kept in a cookie, and asked for.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Zones::Jobs => JOBS,
            Zones::Utc => UTC,
            Zones::Mine(zone) => zone.name(),
        }
    }

    /// The zone of instants that belong to no job.
    pub(super) fn name(self) -> &'static str {
        match self {
            Zones::Jobs | Zones::Utc => "UTC",
            Zones::Mine(zone) => zone.name(),
        }
    }
}

impl FromStr for Zones {
    type Err = String;

    fn from_str(text: &str) -> Result<Zones, String> {
        match text {
            JOBS => Ok(Zones::Jobs),
            UTC => Ok(Zones::Utc),
            name => zone(name).map(Zones::Mine),
        }
    }
}

/// The zone of this name.
pub(super) fn zone(name: &str) -> Result<Tz, String> {
    let wrong = |_| format!("`{}` is no time zone: write it like Europe/Berlin", super::words::shown(name));
    name.parse().map_err(wrong)
}

/// In which colours the page is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Theme {
    /// As the browser has it.
    #[default]
    System,
    Dark,
    Light,
}

impl Theme {
    pub(super) const ALL: [(Theme, &'static str); 3] =
        [(Theme::System, "System"), (Theme::Dark, "Dark"), (Theme::Light, "Light")];

    /// How it is kept in a cookie, and asked for.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Theme::System => "system",
            Theme::Dark => "dark",
            Theme::Light => "light",
        }
    }
}

impl FromStr for Theme {
    type Err = String;

    fn from_str(text: &str) -> Result<Theme, String> {
        let found = Theme::ALL.into_iter().map(|(theme, _)| theme).find(|theme| theme.word() == text);
        found.ok_or_else(|| "the theme is one of system, dark and light".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_wants_reads_back() {
        for word in ["job", "utc", "Europe/Berlin", "Etc/GMT+5"] {
            assert_eq!(word.parse::<Zones>().unwrap().word(), word);
        }
        assert!("Mars/Base".parse::<Zones>().unwrap_err().contains("`Mars/Base` is no time zone"));
        for (theme, _) in Theme::ALL {
            assert_eq!(theme.word().parse(), Ok(theme));
        }
        assert!("<b>".parse::<Theme>().is_err());
    }

    #[test]
    fn every_page_finds_the_top() {
        for (path, to) in [("/", "./"), ("/jobs?x=/a/b", "./"), ("/jobs/a", "../"), ("/api/v1/jobs/a", "../../../")] {
            assert_eq!(up(path), to, "{path}");
        }
    }
}
