//! Crontabs: those of users, and those of the system with a column for the user.

use std::path::Path;

use chrono_tz::Tz;

use super::command::{name, with_input};
use super::draft::{Draft, Mail, Value};
use super::fields::{self, Dialect, Reading};
use super::fires::{Clocks, Rule};
use super::report::{Fate, Place, Report};
use super::{Input, Settings, compare};

/// Users that a line of a crontab of the system may name before its command, and that no program is called.
const USERS: &[&str] = &[
    "root", "www-data", "daemon", "ubuntu", "debian", "ec2-user", "centos", "admin", "postgres", "apache", "_apt", "pi",
];

/// How many lines of comments are carried over to one job.
const COMMENTS_MOST: usize = 20;

/// How many receivers a mail may have.
const RECEIVERS_MOST: usize = 20;

/// The longest delay that `RANDOM_DELAY` takes, in minutes.
const DELAY_MOST: u32 = 24 * 60;

const BLANK: [char; 2] = [' ', '\t'];

const OF_THE_FILE: &str = "\
    cron starts commands in the home directory of their user, with PATH=/usr/bin:/bin and few other variables, and mails \
    what they write; here they start where the node was started, with its variables, unless `dir` and `env` say \
    otherwise, `fencron logs` has what they wrote, and `notify` reports runs that ended badly; of one job, 10 runs at once \
    are the most unless `max_running` says otherwise";

/// Reads them all.
pub(super) fn read(inputs: &[Input], settings: &Settings, report: &mut Report) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let changes = !compare::next_changes(settings.zone, settings.now).is_empty();
    for input in inputs {
        let file = report.file(&input.name, &input.text);
        let by_path = has_users(&input.name);
        let is_open = settings.with_users.is_none() && !by_path && owner(&input.name).is_none();
        let by_text = is_open && all_name_users(&input.text);
        let with_users = settings.with_users.unwrap_or(by_text || by_path);
        if by_text {
            let message = "each line names a user before its command, so it is read as a crontab of the system: \
                           `--user` says that it is none";
            report.add(Place { file, line: 0 }, Fate::Differs, message);
        }
        let (env, comments) = (Vec::new(), Vec::new());
        let mut table = Table { settings, with_users, env, comments, report, changes_own: changes };
        let before = drafts.len();
        let mut lines = input.text.split('\n').enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            let place = Place { file, line: index + 1 };
            let is_cut = lines.peek().is_none();
            drafts.extend(table.line(line, place, is_cut));
        }
        if drafts.len() > before {
            let place = Place { file, line: 0 };
            report.add(place, Fate::Differs, OF_THE_FILE);
            if !with_users {
                let whose = owner(&input.name).map_or_else(|| "a user".to_owned(), |user| format!("`{user}`"));
                let message = format!(
                    "it is the crontab of {whose}, and cron runs it as its owner; here its jobs run as the node does: run \
                     the node as that user, or begin the commands with `runuser -u USER --`"
                );
                report.add(place, Fate::Differs, message);
            }
        }
    }
    drafts
}

/// Whether a file with this path has a column for the user.
fn has_users(path: &str) -> bool {
    let path = Path::new(path);
    let is_of = |name: &str| path.parent().is_some_and(|parent| parent.ends_with(name));
    is_of("cron.d") || (is_of("etc") && path.ends_with("crontab"))
}

/// Whether each line that is due has the name of a user before its command.
fn all_name_users(text: &str) -> bool {
    let is_entry = |line: &&str| !line.is_empty() && !line.starts_with('#') && assignment(line).is_none();
    let entries = text.lines().map(|line| line.trim_matches(['\r', ' ', '\t', '-'])).filter(is_entry);
    let (mut named, mut all) = (0, 0);
    for entry in entries {
        let (_, rest) = words(entry, if entry.starts_with('@') { 1 } else { 5 });
        let (user, command) = words(rest, 1);
        all += 1;
        named += usize::from(user.first().is_some_and(|user| USERS.contains(user)) && !command.is_empty());
    }
    all > 0 && named == all
}

/// The user whose crontab it is, by where cron keeps it.
fn owner(path: &str) -> Option<&str> {
    let path = Path::new(path);
    let parent = path.parent()?;
    let is_spool = parent.ends_with("spool/cron/crontabs") || parent.ends_with("spool/cron");
    if is_spool { path.file_name()?.to_str() } else { None }
}

