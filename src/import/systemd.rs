//! Timers of systemd with their services.

use std::collections::BTreeMap;
use std::path::Path;

use super::calendar;
use super::draft::{Draft, Value};
use super::drop_in::{DropIn, drop_ins_of, is_instance, rank};
use super::fires::Rule;
use super::report::{Fate, Place, Report};
use super::unit::{self, Setting, Unit};
use super::{Input, Settings, command, compare};
use crate::time::written;

/// Bounds here.
const JITTER_MOST: u64 = 86_400;
const KILL_AFTER_MOST: u64 = 3600;
const TIMEOUT_MOST: u64 = 365 * 86_400;

pub(super) const NOT_TAKEN: &str = "of a timer that cannot be taken over";
const TAKES_BACK: &str = "it takes back what the lines before it said";
const REPLACED: &str = "a later line, or a drop-in, stands in its place";

const OF_THE_TIMER: &str = "systemd starts no unit that still runs, and so does nothing here: `overlap: skip`; the unit's \
    control group, its limits and its sandbox are not those of the run here; without `User`, a unit of the system runs as \
    root, and here as the user of the node";

/// Reads them all.
pub(super) fn read(inputs: &[Input], settings: &Settings, report: &mut Report) -> Vec<Draft> {
    let (mut units, mut drop_ins) = (Vec::new(), Vec::new());
    for input in inputs {
        let file = report.file(&input.name, &input.text);
        let path = Path::new(&input.name);
        let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        let unit = Unit::read(name, file, &input.text);
        note_frame(&unit, report);
        match DropIn::unit_of(path) {
            Some(of) => drop_ins.push(DropIn { of, rank: rank(path), text: unit }),
            None => units.push((rank(path), unit)),
        }
    }
    let (units, shadowed) = shadowing(units);
    shadowed.iter().for_each(|unit| note_rest(unit, Fate::Ignored, "of a unit that another file replaces", report));
    let mut started = Vec::new();
    let mut pairs = Vec::new();
    for timer in units.iter().filter(|unit| unit.name.ends_with(".timer")) {
        let added = drop_ins_of(&timer.name, &drop_ins);
        let whole = timer.with(&timer.name, added.iter().copied());
        let named = whole.last("Timer", "Unit").map(|setting| setting.value.clone());
        let named = named.unwrap_or_else(|| format!("{}.service", timer.stem()));
        let service = units.iter().find(|unit| unit.name == named);
        let service = service.or_else(|| units.iter().find(|unit| is_instance(&named, &unit.name)));
        if let Some((fate, why)) = is_never_due(&whole, service, &named, &units) {
            report.add(Place { file: timer.file, line: 0 }, fate, why);
            let rest = if fate == Fate::Cannot { NOT_TAKEN } else { "of a timer that is never due" };
            note_rest(&whole, fate, rest, report);
            continue;
        }
        let of_service = service.map_or(Vec::new(), |_| drop_ins_of(&named, &drop_ins));
        started.extend(service.map(|service| service.file));
        started.extend(added.iter().chain(&of_service).map(|drop_in| drop_in.file));
        let service = service.map(|service| service.with(&service.name, of_service.into_iter()));
        pairs.push((whole, service, named));
    }
    let mut drafts = Vec::new();
    for (timer, service, named) in &pairs {
        let mut pair = Pair { timer, service: service.as_ref(), named: named.clone(), settings, report };
        drafts.extend(pair.read());
    }
    for unit in &units {
        match unit.name.ends_with(".timer") || started.contains(&unit.file) {
            true => note_rest(unit, Fate::Cannot, NOT_TAKEN, report),
            false => note_rest(unit, Fate::Ignored, "of a unit that no timer here starts", report),
        }
    }
    for drop_in in &drop_ins {
        let (fate, message) = drop_in.fate(&units, started.contains(&drop_in.text.file));
        note_rest(&drop_in.text, fate, &message, report);
    }
    drafts
}

