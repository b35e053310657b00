//! PURE: what the names in a directory of migrations say: whose convention they follow, in which order the files are
//! made, and which are left out because they lead back.

use std::collections::BTreeMap;

use crate::config::problem::quoted;

/// What the names of a directory's migrations end in.
pub const SQL_FILE: &str = ".sql";

/// How many names a message lists.
const NAMES_SHOWN: usize = 20;

/// Programs, which other tools run as migrations beside statements.
const PROGRAMS: &[&str] =
    &["go", "java", "class", "kt", "groovy", "scala", "py", "rb", "js", "ts", "rs", "php", "cs", "sh"];

/// What a file is called that leads back, behind the name of the one that it leads back from.
const WAYS_BACK: &[&str] = &["down", "undo", "rollback", "revert", "downgrade"];

/// What the other one is called there.
const WAYS_ON: [&str; 5] = ["up", "do", "deploy", "upgrade", "apply"];

/// By what convention the files of a directory are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Every `*.sql` is a migration.
    Plain,
    /// `NUMBER_name.up.sql` and `.down.sql`: golang-migrate, sqlx.
    UpDown,
    /// `V1__name.sql`: Flyway, refinery.
    Versioned,
}

/// The files of a directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    pub convention: Convention,
    /// Those that are made, in their order.
    pub taken: Vec<String>,
    /// Those that lead back.
    pub left_out: Vec<String>,
    /// What is there, and is no migration though it may be meant to be.
    pub odd: Vec<String>,
}

/// A number of any length, without zeros in front.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Number {
    digits: usize,
    text: String,
}

impl Number {
    /// The number that a text begins with, and the rest.
    fn split(text: &str) -> Option<(Number, &str)> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let plain = number.trim_start_matches('0');
        (!number.is_empty()).then(|| (Number { digits: plain.len(), text: plain.to_owned() }, rest))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Up,
    Down,
    Versioned(Vec<Number>),
    Undo(Vec<Number>),
    Repeatable,
    Baseline,
    Other,
}

/// Reads the names of what is in a directory; those of directories end in `/`. All that is wrong with them, otherwise.
pub fn list(mut names: Vec<String>) -> Result<Listing, Vec<String>> {
    names.sort();
    let (mut wrong, mut odd) = strangers(&names);
    let files: Vec<&String> = names.iter().filter(|name| name.ends_with(SQL_FILE) && !name.starts_with('.')).collect();
    if files.is_empty() {
        let directories = names.iter().any(|name| name.ends_with('/') && !name.starts_with('.'));
        let advice = if directories { "; directories in it are not looked into: name each of them" } else { "" };
        wrong.push(format!("has no file whose name ends in `{SQL_FILE}`{advice}"));
        return Err(wrong);
    }
    let kinds: Vec<Kind> = files.iter().map(|name| kind_of(name)).collect();
    let has = |of: fn(&Kind) -> bool| kinds.iter().any(of);
    let versioned = has(|kind| !matches!(kind, Kind::Up | Kind::Down | Kind::Other));
    let listing = if versioned {
        list_versioned(&files, &kinds)
    } else if has(|kind| matches!(kind, Kind::Up | Kind::Down)) {
        list_up_down(&files, &kinds)
    } else {
        list_plain(&files)
    };
    match listing {
        Ok(mut listing) if wrong.is_empty() => {
            listing.odd.append(&mut odd);
            Ok(listing)
        }
        Ok(_) => Err(wrong),
        Err(more) => Err(wrong.into_iter().chain(more).collect()),
    }
}

/// Some of many names, for a message.
pub fn some(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| quoted(name)).collect();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", shown.join(", "))
}

/// Whether `recorded` led back from one of `present`, and was made by a version that did not distinguish such files.
pub fn leads_back_from<'a>(recorded: &str, mut present: impl Iterator<Item = &'a str>) -> bool {
    let (directory, name) = recorded.rsplit_once('/').unwrap_or(("", recorded));
    let in_directory = |other: &'a str| other.strip_prefix(directory)?.strip_prefix('/');
    if let Some(stem) = name.strip_suffix(".down.sql") {
        return present.any(|other| in_directory(other).and_then(|name| name.strip_suffix(".up.sql")) == Some(stem));
    }
    let Kind::Undo(version) = kind_of(name) else { return false };
    present.any(|other| in_directory(other).is_some_and(|name| kind_of(name) == Kind::Versioned(version.clone())))
}

