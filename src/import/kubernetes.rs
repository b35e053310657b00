//! CronJobs of Kubernetes: each becomes a job that makes a Job from the CronJob, and waits for its end.

use super::draft::{Draft, Value, labels};
use super::report::{Fate, Lines, Place, Report};
use super::{Input, Settings, command, robfig};
use crate::config::plain::{self, Node};

/// How long the waiting goes on after the Job should have ended itself, in seconds.
const WAITS_LONGER: u64 = 60;

/// What becomes of a Job that is gone so soon after its end, in seconds, may not be seen.
const SEEN_WITHIN: u64 = 60;

/// The longest timeout here, in seconds.
const TIMEOUT_MOST: u64 = 365 * 86_400;

const OF_THE_FILE: &str = "\
    the CronJobs stay in the cluster, as what Jobs are made from: suspend each before its job here is switched on \
    (`kubectl patch cronjob NAME -p '{\"spec\":{\"suspend\":true}}'`), or both start it; `kubectl` has to be where the \
    nodes run, with the right to get and create Jobs, to delete them, to get CronJobs and to read logs";

/// Reads them all.
pub(super) fn read(inputs: &[Input], settings: &Settings, report: &mut Report) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for input in inputs {
        let file = report.file(&input.name, &input.text);
        let before = drafts.len();
        for (first, text) in documents(&input.text) {
            let lines = Lines { file, first, last: first + text.lines().count().saturating_sub(1), origin: first };
            match plain::read(&text) {
                Ok(node) if text.contains("{{") && node.get("kind").and_then(Node::text).is_none() => {
                    let line = node.entry("kind").map_or(1, |(line, _)| line);
                    refuse(&text, (lines, line), "its kind is no text", report);
                }
                Ok(node) => object(&node, lines, settings, report, &mut drafts),
                Err((line, message)) => refuse(&text, (lines, line), &message, report),
            }
        }
        if drafts.len() > before {
            report.add(Place { file, line: 0 }, Fate::Differs, OF_THE_FILE);
        }
        report.comments(file);
    }
    drafts
}

fn refuse(text: &str, (lines, line): (Lines, usize), message: &str, report: &mut Report) {
    let is_template = text.contains("{{");
    let advice = if is_template { ": it is a template, so render it first (`helm template`)" } else { "" };
    report.add(lines.place(line), Fate::Cannot, format!("it cannot be read{advice}: {message}"));
    report.rest(lines, Fate::Cannot, "of a document that cannot be read");
}

/// The documents of a file, each with the line at which it begins: a line that begins with `---` ends one.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut found = vec![(1, String::new())];
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marks =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marks {
            found.push((index + 1, String::new()));
        }
        if let Some((_, document)) = found.last_mut() {
            document.push_str(line);
        }
    }
    found
}

fn object(node: &Node, lines: Lines, settings: &Settings, report: &mut Report, drafts: &mut Vec<Draft>) {
    let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
    if kind.ends_with("List") || (kind.is_empty() && node.get("items").is_some()) {
        let items = node.get("items").map(Node::items).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let end = items.get(index + 1).map_or(lines.last, |next| lines.line(next.line).saturating_sub(1));
            let within = Lines { last: end, ..lines };
            if item.get("kind").is_some() || kind != "CronJobList" {
                object(item, within, settings, report, drafts);
            } else {
                cron_job(item, within, settings, report, drafts);
            }
        }
        report.rest(lines, Fate::Ignored, "of the list");
        return;
    }
    if kind == "CronJob" {
        cron_job(node, lines, settings, report, drafts);
        return;
    }
    let first = Lines { first: lines.line(node.line), ..lines };
    let kind: String = kind.chars().take(60).collect();
    report.rest(first, Fate::Ignored, &format!("of an object that is no CronJob: {kind}"));
}

fn cron_job(node: &Node, lines: Lines, settings: &Settings, report: &mut Report, drafts: &mut Vec<Draft>) {
    let place =
        lines.place(node.entry("spec").and_then(|(_, spec)| spec.entry("schedule")).map_or(node.line, |at| at.0));
    let mut reading = CronJob { lines, settings, report, place };
    match reading.draft(node) {
        Ok(draft) => {
            reading.note_all(node);
            report.add(place, Fate::Taken, "a job");
            drafts.push(draft);
        }
        Err((line, why)) => {
            report.add(lines.place(line), Fate::Cannot, why);
            let own = Lines { first: lines.line(node.line), ..lines };
            report.rest(own, Fate::Cannot, "of a CronJob that cannot be taken over");
        }
    }
}

struct CronJob<'r> {
    lines: Lines,
    settings: &'r Settings,
    report: &'r mut Report,
    place: Place,
}

