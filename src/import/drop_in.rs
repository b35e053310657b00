//! Drop-ins of systemd: which files add to a unit, and in which order.

use std::collections::BTreeMap;
use std::path::Path;

use super::report::Fate;
use super::systemd::NOT_TAKEN;
use super::unit::Unit;

/// A file that adds to units: `backup.timer.d/more.conf`.
pub(super) struct DropIn {
    /// The unit, or the beginning of its name up to a hyphen, or the kind of units.
    pub of: String,
    pub rank: usize,
    pub text: Unit,
}

impl DropIn {
    /// What a drop-in with this path is of.
    pub fn unit_of(path: &Path) -> Option<String> {
        let directory = path.parent()?.file_name()?.to_str()?;
        let of = directory.strip_suffix(".d").filter(|_| path.extension().is_some_and(|end| end == "conf"))?;
        is_drop_in_directory(directory).then(|| of.to_owned())
    }

    /// What becomes of lines of which nothing was noted.
    pub fn fate(&self, units: &[Unit], is_used: bool) -> (Fate, String) {
        let is_there = units.iter().any(|unit| directories(&unit.name).contains(&self.of));
        let is_of_instance = units.iter().any(|unit| is_instance(&self.of, &unit.name));
        match (is_used, is_there || is_of_instance) {
            (true, _) => (Fate::Cannot, NOT_TAKEN.to_owned()),
            (false, true) => {
                (Fate::Ignored, "of a unit that no timer here starts, or of a drop-in that another replaces".to_owned())
            }
            (false, false) if !self.of.contains('.') || self.of.contains("-.") => {
                (Fate::Ignored, "of units that are not among what was read".to_owned())
            }
            (false, false) => (
                Fate::Cannot,
                format!("it adds to `{}`, which is not among what was read: name that file too", self.of),
            ),
        }
    }
}

/// Whether files in a directory of this name add to units.
pub(crate) fn is_drop_in_directory(name: &str) -> bool {
    let kinds = ["timer", "service"];
    name.strip_suffix(".d").is_some_and(|of| kinds.iter().any(|kind| of == *kind || of.ends_with(&format!(".{kind}"))))
}

/// What the directories of the drop-ins of a unit are called without `.d`, as systemd looks for them: of its name, of its
/// template, and of what stands before each hyphen of both; at last of its kind.
pub(super) fn directories(unit: &str) -> Vec<String> {
    let Some((_, kind)) = unit.rsplit_once('.') else { return Vec::new() };
    let mut found = Vec::new();
    add_directories(unit, &mut found);
    found.push(kind.to_owned());
    found
}

fn add_directories(unit: &str, found: &mut Vec<String>) {
    if found.iter().any(|known| known == unit) {
        return;
    }
    found.push(unit.to_owned());
    let Some((stem, kind)) = unit.rsplit_once('.') else { return };
    let (prefix, instance) = stem.split_once('@').map_or((stem, None), |(prefix, instance)| (prefix, Some(instance)));
    let instance = instance.filter(|instance| !instance.is_empty());
    if instance.is_some() {
        add_directories(&format!("{prefix}@.{kind}"), found);
    }
    // `app-sync` is of `app-`, and `app-` of nothing shorter than itself.
    let Some(at) = prefix.strip_suffix('-').unwrap_or(prefix).rfind('-').filter(|at| *at > 0) else { return };
    let instance = instance.map_or(String::new(), |instance| format!("@{instance}"));
    add_directories(&format!("{}{instance}.{kind}", &prefix[..=at]), found);
}

/// Which of several files of one name counts: the one of an administrator before the one of a package.
pub(super) fn rank(path: &Path) -> usize {
    const TOPS: [&[&str]; 4] = [&[".config"], &["etc"], &["run"], &["usr", "local"]];
    let parts: Vec<_> = path.iter().collect();
    let is_below = |top: &&[&str]| parts.windows(top.len()).any(|parts| parts.iter().zip(*top).all(|(a, b)| a == b));
    TOPS.iter().position(is_below).unwrap_or(TOPS.len())
}

/// The drop-ins of a unit, in the order in which they add to it: by their names, and each name once. What is of all units
/// of a kind yields to the rest; then the place counts, and then how much of the unit's name the directory has.
pub(super) fn drop_ins_of<'d>(unit: &str, drop_ins: &'d [DropIn]) -> Vec<&'d Unit> {
    let directories = directories(unit);
    let mut by_name: BTreeMap<&str, ((bool, usize, usize), &Unit)> = BTreeMap::new();
    for drop_in in drop_ins {
        let Some(nearness) = directories.iter().position(|name| *name == drop_in.of) else { continue };
        let order = (nearness + 1 == directories.len(), drop_in.rank, nearness);
        let known = by_name.entry(&drop_in.text.name).or_insert((order, &drop_in.text));
        if order < known.0 {
            *known = (order, &drop_in.text);
        }
    }
    by_name.into_values().map(|(_, drop_in)| drop_in).collect()
}

/// Whether `backup@home.service` is one of `backup@.service`.
pub(super) fn is_instance(name: &str, template: &str) -> bool {
    let Some((stem, rest)) = name.split_once('@') else { return false };
    let Some((instance, kind)) = rest.rsplit_once('.') else { return false };
    !instance.is_empty() && template == format!("{stem}@.{kind}")
}