/// What is in the directory beside statements: what is wrong, and what is only said.
fn strangers(names: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut odd) = (Vec::new(), Vec::new());
    for name in names {
        let (shown, small) = (quoted(name), name.to_ascii_lowercase());
        let numbered = Number::split(name).is_some_and(|(_, rest)| rest.starts_with(['_', '-', '.']))
            || kind_of(&format!("{}.sql", name.split('.').next().unwrap_or_default())) != Kind::Other;
        let ending = small.rsplit('.').next().unwrap_or_default();
        if let Some(directory) = name.strip_suffix('/') {
            if !directory.starts_with('.') {
                odd.push(format!("holds the directory {}, which is not looked into", quoted(directory)));
            }
        } else if name.starts_with('.') {
            if small.contains("sql") {
                odd.push(format!("holds {shown}, which is left out: its name begins with a dot"));
            }
        } else if name.ends_with(SQL_FILE) {
            continue;
        } else if small.ends_with(SQL_FILE) {
            wrong.push(format!(
                "holds {shown}: only names that end in `{SQL_FILE}` are taken; rename it or take it away"
            ));
        } else if small.ends_with(".sql.conf") {
            wrong.push(format!(
                "holds {shown}, a configuration of Flyway's that fencron does not read: give that migration an entry of \
                 its own with its `transaction`, or take the file away"
            ));
        } else if name == "sqitch.plan" {
            wrong.push(format!(
                "is one of Sqitch's, whose order stands in {shown}: list its files in `migrations`, each"
            ));
        } else if numbered && PROGRAMS.contains(&ending) {
            wrong.push(format!(
                "holds the migration {shown}, which is a program: make it a migration with a `command`, and list the \
                 files around it in their order"
            ));
        } else if small.contains(SQL_FILE) {
            odd.push(format!("holds {shown}, which is left out: its name does not end in `{SQL_FILE}`"));
        }
    }
    (wrong, odd)
}

fn kind_of(name: &str) -> Kind {
    if name.ends_with(".up.sql") {
        return Kind::Up;
    }
    if name.ends_with(".down.sql") {
        return Kind::Down;
    }
    if name.starts_with("R__") {
        return Kind::Repeatable;
    }
    let Some(version) = name.get(1..).and_then(version_of) else { return Kind::Other };
    match name.as_bytes()[0] {
        b'V' => Kind::Versioned(version),
        b'U' => Kind::Undo(version),
        b'B' => Kind::Baseline,
        _ => Kind::Other,
    }
}

/// The version in `1.2__name.sql`; `1_2` is the same, and so is `1.2.0`.
fn version_of(rest: &str) -> Option<Vec<Number>> {
    let (version, name) = rest.split_once("__")?;
    if !version.starts_with(|c: char| c.is_ascii_digit()) || name == SQL_FILE {
        return None;
    }
    let mut parts = Vec::new();
    for part in version.split(['.', '_']) {
        parts.push(Number::split(part).filter(|(_, rest)| rest.is_empty())?.0);
    }
    while parts.last().is_some_and(|last| last.digits == 0) {
        parts.pop();
    }
    Some(parts)
}

fn list_versioned(files: &[&String], kinds: &[Kind]) -> Result<Listing, Vec<String>> {
    let mut wrong = Vec::new();
    let mut taken: BTreeMap<Vec<Number>, String> = BTreeMap::new();
    for (name, kind) in files.iter().zip(kinds) {
        let shown = quoted(name);
        match kind {
            Kind::Versioned(version) => {
                if let Some(other) = taken.insert(version.clone(), (*name).clone()) {
                    wrong.push(format!("has the version of {shown} twice, as {} too: rename one", quoted(&other)));
                }
            }
            Kind::Undo(_) => {}
            Kind::Repeatable => wrong.push(format!(
                "holds {shown}, which Flyway repeats when it changes: fencron makes a migration once. Make it a job or a \
                 migration of its own, and take it out of this directory"
            )),
            Kind::Baseline => wrong.push(format!(
                "holds {shown}, a baseline of Flyway's, which takes the place of those before it: take it out of this \
                 directory, and record with `fencron migrate resolve ID --as done` what it stands for"
            )),
            Kind::Up | Kind::Down | Kind::Other => wrong.push(format!(
                "mixes conventions: other names are like `V1__name.sql` (Flyway, refinery), and {shown} is not. Rename \
                 it, or move it to a directory of its own"
            )),
        }
    }
    let mut left_out = Vec::new();
    for (name, kind) in files.iter().zip(kinds) {
        let Kind::Undo(version) = kind else { continue };
        if taken.contains_key(version) {
            left_out.push((*name).clone());
        } else {
            wrong.push(format!(
                "holds {}: with Flyway it undoes a version that is not here, with refinery it is a migration. Take it \
                 away, or begin its name with `V`",
                quoted(name)
            ));
        }
    }
    let listing =
        Listing { convention: Convention::Versioned, taken: taken.into_values().collect(), left_out, odd: Vec::new() };
    if wrong.is_empty() { Ok(listing) } else { Err(wrong) }
}