impl CronJob<'_> {
    fn draft(&mut self, node: &Node) -> Result<Draft, (usize, String)> {
        let (line, metadata) = node.entry("metadata").ok_or((node.line, "it has no `metadata`".to_owned()))?;
        let (name_line, name) = metadata.entry("name").ok_or((line, "it has no name".to_owned()))?;
        let name = object_name(name)
            .ok_or((name_line, "its name is none of Kubernetes (a template has to be rendered first)".to_owned()))?;
        let namespace = match metadata.entry("namespace") {
            Some((line, node)) => {
                Some(object_name(node).ok_or((line, "its namespace is none of Kubernetes".to_owned()))?)
            }
            None => None,
        };
        let (line, spec) = node.entry("spec").ok_or((node.line, "it has no `spec`".to_owned()))?;
        let (line, schedule) = spec.entry("schedule").ok_or((line, "it has no `schedule`".to_owned()))?;
        let text = schedule.text().ok_or((line, "its schedule is no text".to_owned()))?;
        let zone = match spec.entry("timeZone") {
            Some((line, zone)) => robfig::read_zone(zone.text().unwrap_or_default()).map_err(|why| (line, why))?,
            None => self.settings.zone,
        };
        let when = robfig::when(text, zone, false, self.settings).map_err(|why| (line, why))?;
        let mut draft = Draft::new(command::kept(name), self.place);
        draft.arguments.extend(namespace.map(str::to_owned));
        when.write(&mut draft, self.place, self.report);
        draft.set("shell", Value::Text(shell(name, namespace)));
        let pairs = metadata.get("labels").map(Node::entries).unwrap_or_default().iter();
        if let Some(labels) = labels(pairs.filter_map(|(name, _, value)| Some((name.as_str(), value.text()?)))) {
            draft.set("labels", labels);
        }
        draft.held = spec.get("suspend").and_then(Node::text) == Some("true");
        self.policies(&mut draft, spec);
        Ok(draft)
    }

    fn policies(&mut self, draft: &mut Draft, spec: &Node) {
        let number = |node: Option<&Node>| node.and_then(Node::text).and_then(|text| text.parse::<u64>().ok());
        let text = |key: &str| spec.get(key).and_then(Node::text);
        let template = spec.get("jobTemplate").and_then(|template| template.get("spec"));
        let deadline = template.and_then(|template| number(template.get("activeDeadlineSeconds")));
        if let Some(seconds) = deadline.map(|seconds| seconds.saturating_add(WAITS_LONGER)) {
            draft.set("timeout", Value::Text(format!("{}s", seconds.min(TIMEOUT_MOST))));
        }
        draft.set(
            "overlap",
            Value::text(match text("concurrencyPolicy") {
                Some("Forbid") => "skip",
                Some("Replace") => "replace",
                _ => "allow",
            }),
        );
        let missed = match number(spec.get("startingDeadlineSeconds")) {
            Some(0) => Value::text("skip"),
            within => {
                let within = within.map_or("none".to_owned(), |within| format!("{}s", within.min(10 * TIMEOUT_MOST)));
                let words = [("run", "latest".to_owned()), ("within", within)];
                Value::Map(words.map(|(key, word)| (key.to_owned(), Value::Text(word))).to_vec())
            }
        };
        draft.set("missed", missed);
        draft.set("guarantee", Value::text("at_least_once"));
        draft.set("on_lost_leadership", Value::text("finish"));
        let limits = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
        let limits = limits.map(|key| number(spec.get(key)));
        if limits.iter().any(Option::is_some) {
            let keep = limits[0].unwrap_or(3).saturating_add(limits[1].unwrap_or(1)).clamp(1, 10_000);
            draft.set("history", Value::Map(vec![("keep".to_owned(), Value::Text(keep.to_string()))]));
        }
    }

    /// Says what became of each line.
    fn note_all(&mut self, node: &Node) {
        self.note_keys(node, self.lines, |key, value, report, lines| match key {
            "metadata" => note_metadata(value, report, lines),
            "spec" => note_spec(value, report, lines),
            "apiVersion" | "kind" => report.rest(lines, Fate::Taken, "what it is"),
            _ => report.rest(lines, Fate::Ignored, "of the object in the cluster"),
        });
        if node.get("spec").is_some_and(|spec| spec.get("timeZone").is_none()) {
            let zone = self.settings.zone.name();
            let message =
                format!("without `timeZone`, Kubernetes uses the zone of its controller: `{zone}` (see `--timezone`)");
            self.report.add(self.place, Fate::Taken, message);
        }
    }

    fn note_keys(&mut self, node: &Node, lines: Lines, note: impl Fn(&str, &Node, &mut Report, Lines)) {
        each_key(node, lines, |key, value, lines| note(key, value, self.report, lines));
        self.report.rest(Lines { first: lines.line(node.line), ..lines }, Fate::Taken, "what it is");
    }
}

/// Calls `note` for each key with the lines that belong to it.
pub(super) fn each_key(node: &Node, lines: Lines, mut note: impl FnMut(&str, &Node, Lines)) {
    let entries = node.entries();
    for (index, (key, line, value)) in entries.iter().enumerate() {
        let next = entries.get(index + 1).map_or(lines.last, |(_, next, _)| lines.line(*next).saturating_sub(1));
        let first = lines.line(*line);
        note(key, value, lines.from(*line, next.max(first)));
    }
}