/// Why systemd itself starts nothing for a timer.
fn is_never_due(timer: &Unit, service: Option<&Unit>, named: &str, units: &[Unit]) -> Option<(Fate, String)> {
    const MASKED: &str = "is masked (empty, or a link to /dev/null)";
    if timer.is_masked {
        return Some((Fate::Ignored, format!("it {MASKED}: it is never due")));
    }
    if timer.stem().ends_with('@') {
        if units.iter().any(|unit| is_instance(&unit.name, &timer.name)) {
            return Some((Fate::Ignored, "it is a template: its instances are due, and are read".to_owned()));
        }
        let name = timer.name.replace('@', "@NAME");
        let why = format!("it is a template, of which only instances are due: name a link `{name}` to it for each");
        return Some((Fate::Cannot, why));
    }
    let is_masked = service.is_some_and(|service| service.is_masked);
    is_masked.then(|| (Fate::Ignored, format!("`{named}` {MASKED}: it starts nothing")))
}

/// The units that count, and those in whose place a file of an administrator stands.
fn shadowing(units: Vec<(usize, Unit)>) -> (Vec<Unit>, Vec<Unit>) {
    let mut least: BTreeMap<String, usize> = BTreeMap::new();
    for (rank, unit) in &units {
        let known = least.entry(unit.name.clone()).or_insert(*rank);
        *known = (*known).min(*rank);
    }
    let (count, shadowed): (Vec<_>, Vec<_>) =
        units.into_iter().partition(|(rank, unit)| least.get(&unit.name) == Some(rank));
    let only = |units: Vec<(usize, Unit)>| units.into_iter().map(|(_, unit)| unit).collect();
    (only(count), only(shadowed))
}

/// Notes the lines of a file of which nothing was noted.
fn note_rest(unit: &Unit, fate: Fate, message: &str, report: &mut Report) {
    unit.settings.iter().for_each(|setting| report.unless_noted(place(setting), fate, message));
    let wrong = if fate == Fate::Cannot { "it is no line of a unit file" } else { message };
    let of_unit = |line: &usize| Place { file: unit.file, line: *line };
    unit.wrong.iter().for_each(|line| report.unless_noted(of_unit(line), fate, wrong));
}

fn place(setting: &Setting) -> Place {
    Place { file: setting.file, line: setting.line }
}

fn note_frame(unit: &Unit, report: &mut Report) {
    let mut note = |line: usize, fate, message: &str| report.add(Place { file: unit.file, line }, fate, message);
    unit.headers.iter().for_each(|line| note(*line, Fate::Taken, "a section"));
    unit.comments.iter().for_each(|line| note(*line, Fate::Ignored, "a comment"));
    for setting in &unit.settings {
        (setting.line + 1..=setting.last).for_each(|line| note(line, Fate::Taken, "it goes on from the line above"));
    }
}

struct Pair<'p> {
    timer: &'p Unit,
    service: Option<&'p Unit>,
    named: String,
    settings: &'p Settings,
    report: &'p mut Report,
}

impl<'p> Pair<'p> {
    fn note(&mut self, setting: &Setting, fate: Fate, message: &str) {
        self.report.add(place(setting), fate, message);
    }

    fn read(&mut self) -> Option<Draft> {
        let timer = self.timer;
        let calendars = timer.all("Timer", "OnCalendar");
        let spans = ["OnUnitActiveSec", "OnUnitInactiveSec"].into_iter().find_map(|key| timer.last("Timer", key));
        let Some(first) = calendars.first().copied().or(spans) else {
            let is_own = |setting: &&Setting| setting.section == "Timer" && setting.key.starts_with("On");
            let stands = |setting: &&Setting| !setting.value.is_empty() && !timer.is_replaced(setting);
            let own = timer.settings.iter().filter(is_own).find(stands);
            let message = match own {
                Some(_) => {
                    "it is due once, after the machine or systemd has started: replicas start at any time; a migration \
                            is made once in the life of a cluster"
                }
                None => "it has no `OnCalendar`, and nothing else that makes it due",
            };
            let place = own.map_or(Place { file: timer.file, line: 0 }, place);
            self.report.add(place, Fate::Cannot, message);
            return None;
        };
        let mut draft = Draft::new(command::kept(timer.stem()), place(first));
        let described = self.service.and_then(|service| service.last("Unit", "Description"));
        if let Some(text) = described.or_else(|| timer.last("Unit", "Description")) {
            draft.set("description", Value::Text(self.resolved(&text.value)));
        }
        if calendars.is_empty() {
            self.span(&mut draft, first)?
        } else {
            self.calendar(&mut draft, &calendars)?
        }
        self.timing(&mut draft);
        let task = self.task(&mut draft);
        if let Err((unit, setting, why)) = task {
            let place = setting.map_or(Place { file: unit.file, line: 0 }, place);
            self.report.add(place, Fate::Cannot, why);
            return None;
        }
        draft.set("overlap", Value::text("skip"));
        self.note_timer();
        self.report.add(Place { file: timer.file, line: 0 }, Fate::Differs, OF_THE_TIMER);
        self.report.add(draft.place, Fate::Taken, "a job");
        Some(draft)
    }