/// One file while it is read.
struct Table<'t> {
    settings: &'t Settings,
    with_users: bool,
    env: Vec<(String, String)>,
    comments: Vec<String>,
    report: &'t mut Report,
    /// The clocks of the machine's zone are changed from time to time.
    changes_own: bool,
}

/// When a line is due.
struct When {
    reading: Reading,
    zone: Tz,
    /// What the zone's clocks do has a part in it.
    changes: bool,
}

impl Table<'_> {
    /// One line; `is_cut`: no line end is behind it.
    fn line(&mut self, line: &str, place: Place, is_cut: bool) -> Option<Draft> {
        let line = match line.strip_suffix('\r') {
            Some(line) => {
                if !line.trim_matches(BLANK).is_empty() && !line.trim_start_matches(BLANK).starts_with('#') {
                    let message = "the carriage return at the end of the line is part of it for cron, and was removed";
                    self.report.add(place, Fate::Differs, message);
                }
                line
            }
            None => line,
        };
        let text = line.trim_start_matches(BLANK);
        if text.is_empty() {
            return None;
        }
        if let Some(comment) = text.strip_prefix('#') {
            self.comment(comment, place);
            return None;
        }
        if text.contains('\u{fffd}') {
            let message = "it is not UTF-8 throughout: what could not be read is replaced by U+FFFD";
            self.report.add(place, Fate::Differs, message);
        }
        if is_cut {
            let message = "the last line has no line end: cron ignores it, or refuses the file";
            self.report.add(place, Fate::Differs, message);
        }
        if let Some((name, value)) = assignment(text) {
            self.set(name, value, place);
            return None;
        }
        let draft = self.entry(text, place);
        if let Err(why) = &draft {
            self.report.add(place, Fate::Cannot, why.clone());
            self.comments.clear();
        }
        draft.ok()
    }

    fn comment(&mut self, comment: &str, place: Place) {
        let text = comment.trim_matches(['#', ' ', '\t']);
        let mut parts = text.split_whitespace();
        let first: Vec<&str> = parts.by_ref().take(5).collect();
        let is_job = fields::read(&first, Dialect::Vixie).is_ok() && parts.next().is_some();
        let message = if is_job { "a line that is commented out" } else { "a comment" };
        self.report.add(place, Fate::Ignored, message);
        if !text.is_empty() && self.comments.len() < COMMENTS_MOST {
            self.comments.push(text.to_owned());
        }
    }

    /// A variable for the lines below it.
    fn set(&mut self, name: String, value: String, place: Place) {
        let (fate, message) = meaning(&name, &value);
        self.report.add(place, fate, message);
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value));
    }

    fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn entry(&mut self, text: &str, place: Place) -> Result<Draft, String> {
        let unlogged = text.strip_prefix('-');
        if unlogged.is_some() {
            let message =
                "the `-`, by which cron does not log the start, has no counterpart: each run is in the history";
            self.report.add(place, Fate::Differs, message);
        }
        let text = unlogged.unwrap_or(text);
        let (parts, rest) = words(text, if text.starts_with('@') { 1 } else { 5 });
        let when = self.when(&parts, place)?;
        let (user, command) = match self.with_users {
            true => {
                let (user, command) = words(rest, 1);
                (user.first().copied(), command)
            }
            false => (None, rest),
        };
        if command.is_empty() || rest.starts_with('*') {
            let with = if self.with_users { "a user and a command" } else { "a command" };
            return Err(format!("{with} must follow the five fields: cron refuses it"));
        }
        if let Some(user) = user.filter(|user| user.contains(['/', '$', '=', '"'])) {
            return Err(format!(
                "`{user}` stands where the user belongs, and is none: cron refuses it; with `--user` the files have \
                 no such column"
            ));
        }
        self.look_for_user(command, place);
        let command = self.without_options(command, place);
        let (name, arguments) = name(command);
        let mut draft = Draft { arguments, mail: self.mail(), ..Draft::new(name, place) };
        let comments = std::mem::take(&mut self.comments);
        draft.comments = comments;
        self.schedule(&mut draft, &when);
        self.task(&mut draft, command, user, place);
        draft.set("overlap", Value::text("allow"));
        draft.set("missed", Value::text("skip"));
        self.report.add(place, Fate::Taken, "a job");
        Ok(draft)
    }

    /// Where cron mails what the commands write; `None`: nothing is said of it.
    fn mail(&self) -> Option<Mail> {
        let to = mail_to(self.env("MAILTO")?).ok()?;
        let from = self.env("MAILFROM").and_then(address);
        Some(Mail { to, from })
    }

    /// A user where a file has no column for one.
    fn look_for_user(&mut self, command: &str, place: Place) {
        let (first, rest) = words(command, 1);
        if let Some(user) = first.first().filter(|first| !self.with_users && USERS.contains(first) && !rest.is_empty())
        {
            let message = format!("`{user}` is part of the command, and looks like a user: with `--system` it is one");
            self.report.add(place, Fate::Differs, message);
        }
    }

    /// cronie's `-n` before a command.
    fn without_options<'c>(&mut self, command: &'c str, place: Place) -> &'c str {
        let rest = command.strip_prefix("-n").filter(|rest| rest.starts_with(BLANK));
        let Some(rest) = rest else { return command };
        let message = "`-n`, by which cronie mails only after a failure, is left out: see `notify`";
        self.report.add(place, Fate::Differs, message);
        rest.trim_start_matches(BLANK)
    }

    fn when(&mut self, parts: &[&str], place: Place) -> Result<When, String> {
        let expression = match parts {
            [named] if named.starts_with('@') => self.named(named, place)?,
            _ => parts.join(" "),
        };
        let parts: Vec<&str> = expression.split(' ').collect();
        if parts.len() < 5 {
            return Err(format!("it has {} of the five fields of a time: cron refuses it", parts.len()));
        }
        let mut reading = fields::read(&parts, Dialect::Vixie).map_err(|why| anacron(&parts).unwrap_or(why))?;
        if reading.random {
            let message =
                "cron picks a value for `~` each time that it reads the file; `H` is a value of the job's own";
            self.report.add(place, Fate::Differs, message);
        }
        let zone = match self.env("CRON_TZ").filter(|zone| !zone.is_empty()) {
            None => self.settings.zone,
            Some(name) => {
                reading.cron.clocks = Clocks::Shown;
                let known = name.trim_start_matches(':').parse::<Tz>();
                known.map_err(|_| format!("the zone of `CRON_TZ={name}` is not one of the IANA database"))?
            }
        };
        let changes = match zone == self.settings.zone {
            true => self.changes_own,
            false => !compare::next_changes(zone, self.settings.now).is_empty(),
        };
        Ok(When { reading, zone, changes })
    }

    /// The five fields of `@daily`.
    fn named(&mut self, name: &str, place: Place) -> Result<String, String> {
        Ok(match name {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            // No star for the hour: they are fixed times.
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            "@every_minute" => {
                self.report.add(place, Fate::Differs, "`@every_minute` is known to FreeBSD's cron only");
                "* * * * *"
            }
            "@reboot" => {
                return Err("replicas start at any time, and none of them is the machine that was booted: what a machine \
                            does when it starts belongs to its init (a unit of systemd with WantedBy=multi-user.target); \
                            what is done once in the life of a cluster is a migration"
                    .to_owned());
            }
            _ => {
                let seconds = name[1..].parse::<u32>().is_ok() || name == "@every_second";
                return Err(match seconds {
                    true => format!("`{name}` counts from the end of the run before (FreeBSD): see `@every`"),
                    false => format!("`{name}` is not a time that cron knows"),
                });
            }
        }
        .to_owned())
    }

    fn schedule(&self, draft: &mut Draft, when: &When) {
        let Reading { cron, here, interval_here, random } = &when.reading;
        draft.set("schedule", Value::text(here.as_str()));
        draft.set("timezone", Value::text(when.zone.name()));
        let follows_clocks = cron.clocks != Clocks::Vixie { wild: false };
        if follows_clocks && !interval_here && when.changes {
            let words = [("gap", "skip"), ("fold", "both")];
            let words = words.map(|(key, word)| (key.to_owned(), Value::text(word)));
            draft.set("dst", Value::Map(words.to_vec()));
        }
        if let Some(minutes) = self.env("RANDOM_DELAY").and_then(delay).filter(|minutes| *minutes > 0) {
            draft.set("jitter", Value::text(format!("{minutes}m")));
        }
        draft.rule = match random {
            true => Rule::Unknown("cron picks a value at random".to_owned()),
            false => Rule::Cron(vec![*cron], when.zone),
        };
    }

    fn task(&mut self, draft: &mut Draft, command: &str, user: Option<&str>, place: Place) {
        let (text, input) = split_input(command);
        let shell = self.env("SHELL").filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh").to_owned();
        let is_sh = shell == "/bin/sh";
        let text = match input {
            Some(input) if is_sh => with_input(&text, &input),
            Some(input) => with_input("exec \"$0\" -c \"$1\"", &input),
            None => text,
        };
        let mut words: Vec<String> = match (is_sh, split_input(command)) {
            (true, _) => vec![shell, "-c".to_owned(), text.clone()],
            (false, (_, None)) => vec![shell, "-c".to_owned(), text.clone()],
            (false, (whole, Some(_))) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone(), shell, whole],
        };
        match user {
            None | Some("root") if is_sh => draft.set("shell", Value::Text(text)),
            None | Some("root") => draft.set("command", Value::List(words)),
            Some(user) => {
                let mut with = ["runuser", "-u", user, "--"].map(str::to_owned).to_vec();
                with.append(&mut words);
                draft.set("command", Value::List(with));
            }
        }
        match user {
            None => {}
            Some("root") => {
                let message = "it runs as root there: here the node has to run as root";
                self.report.add(place, Fate::Differs, message);
            }
            Some(user) => {
                let message = format!(
                    "it runs as `{user}` there, and here through `runuser`, for which the node has to run as root; where \
                     the node runs as `{user}`, take `runuser -u {user} --` out"
                );
                self.report.add(place, Fate::Differs, message);
            }
        }
        let is_given = |(name, _): &&(String, String)| !NOT_GIVEN.contains(&name.as_str());
        let given = self.env.iter().filter(is_given).map(|(name, value)| (name.clone(), Value::text(value.as_str())));
        let given: Vec<_> = given.collect();
        if let Some(home) = self.env("HOME").filter(|home| home.starts_with('/')) {
            draft.set("dir", Value::text(home));
        }
        if !given.is_empty() {
            draft.set("env", Value::Map(given));
        }
    }
}