fn note_metadata(node: &Node, report: &mut Report, lines: Lines) {
    each_key(node, lines, |key, _, lines| {
        let (fate, message) = match key {
            "name" | "namespace" => (Fate::Taken, "what the Jobs are made from"),
            "labels" => (Fate::Taken, "`labels`, without the prefixes of their names"),
            "annotations" => (Fate::Ignored, "it stays with the CronJob in the cluster"),
            _ => (Fate::Ignored, "of the object in the cluster"),
        };
        report.rest(lines, fate, message);
    });
    report.rest(lines, Fate::Taken, "what it is");
}

fn note_spec(node: &Node, report: &mut Report, lines: Lines) {
    each_key(node, lines, |key, value, lines| {
        let text = value.text().unwrap_or_default();
        let (fate, message) = match key {
            "schedule" => (Fate::Taken, "`schedule`"),
            "timeZone" => (Fate::Taken, "`timezone`"),
            "concurrencyPolicy" if text == "Forbid" => (
                Fate::Differs,
                "`overlap: skip`; in Kubernetes, one that was in the way may still start within \
                 `startingDeadlineSeconds`, once the run before it has ended, and here it is skipped",
            ),
            "concurrencyPolicy" => (Fate::Taken, "`overlap`"),
            "startingDeadlineSeconds" => (Fate::Taken, "`missed.within`"),
            "suspend" if text == "true" => (Fate::Taken, "it is suspended, and so it is not enabled here either"),
            "suspend" => (Fate::Taken, "`enabled`"),
            "successfulJobsHistoryLimit" | "failedJobsHistoryLimit" => (
                Fate::Differs,
                "both together are `history.keep`; the Jobs themselves stay in the cluster until \
                 `ttlSecondsAfterFinished` or a person removes them, where the suspended CronJob does not",
            ),
            "jobTemplate" => {
                note_template(value, report, lines);
                return;
            }
            _ => (Fate::Differs, "it is no key of a CronJob that is known here, and was left out"),
        };
        report.rest(lines, fate, message);
    });
    report.rest(lines, Fate::Taken, "what it is");
}

fn note_template(node: &Node, report: &mut Report, lines: Lines) {
    if let Some(spec) = node.get("spec") {
        for (key, line, value) in spec.entries() {
            let number = value.text().and_then(|text| text.parse::<u64>().ok());
            let (fate, message) = match key.as_str() {
                "backoffLimit" => (Fate::Taken, "the Job itself repeats its pods, and the run ends with the Job"),
                "activeDeadlineSeconds" => (Fate::Taken, "the Job ends itself then, and `timeout` is a minute longer"),
                "ttlSecondsAfterFinished" if number.is_some_and(|seconds| seconds < SEEN_WITHIN) => {
                    (Fate::Differs, "the Job may be gone before its end was seen, and then the run counts as failed")
                }
                _ => continue,
            };
            report.add(lines.place(*line), fate, message);
        }
    }
    report.rest(lines, Fate::Taken, "it stays in the cluster: the Jobs are made from it");
}

/// A name of Kubernetes: nothing in it means something to a shell.
fn object_name(node: &Node) -> Option<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let fits = |text: &&str| text.len() <= 253 && text.chars().all(is_part) && text.starts_with(char::is_alphanumeric);
    node.text().filter(|text| !text.is_empty()).filter(fits)
}

/// Makes the Job, under a name that is made from the run, and waits for its end.
fn shell(name: &str, namespace: Option<&str>) -> String {
    // With the hash, a name has at most 63 characters.
    let short: String = name.chars().take(52).collect();
    let short = short.trim_end_matches(['-', '.']);
    let kubectl = namespace.map_or("kubectl".to_owned(), |namespace| format!("kubectl -n {namespace}"));
    format!(
        r#"# The name is made from the run: another attempt, or the next leader, finds the Job that there is.
job={short}-$(printf %s "$FENCRON_RUN_ID" | sha256sum | cut -c1-10)
there() {{ {kubectl} get job "$job" --ignore-not-found -o name; }}
trap '{kubectl} delete job "$job" --wait=false; exit 143' TERM INT
[ -n "$(there)" ] || {kubectl} create job "$job" --from=cronjob/{name} || [ -n "$(there)" ] || exit 1
ended='{{.metadata.name}}{{range .status.conditions[?(@.status=="True")]}} {{.type}}{{end}}'
while :; do
  if state=$({kubectl} get job "$job" --ignore-not-found -o jsonpath="$ended"); then
    case $state in
      *" Complete"*) {kubectl} logs "job/$job" --tail=100; exit 0 ;;
      *" Failed"*) {kubectl} logs "job/$job" --tail=100; exit 1 ;;
      "") echo "the Job $job is gone" >&2; exit 1 ;;
    esac
  fi
  sleep 5
done
"#
    )
}