    fn span(&mut self, draft: &mut Draft, setting: &Setting) -> Option<()> {
        let Some(length) = unit::length(&setting.value).filter(|length| length.as_secs() > 0) else {
            self.note(setting, Fate::Cannot, "it is no length of time of a second or more");
            return None;
        };
        let length = std::time::Duration::from_secs(length.as_secs());
        draft.set("schedule", Value::Text(format!("@every {}", written(length))));
        draft.rule = Rule::Unknown("systemd counts from the run before".to_owned());
        let message = "systemd counts from the run before, and here it is counted from 1970-01-01T00:00:00Z, so that every \
                       node computes the same instants";
        self.note(setting, Fate::Differs, message);
        Some(())
    }

    fn calendar(&mut self, draft: &mut Draft, calendars: &[&Setting]) -> Option<()> {
        let (mut expressions, mut crons, mut zones) = (Vec::new(), Vec::new(), Vec::new());
        let mut all_hours = true;
        for setting in calendars {
            let event = match calendar::read(&self.resolved(&setting.value)) {
                Ok(event) => event,
                Err(why) => {
                    self.note(setting, Fate::Cannot, &why);
                    return None;
                }
            };
            self.note(setting, Fate::Taken, "`schedule`");
            draft.calendars.push(self.resolved(&setting.value));
            zones.push(event.zone.unwrap_or(self.settings.zone));
            expressions.push(event.expression);
            crons.push(event.cron);
            all_hours &= event.all_hours;
        }
        let zone = zones[0];
        if zones.iter().any(|other| *other != zone) {
            self.note(calendars[0], Fate::Cannot, "its times are of several zones: write a timer for each");
            return None;
        }
        let schedule = match expressions.len() {
            1 => Value::Text(expressions.remove(0)),
            _ => Value::List(expressions),
        };
        draft.set("schedule", schedule);
        draft.set("timezone", Value::text(zone.name()));
        if !all_hours && !compare::next_changes(zone, self.settings.now).is_empty() {
            draft.set("dst", Value::Map(vec![("gap".to_owned(), Value::text("skip"))]));
        }
        draft.rule = match crons.into_iter().collect::<Option<Vec<_>>>() {
            Some(crons) => Rule::Cron(crons, zone),
            None => Rule::Unknown("it names years, or days from the end of the month".to_owned()),
        };
        Some(())
    }

    fn timing(&mut self, draft: &mut Draft) {
        let is_persistent = self.timer.last("Timer", "Persistent").is_some_and(|setting| unit::is_true(&setting.value));
        if is_persistent {
            let words = [("run", "latest"), ("within", "none")];
            let words = words.map(|(key, word)| (key.to_owned(), Value::text(word)));
            draft.set("missed", Value::Map(words.to_vec()));
        } else {
            draft.set("missed", Value::text("skip"));
        }
        let delay = self.timer.last("Timer", "RandomizedDelaySec").and_then(|setting| unit::length(&setting.value));
        if let Some(seconds) = delay.map(|delay| delay.as_secs()).filter(|seconds| *seconds > 0) {
            draft.set("jitter", Value::Text(format!("{}s", seconds.min(JITTER_MOST))));
        }
    }