fn list_up_down(files: &[&String], kinds: &[Kind]) -> Result<Listing, Vec<String>> {
    let (mut wrong, mut left_out) = (Vec::new(), Vec::new());
    let mut taken: BTreeMap<Number, String> = BTreeMap::new();
    for (name, kind) in files.iter().zip(kinds) {
        let number = Number::split(name).filter(|(_, rest)| rest.starts_with('_')).map(|(number, _)| number);
        match (kind, number) {
            (Kind::Down, _) => left_out.push((*name).clone()),
            (Kind::Up, Some(number)) => {
                if let Some(other) = taken.insert(number, (*name).clone()) {
                    wrong.push(format!(
                        "has the number of {} twice, in {} too: rename one",
                        quoted(name),
                        quoted(&other)
                    ));
                }
            }
            (Kind::Up, None) => {
                wrong.push(format!("holds {}, which has no order: begin its name with a number and `_`", quoted(name)));
            }
            _ => wrong.push(format!(
                "mixes conventions: other names end in `.up.sql` and `.down.sql` (golang-migrate, sqlx), and {} does \
                 not. Rename it, or move it to a directory of its own",
                quoted(name)
            )),
        }
    }
    if taken.is_empty() && wrong.is_empty() {
        wrong.push("holds nothing but ways back, whose names end in `.down.sql`".to_owned());
    }
    let listing =
        Listing { convention: Convention::UpDown, taken: taken.into_values().collect(), left_out, odd: Vec::new() };
    if wrong.is_empty() { Ok(listing) } else { Err(wrong) }
}

/// Numbers in front of all names are their order; otherwise it is that of the bytes.
fn list_plain(files: &[&String]) -> Result<Listing, Vec<String>> {
    let mut wrong = Vec::new();
    for name in files {
        if let Some(from) = way_back(name, files) {
            wrong.push(format!(
                "holds {}, which seems to lead back from {}: move what leads back to a directory of its own, or rename \
                 the files to `NUMBER_name.up.sql` and `.down.sql`",
                quoted(name),
                quoted(&from)
            ));
        } else if kind_of(&name.replacen('v', "V", 1)) != Kind::Other && name.starts_with('v') {
            let advice = "begin it with a capital `V`, as Flyway and refinery have it";
            wrong.push(format!("holds {}, whose version has no order: {advice}", quoted(name)));
        }
    }
    let mut taken: Vec<String> = files.iter().map(|name| (*name).clone()).collect();
    if taken.iter().all(|name| Number::split(name).is_some()) {
        taken.sort_by_cached_key(|name| (Number::split(name).map(|(number, _)| number), name.clone()));
    }
    let listing = Listing { convention: Convention::Plain, taken, left_out: Vec::new(), odd: Vec::new() };
    if wrong.is_empty() { Ok(listing) } else { Err(wrong) }
}

/// The file from which one leads back, where its name says so: by a word of its own, wherever that stands.
fn way_back(name: &str, files: &[&String]) -> Option<String> {
    const SEPARATORS: [char; 4] = ['.', '-', '_', ' '];
    let stem = name.strip_suffix(SQL_FILE)?;
    let mut start = 0;
    for word in stem.split(SEPARATORS) {
        let end = start + word.len();
        if WAYS_BACK.contains(&word.to_ascii_lowercase().as_str()) {
            let (before, after) = (&stem[..start], &stem[end..]);
            let ways = WAYS_ON.map(|way| format!("{before}{way}{after}{SQL_FILE}"));
            let without = format!("{}{after}{SQL_FILE}", before.strip_suffix(SEPARATORS).unwrap_or(before));
            let there = ways.into_iter().chain([without]).find(|there| files.contains(&there));
            // A name that says nothing else leads back from all that is there.
            let others = || files.iter().find(|file| word == stem && **file != name).map(|file| (*file).clone());
            if let Some(there) = there.or_else(others) {
                return Some(there);
            }
        }
        start = end + 1;
    }
    None
}