/// Variables that are for cron, or that cron sets itself.
const NOT_GIVEN: [&str; 10] = [
    "MAILTO",
    "MAILFROM",
    "CONTENT_TYPE",
    "CONTENT_TRANSFER_ENCODING",
    "CRON_TZ",
    "RANDOM_DELAY",
    "LOGNAME",
    "USER",
    "START_HOURS_RANGE",
    "NO_MAIL_OUTPUT",
];

/// The addresses in `MAILTO`; none: no mail is sent.
fn mail_to(value: &str) -> Result<Vec<String>, String> {
    let words: Vec<&str> = value.split([',', ' ', '\t']).filter(|word| !word.is_empty()).collect();
    if words.len() > RECEIVERS_MOST {
        return Err(format!("it names more than {RECEIVERS_MOST} receivers"));
    }
    let read = |word: &&str| address(word).ok_or_else(|| format!("`{word}` is no address"));
    words.iter().map(read).collect()
}

/// An address as a channel takes it; of a user, the one on this machine.
fn address(word: &str) -> Option<String> {
    let is_name = |text: &str| {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "_-+".contains(c);
        text.len() <= 64 && text.split('.').all(|part| !part.is_empty() && part.chars().all(is_fine))
    };
    match word.split_once('@') {
        None => is_name(word).then(|| format!("{word}@localhost")),
        Some((name, host)) => (is_name(name) && is_name(host) && !host.contains(['_', '+'])).then(|| word.to_owned()),
    }
}

