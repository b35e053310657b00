//! Jobs of Dkron, as its API exports them: one JSON object, or a list of them.

use chrono_tz::Tz;

use super::command::{kept, shell_words};
use super::draft::{Draft, Value, is_line, labels};
use super::fires::Rule;
use super::kubernetes::each_key;
use super::report::{Fate, Lines, Place, Report};
use super::robfig;
use super::{Input, Settings};
use crate::config::plain::{self, Node};
use crate::time::{parse_duration, written};

/// What makes its schedule when a job only runs if it is asked to; it is not enabled.
const ON_DEMAND: &str = "@yearly";

/// How long Dkron waits for an answer, unless a job says otherwise.
const ANSWER_WITHIN: &str = "30";

/// The longest owner here, in characters.
const OWNER_MOST: usize = 200;

/// The most attempts here.
const ATTEMPTS_MOST: u64 = 100;

/// Reads them all.
pub(super) fn read(inputs: &[Input], settings: &Settings, report: &mut Report) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for input in inputs {
        let file = report.file(&input.name, &input.text);
        let lines = Lines { file, first: 1, last: input.text.lines().count(), origin: 1 };
        let node = match plain::read(&input.text) {
            Ok(node) => node,
            Err((line, message)) => {
                report.add(lines.place(line), Fate::Cannot, format!("it cannot be read: {message}"));
                report.rest(lines, Fate::Cannot, "of a file that cannot be read");
                continue;
            }
        };
        let jobs = if node.entries().is_empty() { node.items() } else { std::slice::from_ref(&node) };
        for node in jobs {
            let mut job = Job { node, lines: lines.from(node.line, node.last_line()), settings, report };
            drafts.extend(job.read());
        }
        report.rest(lines, Fate::Ignored, "of the list");
    }
    drafts
}

struct Job<'j> {
    node: &'j Node,
    lines: Lines,
    settings: &'j Settings,
    report: &'j mut Report,
}

impl<'j> Job<'j> {
    fn read(&mut self) -> Option<Draft> {
        let place = self.place_of("name");
        match self.draft(place) {
            Ok(draft) => {
                self.note_all();
                self.report.add(place, Fate::Taken, "a job");
                Some(draft)
            }
            Err((key, why)) => {
                self.report.add(self.place_of(key), Fate::Cannot, why);
                self.report.rest(self.lines, Fate::Cannot, "of a job that cannot be taken over");
                None
            }
        }
    }

    fn place_of(&self, key: &str) -> Place {
        self.lines.place(self.node.entry(key).map_or(self.node.line, |(line, _)| line))
    }