/// The version, or the number, that may be there once in a directory whose files a tool marks.
pub fn same_number(names: &[String]) -> Option<(String, String)> {
    let mut seen: BTreeMap<Number, &String> = BTreeMap::new();
    for name in names {
        let Some((number, _)) = Number::split(name) else { continue };
        if let Some(other) = seen.insert(number, name) {
            return Some((other.clone(), name.clone()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_says_that_it_leads_back_is_refused_wherever_it_says_so() {
        for (back, on) in [
            ("down.sql", "up.sql"),
            ("down.sql", "create.sql"),
            ("1_down_users.sql", "1_up_users.sql"),
            ("001.Rollback.sql", "001.sql"),
            ("1-users-downgrade.sql", "1-users-upgrade.sql"),
        ] {
            let wrong = list([back, on].map(str::to_owned).into()).unwrap_err();
            assert!(wrong[0].contains(&format!("`{back}`, which seems to lead back from `{on}`")), "{wrong:?}");
        }
        let plain = list(["1_up.sql", "2_break_down_report.sql"].map(str::to_owned).into()).unwrap();
        assert_eq!(plain.taken, ["1_up.sql", "2_break_down_report.sql"]);
    }

    fn listed(names: &[&str]) -> Result<Listing, Vec<String>> {
        list(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[track_caller]
    fn order(names: &[&str], taken: &[&str], left_out: &[&str]) {
        let listing = listed(names).unwrap();
        assert_eq!((listing.taken, listing.left_out), (owned(taken), owned(left_out)));
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[track_caller]
    fn refused(names: &[&str], says: &[&str]) {
        let wrong = listed(names).unwrap_err().join("\n");
        for words in says {
            assert!(wrong.contains(words), "`{words}` is not in: {wrong}");
        }
    }

    #[test]
    fn each_convention_has_its_order_and_leaves_out_what_leads_back() {
        order(&["b.sql", "a.sql", "README.md", ".gitkeep"], &["a.sql", "b.sql"], &[]);
        order(&["10_c.sql", "2_b.sql", "1_a.sql"], &["1_a.sql", "2_b.sql", "10_c.sql"], &[]);
        order(&["10.sql", "9a.sql", "x.sql"], &["10.sql", "9a.sql", "x.sql"], &[]);
        order(
            &["000010_b.up.sql", "000010_b.down.sql", "9_a.up.sql", "9_a.down.sql"],
            &["9_a.up.sql", "000010_b.up.sql"],
            &["000010_b.down.sql", "9_a.down.sql"],
        );
        order(
            &["V10__c.sql", "V2__b.sql", "V1.10__x.sql", "V1_9__y.sql", "V1__a.sql", "U2__b.sql"],
            &["V1__a.sql", "V1_9__y.sql", "V1.10__x.sql", "V2__b.sql", "V10__c.sql"],
            &["U2__b.sql"],
        );
    }

    #[test]
    fn what_cannot_be_taken_is_refused_by_name() {
        refused(&["1_a.up.sql", "2_b.sql"], &["mixes conventions", "`2_b.sql`"]);
        refused(&["V1__a.sql", "V2_b.sql"], &["mixes conventions", "`V2_b.sql`"]);
        refused(&["V1__a.sql", "V1.0__b.sql"], &["twice"]);
        refused(&["1_a.up.sql", "01_b.up.sql"], &["twice"]);
        refused(&["V1__a.sql", "R__views.sql"], &["`R__views.sql`", "repeats", "a migration of its own"]);
        refused(&["V1__a.sql", "B2__base.sql"], &["baseline"]);
        refused(&["V1__a.sql", "U3__c.sql"], &["refinery", "`U3__c.sql`"]);
        refused(&["a.up.sql", "a.down.sql"], &["no order"]);
        refused(&["1_a.down.sql"], &["nothing but ways back"]);
        refused(&["1.do.sql", "1.undo.sql"], &["`1.undo.sql`", "lead back from `1.do.sql`"]);
        refused(&["1-x.sql", "1-x-rollback.sql"], &["lead back from `1-x.sql`"]);
        refused(&["v1__a.sql", "v10__b.sql"], &["capital `V`"]);
        refused(&["1_a.sql", "2_b.SQL"], &["`2_b.SQL`", "rename it"]);
        refused(&["1_a.sql", "2_b.go"], &["a program"]);
        refused(&["V1__a.sql", "V2__b.java"], &["a program"]);
        refused(&["V1__a.sql", "V1__a.sql.conf"], &["Flyway"]);
        refused(&["a.sql", "sqitch.plan"], &["Sqitch"]);
        refused(&["2026/", "README.md"], &["no file", "name each"]);
    }

    #[test]
    fn what_is_passed_over_is_said() {
        let names =
            ["1_a.sql", ".1_b.sql", "old/", "..data/", "1_c.sql.bak", "README.md", ".gitkeep", "3_count_down.sql"];
        let listing = listed(&names).unwrap();
        assert_eq!(listing.taken, ["1_a.sql", "3_count_down.sql"]);
        let said = listing.odd.join("\n");
        for name in ["`.1_b.sql`", "`old`", "`1_c.sql.bak`"] {
            assert!(said.contains(name), "{said}");
        }
        assert_eq!(listing.odd.len(), 3, "{said}");
    }

    #[test]
    fn what_led_back_is_known_by_what_it_led_back_from() {
        let present = ["schema/1_a.up.sql", "schema/V2__b.sql"];
        let leads_back = |recorded| leads_back_from(recorded, present.into_iter());
        assert!(leads_back("schema/1_a.down.sql") && leads_back("schema/U2__b.sql"));
        for other in ["schema/2_a.down.sql", "other/1_a.down.sql", "schema/U3__b.sql", "1_a.down.sql", "schema"] {
            assert!(!leads_back(other), "{other}");
        }
    }
}