fn delay(value: &str) -> Option<u32> {
    value.trim().parse().ok().filter(|minutes| *minutes <= DELAY_MOST)
}

/// What becomes of a variable.
fn meaning(name: &str, value: &str) -> (Fate, String) {
    match name {
        "SHELL" => (Fate::Taken, "the shell of the jobs below".to_owned()),
        "HOME" => (Fate::Taken, "the directory (`dir`) and a variable of the jobs below".to_owned()),
        "MAILTO" => match mail_to(value) {
            Ok(to) if to.is_empty() => (Fate::Taken, "no mail is sent here either".to_owned()),
            Ok(_) => {
                let message = "a channel under `notify`: it mails when runs have ended badly or a job has recovered, \
                               through the mail server of the node, and not what each run writes: `fencron logs` has that";
                (Fate::Differs, message.to_owned())
            }
            Err(why) => (Fate::Differs, format!("no mail is sent to it: {why}; see `notify`")),
        },
        "MAILFROM" if address(value).is_some() => (Fate::Taken, "`from` of the mails".to_owned()),
        "MAILFROM" | "CONTENT_TYPE" | "CONTENT_TRANSFER_ENCODING" | "NO_MAIL_OUTPUT" => {
            (Fate::Differs, "it is about mail, which is not sent here".to_owned())
        }
        "CRON_TZ" => {
            (Fate::Taken, "the zone of the jobs below (as cronie reads it; other crons ignore this line)".to_owned())
        }
        "TZ" => {
            (Fate::Taken, "a variable of the jobs below, which has no effect on when they are due, as in cron".into())
        }
        "RANDOM_DELAY" => match delay(value) {
            Some(minutes) => {
                let message = format!(
                    "`jitter: {minutes}m`: each job has a delay of its own, and one that is computed from its name; \
                     cronie picks one share for all when it starts"
                );
                (Fate::Differs, message)
            }
            None => (Fate::Differs, "cron ignores a value that is not a number of minutes up to 1440".to_owned()),
        },
        "LOGNAME" | "USER" => {
            (Fate::Differs, "cron sets it to the user of the job, and so does nothing here".to_owned())
        }
        "START_HOURS_RANGE" => (Fate::Cannot, "it belongs to anacron, and cron ignores it".to_owned()),
        _ => (Fate::Taken, "a variable of the jobs below".to_owned()),
    }
}