    fn note_timer(&mut self) {
        let timer = self.timer;
        let has_calendar = !timer.all("Timer", "OnCalendar").is_empty();
        for setting in &timer.settings {
            let (fate, message) = match (setting.section.as_str(), setting.key.as_str()) {
                _ if setting.value.is_empty() => (Fate::Taken, TAKES_BACK),
                _ if timer.is_replaced(setting) => (Fate::Ignored, REPLACED),
                ("Timer", "OnCalendar" | "Unit" | "Persistent") => (Fate::Taken, "the same here"),
                ("Timer", "RandomizedDelaySec") => (
                    Fate::Differs,
                    "`jitter`: the delay is computed from the job's name and the instant, not picked at random",
                ),
                ("Timer", "FixedRandomDelay") => (Fate::Differs, "the delay is another for each instant here"),
                ("Timer", "AccuracySec") => (Fate::Taken, "it starts on the second here"),
                ("Timer", "OnUnitActiveSec" | "OnUnitInactiveSec") if has_calendar => {
                    (Fate::Differs, "left out: it is due by `OnCalendar` alone")
                }
                ("Timer", "OnUnitActiveSec" | "OnUnitInactiveSec") => (Fate::Taken, "`schedule`"),
                ("Timer", "OnBootSec" | "OnStartupSec" | "OnActiveSec") => {
                    (Fate::Differs, "left out: replicas start at any time, and a start is no occasion to run it")
                }
                ("Timer", "WakeSystem" | "RemainAfterElapse") => {
                    (Fate::Differs, "it is about the machine, and was left out")
                }
                ("Timer", _) => (Fate::Differs, "it has no counterpart, and was left out"),
                ("Unit", "Description") => (Fate::Taken, "`description`"),
                ("Unit", "Documentation") | ("Install", _) => (Fate::Ignored, "of the unit"),
                ("Unit", key) if key.starts_with("Condition") || key.starts_with("Assert") => {
                    (Fate::Differs, "conditions of units are not looked at here: let the command check it")
                }
                ("Unit", _) => (Fate::Ignored, "the order of units, which there are none of here"),
                _ => (Fate::Differs, "it is not known here, and was left out"),
            };
            self.report.unless_noted(place(setting), fate, message);
        }
    }

    /// `%h` is the home of the user that the manager runs as: here of the one that the node runs as.
    fn put_home(&mut self, setting: &Setting, words: &mut [unit::Word]) {
        for word in words.iter_mut().filter(|word| word.text.contains("%h")) {
            word.text = word.text.replace("%h", "${HOME}");
            self.note(setting, Fate::Differs, "`%h` is `$HOME` here, of the user that the node runs as");
        }
    }