    fn text(&self, key: &str) -> Option<&'j str> {
        self.node.get(key).and_then(Node::text).filter(|text| !text.is_empty())
    }

    fn draft(&mut self, place: Place) -> Result<Draft, (&'static str, String)> {
        let name = self.text("name").ok_or(("name", "it has no name".to_owned()))?;
        let mut draft = Draft::new(kept(name), place);
        if let Some(shown) = self.text("displayname") {
            draft.set("description", Value::text(shown));
        }
        let owner =
            self.text("owner").or_else(|| self.text("owner_email")).filter(|text| is_line(text, OWNER_MOST, &['"']));
        if let Some(owner) = owner {
            draft.set("owner", Value::text(owner));
        }
        let pairs = self.node.get("metadata").map(Node::entries).unwrap_or_default().iter();
        if let Some(labels) = labels(pairs.filter_map(|(name, _, value)| Some((name.as_str(), value.text()?)))) {
            draft.set("labels", labels);
        }
        self.trigger(&mut draft, name)?;
        self.task(&mut draft).map_err(|why| ("executor", why))?;
        let overlap = if self.text("concurrency") == Some("forbid") { "skip" } else { "allow" };
        draft.set("overlap", Value::text(overlap));
        if let Some(retries) = self.text("retries").and_then(|text| text.parse::<u64>().ok()).filter(|count| *count > 0)
        {
            let attempts = retries.saturating_add(1).min(ATTEMPTS_MOST).to_string();
            draft.set("retry", Value::Map(vec![("attempts".to_owned(), Value::Text(attempts))]));
        }
        draft.held |= self.text("disabled") == Some("true");
        Ok(draft)
    }

    fn trigger(&mut self, draft: &mut Draft, name: &str) -> Result<(), (&'static str, String)> {
        let parents = self.node.get("parent_jobs").map(Node::items).unwrap_or_default();
        if let Some(parent) = self.text("parent_job").or_else(|| parents.first().and_then(Node::text)) {
            if parents.len() > 1 {
                return Err(("parent_jobs", "a job follows one other job here: make it one of the last".to_owned()));
            }
            draft.set("after", Value::Text(kept(parent)));
            draft.rule = Rule::Unknown("it follows another job".to_owned());
            return Ok(());
        }
        let schedule = self.text("schedule").unwrap_or("@manually");
        match schedule {
            "@manually" => {
                draft.set("schedule", Value::text(ON_DEMAND));
                draft.held = true;
                draft.rule = Rule::Unknown("it runs when it is asked to".to_owned());
                let message = "it runs only if it is asked to: it is not enabled, and `fencron trigger` runs it; its \
                               schedule here has no effect";
                self.report.add(self.place_of("schedule"), Fate::Differs, message);
            }
            _ if schedule.starts_with("@at ") => {
                draft.set("schedule", Value::text(schedule));
                draft.rule = Rule::Unknown("it names one instant".to_owned());
            }
            _ => {
                let place = self.place_of("schedule");
                let when = self.when(schedule, name).map_err(|why| ("schedule", why))?;
                when.write(draft, place, self.report);
            }
        }
        draft.set("missed", Value::text("skip"));
        for (key, own) in [("starts_at", "start"), ("expires_at", "end")] {
            if let Some(at) = self.text(key) {
                draft.set(own, Value::text(at));
            }
        }
        Ok(())
    }

    fn when(&self, schedule: &str, name: &str) -> Result<robfig::When, String> {
        let zone: Tz = self.text("timezone").map_or(Ok(self.settings.zone), robfig::read_zone)?;
        let text = match schedule {
            "@minutely" => "0 * * * * *".to_owned(),
            _ if schedule.starts_with('@') => schedule.to_owned(),
            _ => without_hash(schedule, name),
        };
        robfig::when(&text, zone, true, self.settings)
    }

    fn task(&mut self, draft: &mut Draft) -> Result<(), String> {
        let config = self.node.get("executor_config");
        let of =
            |key: &str| config.and_then(|config| config.get(key)).and_then(Node::text).filter(|text| !text.is_empty());
        match self.text("executor").unwrap_or("shell") {
            "shell" => {
                // Before its version 1.2, Dkron had the command beside the name.
                let command = of("command").or_else(|| self.text("command")).ok_or("it has no command")?;
                let is_shell = of("shell").or_else(|| self.text("shell")).is_some_and(|text| text == "true");
                if of("payload").is_some() {
                    return Err("its `payload` is the input of the command: let the command read a file".to_owned());
                }
                process(draft, command, is_shell, of("su"))?;
                if let Some(directory) = of("cwd") {
                    draft.set("dir", Value::text(directory));
                }
                let pairs = of("env").unwrap_or_default().split(',').filter_map(|pair| pair.split_once('='));
                let pairs: Vec<_> = pairs.map(|(name, value)| (name.trim().to_owned(), Value::text(value))).collect();
                if !pairs.is_empty() {
                    draft.set("env", Value::Map(pairs));
                }
                if let Some(timeout) = of("timeout") {
                    let length = parse_duration(timeout).map_err(|why| format!("its timeout `{timeout}` {why}"))?;
                    draft.set("timeout", Value::Text(written(length)));
                }
                Ok(())
            }
            "http" => {
                let seconds = of("timeout").unwrap_or(ANSWER_WITHIN);
                let seconds: u32 = seconds.parse().map_err(|_| format!("its timeout `{seconds}` is no number"))?;
                request(draft, of)?;
                draft.set("timeout", Value::Text(format!("{}s", seconds.max(1))));
                Ok(())
            }
            other => Err(format!("the executor `{other}` has no counterpart: let a command do it")),
        }
    }

    fn note_all(&mut self) {
        let (node, lines) = (self.node, self.lines);
        each_key(node, lines, |key, value, lines| {
            if key == "executor_config" {
                each_key(value, lines, |key, value, lines| note_setting(key, value, self.report, lines));
                self.report.rest(lines, Fate::Taken, "what it does");
                return;
            }
            let is_given = value.text().is_some_and(|text| !matches!(text, "" | "false" | "0"))
                || !value.items().is_empty()
                || !value.entries().is_empty();
            let (fate, message) = if is_given { meaning(key, value) } else { (Fate::Taken, "nothing is given") };
            if fate == Fate::Differs {
                self.report.add(lines.place_of_first(), fate, message);
            }
            self.report.rest(lines, fate, message);
        });
        self.report.rest(lines, Fate::Taken, "of the job");
    }
}

fn process(draft: &mut Draft, command: &str, is_shell: bool, user: Option<&str>) -> Result<(), String> {
    if is_shell && user.is_none() {
        draft.set("shell", Value::text(command));
        return Ok(());
    }
    let mut words = match is_shell {
        true => ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        false => shell_words(command).ok_or("its command has a quote without an end")?,
    };
    if words.is_empty() {
        return Err("it has no command".to_owned());
    }
    if let Some(user) = user {
        let user = user.split(':').next().unwrap_or(user);
        words.splice(0..0, ["runuser", "-u", user, "--"].map(str::to_owned));
    }
    draft.set("command", Value::List(words));
    Ok(())
}