/// What a line of an anacrontab is, where it looks like one.
fn anacron(parts: &[&str]) -> Option<String> {
    let [period, delay, id, ..] = parts else { return None };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_period = is_number(period) || matches!(*period, "@daily" | "@weekly" | "@monthly");
    let is_id = id.contains(|c: char| c.is_ascii_alphabetic()) && id.len() > 3;
    (is_period && is_number(delay) && is_id).then(|| {
        "it is a line of an anacrontab (a period in days, a delay, a name), which cron does not read: write \
         `schedule: \"@daily\"` with `missed: latest` and the delay as `jitter`"
            .to_owned()
    })
}

/// The first `count` words, and what follows them.
fn words(mut text: &str, count: usize) -> (Vec<&str>, &str) {
    let mut found = Vec::new();
    while found.len() < count && !text.is_empty() {
        let (word, rest) = text.split_at(text.find(BLANK).unwrap_or(text.len()));
        found.push(word);
        text = rest.trim_start_matches(BLANK);
    }
    (found, text)
}

/// `NAME=value` as cron reads it: blanks around the sign, and quotes around either, are taken away.
fn assignment(line: &str) -> Option<(String, String)> {
    let is_blank = |c: char| c.is_ascii_whitespace();
    let (name, rest) = match line.chars().next()? {
        quote @ ('"' | '\'') => {
            let (name, rest) = line[1..].split_once(quote)?;
            if name.contains('=') {
                return None;
            }
            (name, rest)
        }
        _ => line.split_at(line.find(|c: char| is_blank(c) || c == '=')?),
    };
    let value = rest.trim_start_matches(is_blank).strip_prefix('=')?.trim_matches(is_blank);
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => match value[1..].split_once(quote) {
            Some((inner, "")) => inner,
            // What follows the closing quote makes it no assignment for cron.
            Some(_) => return None,
            None => return None,
        },
        _ => value,
    };
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// The command, and its input after the first `%`. `\%` stands for a `%`, and each further `%` for a line end.
fn split_input(command: &str) -> (String, Option<String>) {
    let (mut text, mut input) = (String::new(), None::<String>);
    let mut escaped = false;
    for c in command.chars() {
        let has_input = input.is_some();
        let out = input.as_mut().unwrap_or(&mut text);
        match c {
            '%' if escaped => {
                out.pop();
                out.push('%');
            }
            '%' if !has_input => input = Some(String::new()),
            '%' => out.push('\n'),
            c => out.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    (text, input)
}