    /// Specifiers that do not depend on the machine.
    fn resolved(&self, text: &str) -> String {
        let full = self.named.as_str();
        let stem = full.rsplit_once('.').map_or(full, |(stem, _)| stem);
        let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, c == '%') {
                (_, false) => out.push(c),
                _ => match chars.next() {
                    Some('%') => out.push('%'),
                    Some('n') => out.push_str(full),
                    Some('N') => out.push_str(stem),
                    Some('p' | 'P') => out.push_str(prefix),
                    Some('i' | 'I') => out.push_str(instance),
                    Some('t') => out.push_str("/run"),
                    Some('S') => out.push_str("/var/lib"),
                    Some('C') => out.push_str("/var/cache"),
                    Some('L') => out.push_str("/var/log"),
                    Some('E') => out.push_str("/etc"),
                    Some('T') => out.push_str("/tmp"),
                    Some(other) => out.extend(['%', other]),
                    None => out.push('%'),
                },
            }
        }
        out
    }

    fn task(&mut self, draft: &mut Draft) -> Result<(), (&'p Unit, Option<&'p Setting>, String)> {
        let Some(service) = self.service else {
            let words = ["systemctl", "start", "--wait", &self.named].map(str::to_owned);
            draft.set("command", Value::List(words.to_vec()));
            let message = format!(
                "`{}` is not among what was read: the job starts that unit and waits for its end, on the machine of the \
                 leader, where the unit has to be",
                self.named
            );
            self.report.add(Place { file: self.timer.file, line: 0 }, Fate::Differs, message);
            return Ok(());
        };
        let mut steps = Vec::new();
        let mut single = None;
        for key in ["ExecStartPre", "ExecStart", "ExecStartPost"] {
            for setting in service.all("Service", key) {
                let wrong = |why: &str| (service, Some(setting), why.to_owned());
                let (prefix, line) = unit::prefix(&setting.value);
                let mut words = unit::words(line).ok_or_else(|| wrong("a quote in it has no end"))?;
                words.iter_mut().for_each(|word| word.text = self.resolved(&word.text));
                if !prefix.keeps_dollars && service.last("Service", "User").is_none() {
                    self.put_home(setting, &mut words);
                }
                if let Some(word) = words.iter().find(|word| has_specifier(&word.text)) {
                    return Err(wrong(&format!(
                        "`{}` has a specifier of the machine: write what it stands for",
                        word.text
                    )));
                }
                if prefix.has_own_name && words.len() > 1 {
                    words.remove(1);
                }
                if words.is_empty() {
                    return Err(wrong("it names no program"));
                }
                if prefix.is_privileged {
                    self.note(setting, Fate::Differs, "it runs with more rights there than the unit has");
                }
                self.note(setting, Fate::Taken, "the command");
                single = (key == "ExecStart" && !prefix.ignores_failure && !has_variable(&words, &prefix))
                    .then(|| words.iter().map(|word| word.text.replace("$$", "$")).collect::<Vec<_>>());
                steps.push(step(&words, &prefix));
            }
        }
        if steps.is_empty() {
            return Err((service, None, "its service has no `ExecStart`".to_owned()));
        }
        let user = service.last("Service", "User").map(|setting| setting.value.as_str());
        let user = user.filter(|user| !matches!(*user, "root" | "0"));
        let mut words = match (steps.len(), single) {
            (1, Some(words)) => words,
            _ => {
                let lines: Vec<String> = steps.iter().map(|step| format!("{step}\n")).collect();
                let text = format!("set -e\n{}", lines.concat());
                vec!["/bin/sh".to_owned(), "-c".to_owned(), text]
            }
        };
        match user {
            Some(user) => {
                let user = self.resolved(user);
                words.splice(0..0, ["runuser", "-u", &user, "--"].map(str::to_owned));
                draft.set("command", Value::List(words));
            }
            None if words.len() == 3 && words[..2] == ["/bin/sh", "-c"] => {
                draft.set("shell", Value::Text(words.remove(2)));
            }
            None => draft.set("command", Value::List(words)),
        }
        self.process(draft, service);
        self.note_service(service);
        Ok(())
    }

    /// The surroundings of the command.
    fn process(&self, draft: &mut Draft, service: &Unit) {
        let directory =
            service.last("Service", "WorkingDirectory").map(|setting| setting.value.trim_start_matches('-'));
        if let Some(directory) = directory.filter(|directory| directory.starts_with('/')) {
            draft.set("dir", Value::Text(self.resolved(directory)));
        }
        let mut variables: Vec<(String, Value)> = Vec::new();
        for setting in service.all("Service", "Environment") {
            for word in unit::words(&setting.value).unwrap_or_default() {
                if let Some((name, value)) = word.text.split_once('=') {
                    variables.retain(|(known, _)| known != name);
                    variables.push((name.to_owned(), Value::Text(self.resolved(value))));
                }
            }
        }
        let files = service.all("Service", "EnvironmentFile").into_iter();
        let files: Vec<String> = files.map(|setting| self.resolved(setting.value.trim_start_matches('-'))).collect();
        if !variables.is_empty() {
            draft.set("env", Value::Map(variables));
        }
        if !files.is_empty() {
            draft.set("env_file", Value::List(files));
        }
        let is_oneshot = service.last("Service", "Type").is_some_and(|setting| setting.value == "oneshot");
        let key = if is_oneshot { "TimeoutStartSec" } else { "RuntimeMaxSec" };
        let limit = service.last("Service", key).and_then(|setting| unit::length(&setting.value));
        if let Some(seconds) = limit.map(|limit| limit.as_secs()).filter(|seconds| *seconds > 0) {
            draft.set("timeout", Value::Text(format!("{}s", seconds.min(TIMEOUT_MOST))));
        }
        let grace = service.last("Service", "TimeoutStopSec").and_then(|setting| unit::length(&setting.value));
        if let Some(grace) = grace {
            draft.set("kill_after", Value::Text(format!("{}s", grace.as_secs().min(KILL_AFTER_MOST))));
        }
    }

    fn note_service(&mut self, service: &Unit) {
        let is_oneshot = service.last("Service", "Type").is_some_and(|setting| setting.value == "oneshot");
        for setting in &service.settings {
            let is_optional = setting.value.starts_with('-');
            let (fate, message) = match (setting.section.as_str(), setting.key.as_str()) {
                _ if setting.value.is_empty() => (Fate::Taken, TAKES_BACK),
                _ if service.is_replaced(setting) => (Fate::Ignored, REPLACED),
                ("Service", "Type") if matches!(setting.value.as_str(), "oneshot" | "simple" | "exec" | "idle") => {
                    (Fate::Taken, "a run ends when its command ends")
                }
                ("Service", "Type") => (Fate::Differs, "a run ends when its command ends, whatever it leaves running"),
                ("Service", "ExecStart" | "ExecStartPre" | "ExecStartPost") => (Fate::Taken, "the command"),
                ("Service", "User") if matches!(setting.value.as_str(), "root" | "0") => {
                    (Fate::Differs, "it runs as root there: here the node has to run as root")
                }
                ("Service", "User") => (Fate::Differs, "through `runuser`, for which the node has to run as root"),
                ("Service", "EnvironmentFile") if is_optional => {
                    (Fate::Differs, "`env_file`, which has to be there here, and in which each line is taken as it is")
                }
                ("Service", "EnvironmentFile") => (Fate::Taken, "`env_file`"),
                ("Service", "Environment") => (Fate::Taken, "`env`"),
                ("Service", "WorkingDirectory") if setting.value.trim_start_matches('-').starts_with('/') => {
                    (Fate::Taken, "`dir`")
                }
                ("Service", "TimeoutStartSec") if is_oneshot => (Fate::Taken, "`timeout`"),
                ("Service", "RuntimeMaxSec") => (Fate::Taken, "`timeout`"),
                ("Service", "TimeoutStopSec") => (Fate::Taken, "`kill_after`"),
                ("Service", "Restart" | "RestartSec") => {
                    (Fate::Differs, "left out: `retry` repeats a run that has failed")
                }
                ("Service", "StandardOutput" | "StandardError" | "SyslogIdentifier") => {
                    (Fate::Differs, "what it writes is logged by the node, and kept with the run (`fencron logs`)")
                }
                ("Service", "ExecStop" | "ExecStopPost" | "ExecCondition" | "ExecReload") => {
                    (Fate::Differs, "left out: let the command do it")
                }
                ("Unit", "Description") => (Fate::Taken, "`description`"),
                ("Unit", "Documentation") | ("Install", _) => (Fate::Ignored, "of the unit"),
                ("Unit", "OnFailure" | "OnSuccess") => (Fate::Differs, "left out: see `after` and `notify`"),
                ("Unit", key) if key.starts_with("Condition") || key.starts_with("Assert") => {
                    (Fate::Differs, "conditions of units are not looked at here: let the command check it")
                }
                ("Unit", "Requires" | "BindsTo" | "Requisite" | "PartOf") => {
                    (Fate::Differs, "left out: there are no other units here that it could need")
                }
                ("Unit", _) => (Fate::Ignored, "the order of units, which there are none of here"),
                ("Service", _) => (Fate::Differs, "a setting of the process that has no counterpart, and was left out"),
                _ => (Fate::Differs, "it is not known here, and was left out"),
            };
            self.report.unless_noted(place(setting), fate, message);
        }
    }
}