fn request<'n>(draft: &mut Draft, of: impl Fn(&str) -> Option<&'n str>) -> Result<(), String> {
    let mut http = vec![("url".to_owned(), Value::text(of("url").ok_or("it has no url")?))];
    http.push(("method".to_owned(), Value::text(of("method").ok_or("it has no method")?)));
    if let Some(headers) = of("headers") {
        let headers: Vec<String> =
            serde_json::from_str(headers).map_err(|_| "its headers are no list of texts".to_owned())?;
        let pair = |header: &String| {
            let (name, value) = header.split_once(':')?;
            Some((name.trim().to_owned(), Value::text(value.trim())))
        };
        let headers: Vec<_> = headers.iter().filter_map(pair).collect();
        if !headers.is_empty() {
            http.push(("headers".to_owned(), Value::Map(headers)));
        }
    }
    if let Some(body) = of("body") {
        http.push(("body".to_owned(), Value::text(body)));
    }
    let expect = match of("expectCode") {
        // Any answer is a success there.
        None => vec!["200-599".to_owned()],
        Some(codes) => codes.split(',').map(|code| code.trim().to_owned()).filter(|code| !code.is_empty()).collect(),
    };
    http.push(("expect".to_owned(), Value::List(expect)));
    for (key, own) in [("tlsRootCAsFile", "ca"), ("tlsCertificateFile", "cert"), ("tlsCertificateKeyFile", "key")] {
        if let Some(path) = of(key) {
            http.push((own.to_owned(), Value::text(path)));
        }
    }
    draft.set("http", Value::Map(http));
    Ok(())
}

fn note_setting(key: &str, value: &Node, report: &mut Report, lines: Lines) {
    let (fate, message) = match key {
        _ if value.text().is_none_or(str::is_empty) => (Fate::Taken, "nothing is given"),
        "command" | "shell" => (Fate::Taken, "the command"),
        "env" | "cwd" | "timeout" | "url" | "method" | "headers" | "body" => (Fate::Taken, "the same here"),
        "expectCode" | "tlsRootCAsFile" | "tlsCertificateFile" | "tlsCertificateKeyFile" => {
            (Fate::Taken, "under `http`")
        }
        "su" => {
            (Fate::Differs, "it runs through `runuser`, for which the node has to run as root; a group is left out")
        }
        "mem_limit" => {
            (Fate::Differs, "there is no limit of memory here: `systemd-run --scope -p MemoryMax=…` has one")
        }
        "expectBody" => (Fate::Differs, "the body of the answer is not looked at here"),
        "tlsNoVerifyPeer" => (Fate::Differs, "certificates are always verified here: name the authority in `ca`"),
        "debug" => (Fate::Differs, "left out: the output has the answer"),
        _ => (Fate::Differs, "it is not known here, and was left out"),
    };
    report.add(lines.place_of_first(), fate, message);
}

fn meaning(key: &str, value: &Node) -> (Fate, &'static str) {
    match key {
        "id" | "name" | "schedule" | "timezone" | "executor" | "command" | "shell" => (Fate::Taken, "of the job"),
        "displayname" => (Fate::Taken, "`description`"),
        "parent_job" | "parent_jobs" => (Fate::Taken, "`after`: when that job has succeeded"),
        "dependent_jobs" => (Fate::Taken, "it is said by the jobs that follow"),
        "concurrency" => (Fate::Taken, "`overlap`"),
        "disabled" => (Fate::Taken, "it is not enabled"),
        "starts_at" | "expires_at" => (Fate::Taken, "`start` and `end`"),
        "retries" => (Fate::Differs, "`retry`, with pauses of 5 seconds and more between attempts"),
        "tags" => (
            Fate::Differs,
            "Dkron runs it on the nodes that have these tags, on all of them where no count is given; here the leader runs \
             it, once",
        ),
        "ephemeral" => (Fate::Differs, "Dkron deletes it after its first success, and here it stays"),
        "processors" => (Fate::Differs, "what becomes of the output: here it is logged, and kept with the run"),
        "owner" | "owner_email" => (Fate::Taken, "`owner`: the name, or else the address"),
        "metadata" => (Fate::Taken, "`labels`"),
        "status" | "next" | "success_count" | "error_count" | "last_success" | "last_error" => {
            (Fate::Ignored, "what has happened, and not what is to happen")
        }
        _ if value.text().is_none() => (Fate::Ignored, "nothing is given"),
        _ => (Fate::Differs, "it is not known here, and was left out"),
    }
}

/// Dkron's `~`: a number from the letters of the name.
fn without_hash(schedule: &str, name: &str) -> String {
    let hash: u32 = name.chars().map(u32::from).fold(0, u32::wrapping_add);
    let mut field = 0;
    let part = |part: &str| {
        if part.starts_with("TZ=") || part.starts_with("CRON_TZ=") {
            return part.to_owned();
        }
        let value = match field {
            2 => hash % 24,
            3 => hash % 28 + 1,
            4 => hash % 12 + 1,
            5 => hash % 7,
            _ => hash % 60,
        };
        field += 1;
        part.replace('~', &value.to_string())
    };
    schedule.split(' ').map(part).collect::<Vec<_>>().join(" ")
}