/// Whether something is left that only the machine knows.
fn has_specifier(text: &str) -> bool {
    const OF_THE_MACHINE: &str = "abBdDfgGhHjJlmMoqsuUvVwW";
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '%' && chars.peek().is_some_and(|next| OF_THE_MACHINE.contains(*next)) && text.len() < 40 {
            return true;
        }
    }
    false
}

fn has_variable(words: &[unit::Word], prefix: &unit::Prefix) -> bool {
    !prefix.keeps_dollars && words.iter().any(|word| word.text.replace("$$", "").contains('$'))
}

/// One command of the unit as a line of a shell.
fn step(words: &[unit::Word], prefix: &unit::Prefix) -> String {
    let shown: Vec<String> = words.iter().map(|word| shell_word(word, prefix.keeps_dollars)).collect();
    let line = shown.join(" ");
    if prefix.ignores_failure { format!("{line} || true") } else { line }
}

/// `${A}` stays a variable within its word, `$A` as a word of its own is divided at its blanks, `$$` is a `$`.
fn shell_word(word: &unit::Word, keeps_dollars: bool) -> String {
    let text = word.text.as_str();
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !keeps_dollars && !word.is_quoted && text.strip_prefix('$').is_some_and(is_name) {
        return text.to_owned();
    }
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    if keeps_dollars || !text.contains('$') {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
        return if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { quoted(text) };
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        if at > 0 {
            out += &quoted(&rest[..at]);
        }
        rest = &rest[at + 1..];
        let braced = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).filter(|(name, _)| is_name(name));
        if let Some((name, behind)) = braced {
            out += &format!("\"${{{name}}}\"");
            rest = behind;
        } else {
            rest = rest.strip_prefix('$').unwrap_or(rest);
            out += "'$'";
        }
    }
    if !rest.is_empty() {
        out += &quoted(rest);
    }
    out
}
