//! What is sent to each kind of channel. Pure: a message in, JSON out.

use std::time::Duration;

use anstyle_parse::{DefaultCharAccumulator, Parser, Perform};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::fence::Fence;
use crate::job::{AlertKind, Channel, JobName, Verdict, Whose, Word as _, is_link};
use crate::scheduler::alert::Alert;
use crate::scheduler::outbox::{
    Bound, Content, HOURLY_MOST, Incident, JOB_HOURLY_MOST, JOBS_NAMED, LastOf, Message, Summary,
};
use crate::scheduler::tail::end_of;
use crate::time::Wall;

/// For how long an Alertmanager shows an alert that is not sent again: longer than the default of `repeat`.
const SHOWN_FOR: Duration = Duration::from_secs(25 * 3_600);

/// The longest description that PagerDuty takes, in characters.
const SUMMARY_MOST: usize = 1_024;

/// The name of the alert of Alertmanager for a job with a run in doubt.
const IN_DOUBT: &str = "FencronRunUnknown";

/// How much is quoted of the end of what a run wrote, in bytes.
const OUTPUT_MOST: usize = 2 * 1024;

/// The longest identity of an incident that PagerDuty takes, in characters.
const DEDUP_MOST: usize = 255;

/// Who sends a message, and when, and what is quoted of its run.
#[derive(Clone, Debug)]
pub struct About {
    pub namespace: String,
    pub node: String,
    /// That of the leader; `None`: a person tries a channel, or a follower says that no node leads.
    pub fence: Option<Fence>,
    pub now: Wall,
    /// The end of what the run wrote, for a channel that wants it; empty: there is none.
    pub output: String,
}

/// What is sent of a message with one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The same, however often it is sent; that of the message for its first part.
    pub id: String,
    pub body: Value,
}

/// The parts of the message for this kind of channel, in their order: those that were not taken yet.
pub fn parts<'a>(channel: &'a Channel, message: &'a Message, about: &'a About) -> impl Iterator<Item = Part> + 'a {
    let first = move || match channel {
        Channel::Webhook { template: Some(template), .. } => template.fill(&plain(message, about)),
        // A mail has its own form: this is what it is made of.
        Channel::Webhook { .. } | Channel::Exec(_) | Channel::Smtp(_) => plain(message, about),
        Channel::Slack { .. } => json!({ "text": escaped(&text_with_output(message, about)) }),
        Channel::Alertmanager { .. } => alertmanager(message, about),
        Channel::Pagerduty { key, .. } => pagerduty(key.expose(), message, about),
    };
    let key = if let Channel::Pagerduty { key, .. } = channel { Some(key.expose()) } else { None };
    let ends = key.into_iter().flat_map(move |key| {
        let end = move |incident: Incident| {
            let id = format!("{}:{}", message.id, name(&incident));
            Part { id, body: resolve(key, &incident, about) }
        };
        ends(message).map(end)
    });
    // A channel that has become one of another kind since is sent the message as a whole.
    let wants_first = !message.is_begun || key.is_none();
    let first = wants_first.then_some(()).into_iter().map(move |()| Part { id: message.id.clone(), body: first() });
    first.chain(ends)
}

/// What was a message of its own, and has ended by this summary.
fn ends(message: &Message) -> impl Iterator<Item = Incident> {
    let summary = if let Content::Summary(summary) = &message.content { Some(summary) } else { None };
    summary.into_iter().flat_map(Summary::ends)
}

/// What an incident is about, as receivers distinguish them.
fn name(incident: &Incident) -> String {
    match incident {
        Incident::Failing(job) => job.to_string(),
        Incident::Late(run) => format!("late/{run}"),
        Incident::Trouble(key) => format!("trouble/{key}"),
    }
}

/// The end of an incident of PagerDuty.
fn resolve(key: &str, incident: &Incident, about: &About) -> Value {
    json!({ "routing_key": key, "event_action": "resolve", "dedup_key": dedup(about, &name(incident)) })
}

/// The identity of an incident, which PagerDuty takes: where it is too long, its end is a digest of all of it.
fn dedup(about: &About, of: &str) -> String {
    let whole = format!("fencron/{}/{of}", about.namespace);
    if whole.len() <= DEDUP_MOST {
        return whole;
    }
    let digest = format!("/{:x}", Sha256::digest(&whole));
    format!("{}{digest}", &whole[..whole.floor_char_boundary(DEDUP_MOST - digest.len())])
}

/// A message in a few lines, for people.
pub fn text(message: &Message, about: &About) -> String {
    let further = match message.last {
        None => String::new(),
        Some(LastOf { bound: Bound::Job, until }) => format!(
            "\nthis job has had its {JOB_HOURLY_MOST} messages of this hour: its further alerts are in a summary \
             after {until}"
        ),
        Some(LastOf { bound: Bound::Channel, until }) => format!(
            "\nthis channel has sent its {HOURLY_MOST} messages of this hour: further alerts are in a summary after {until}"
        ),
    };
    said(message, about) + &further
}

fn said(message: &Message, about: &About) -> String {
    let namespace = &about.namespace;
    match &message.content {
        Content::Alert(alert) => {
            let Alert { job, run, reason, in_a_row, .. } = alert.as_ref();
            let what = match alert.kind {
                AlertKind::Failed => "failed",
                AlertKind::TimedOut => "timed out",
                AlertKind::Unknown => "ended in an unknown state: a person has to look",
                AlertKind::Recovered => "has recovered",
                AlertKind::Missed => "was not run when it was due",
                AlertKind::Late => "is late",
                AlertKind::LateNoMore => "is late no more",
            };
            let row = if *in_a_row > 1 { format!(", {in_a_row} times in a row") } else { String::new() };
            let why = if reason.is_empty() { String::new() } else { format!("\n{reason}") };
            let ran = alert.whose.ran.as_ref().map_or(String::new(), |ran| format!("\nran {ran}"));
            let whose = lines(&alert.whose);
            format!("[{namespace}] {job} {what}{row}{why}{ran}{}\nrun {run}{whose}", place(alert))
        }
        Content::Trouble(trouble) => {
            let over = if trouble.over_at.is_some() { "it is over: " } else { "" };
            format!("[{namespace}] {over}{}\n`fencron status` says more", trouble.what)
        }
        Content::Summary(summary) => {
            let kinds: Vec<String> =
                summary.kinds.iter().map(|(kind, count)| format!("{count} {}", kind.word())).collect();
            let top: Vec<String> = summary.top().iter().map(|(job, count)| format!("{job} ({count})")).collect();
            let (total, mut lines) = (summary.total(), Vec::new());
            if total == 0 && summary.given_up == 0 {
                lines.extend(ended(summary));
            }
            if total > 0 {
                lines.push(format!("{total} alerts: {}\nmost of them: {}", kinds.join(", "), top.join(", ")));
            }
            match summary.given_up {
                0 => {}
                1 => lines.push("1 earlier alert was given up: this channel did not take it".to_owned()),
                count => lines.push(format!("{count} earlier alerts were given up: this channel did not take them")),
            }
            format!("[{namespace}] {}", lines.join("\n"))
        }
    }
}

/// What has ended, in lines.
fn ended(summary: &Summary) -> Vec<String> {
    let jobs: Vec<&str> = summary.recovered.iter().take(JOBS_NAMED).map(JobName::as_str).collect();
    let late = summary.ended.iter().filter(|end| matches!(end, Incident::Late(_))).count();
    let said = [
        (summary.recovered.len(), format!("jobs have recovered: {}", jobs.join(", "))),
        (late, "runs are late no more".to_owned()),
        (summary.ended.len() - late, "troubles of the cluster are over".to_owned()),
    ];
    said.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

/// Where it ran, and when that was over.
fn place(alert: &Alert) -> String {
    // What was missed ran nowhere.
    let Some(node) = alert.node.as_ref().filter(|_| alert.kind != AlertKind::Missed) else { return String::new() };
    let ended = if alert.verdict.is_some() { format!(", ended {}", alert.finished_at) } else { String::new() };
    format!("\non node {node}{ended}")
}

/// The same, with what the run wrote, where the channel wants that.
pub fn text_with_output(message: &Message, about: &About) -> String {
    let text = text(message, about);
    if about.output.is_empty() { text } else { format!("{text}\n\nits output ends with:\n{}", about.output) }
}

/// The end of what a run wrote, as text that controls no terminal: sequences are left out, and what overwrites a line
/// replaces it.
pub fn quoted(output: &str) -> String {
    let (mut parser, mut plain) = (Parser::<DefaultCharAccumulator>::new(), Plain::default());
    output.bytes().for_each(|byte| parser.advance(&mut plain, byte));
    let text = plain.text.trim_end();
    let (end, cut) = end_of(text, OUTPUT_MOST);
    if cut > 0 { format!("…\n{end}") } else { end.to_owned() }
}

/// The text of a terminal, without what it does to it.
#[derive(Default)]
struct Plain {
    text: String,
    overwrites: bool,
}

impl Perform for Plain {
    fn print(&mut self, c: char) {
        if std::mem::take(&mut self.overwrites) {
            self.text.truncate(self.text.rfind('\n').map_or(0, |end| end + 1));
        }
        self.text.push(c);
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\r' => self.overwrites = true,
            b'\n' => {
                self.overwrites = false;
                self.text.push('\n');
            }
            b'\t' => self.text.push('\t'),
            _ => {}
        }
    }
}

/// What is said of the job, each on a line of its own.
fn lines(whose: &Whose) -> String {
    let labels: Vec<String> = whose.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels = Some(labels.join(", ")).filter(|labels| !labels.is_empty());
    let said = [("owner", whose.owner.clone()), ("labels", labels), ("runbook", whose.runbook.clone())];
    said.into_iter().filter_map(|(name, text)| Some(format!("\n{name} {}", text?))).collect()
}

/// The message as JSON. An alert has the names that the API has for a run.
fn plain(message: &Message, about: &About) -> Value {
    let mut value = match &message.content {
        Content::Alert(alert) => json!({
            "kind": alert.kind.word(),
            "job": alert.job,
            "run_id": alert.run,
            "scheduled_at": alert.scheduled_at,
            "state": alert.verdict.map(Verdict::as_str),
            "reason": alert.reason,
            "exit_code": alert.exit_code,
            "attempt": alert.attempt,
            "in_a_row": alert.in_a_row,
            "node": alert.node,
            "fence": alert.fence,
            "finished_at": alert.verdict.map(|_| alert.finished_at),
            "owner": alert.whose.owner,
            "labels": alert.whose.labels,
            "runbook": alert.whose.runbook,
            "ran": alert.whose.ran,
        }),
        Content::Trouble(trouble) => json!({
            "kind": trouble.kind(),
            "trouble": trouble.key,
            "reason": trouble.what,
            "since": trouble.since,
            "over_at": trouble.over_at,
        }),
        Content::Summary(Summary { kinds, from, until, given_up, .. }) => json!({
            "kind": "summary",
            "alerts": message.alerts(),
            "kinds": kinds.iter().map(|(kind, count)| (kind.word(), *count)).collect::<std::collections::BTreeMap<_, _>>(),
            "top": top(&message.content),
            "from": from,
            "until": until,
            "given_up": given_up,
        }),
    };
    value["id"] = json!(message.id);
    value["namespace"] = json!(about.namespace);
    if !about.output.is_empty() {
        value["output"] = json!(about.output);
    }
    value["last"] = json!(message.last);
    value["text"] = json!(text(message, about));
    value["sent_by"] = json!({ "node": about.node, "fence": about.fence });
    value
}

fn top(content: &Content) -> Vec<Value> {
    let Content::Summary(summary) = content else { return Vec::new() };
    summary.top().iter().map(|(job, count): &(&JobName, u64)| json!({ "job": job, "alerts": count })).collect()
}

/// As Slack wants it: these three characters are its markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The runbook, where it can be opened: of one with a secret, a part is left out.
fn link(message: &Message) -> Option<&str> {
    let runbook = if let Content::Alert(alert) = &message.content { alert.whose.runbook.as_deref() } else { None };
    runbook.filter(|url| is_link(url))
}

/// The labels are those of the failure also where a job has recovered: so Alertmanager ends the alert.
fn alertmanager(message: &Message, about: &About) -> Value {
    let (labels, starts_at, ends_at) = match &message.content {
        Content::Alert(alert) => {
            let is_end = matches!(alert.kind, AlertKind::Recovered | AlertKind::LateNoMore);
            let ends = if is_end { about.now } else { about.now.plus(SHOWN_FOR) };
            let (name, of_run) = match alert.kind {
                AlertKind::Failed | AlertKind::TimedOut | AlertKind::Recovered => ("FencronJobFailing", false),
                AlertKind::Unknown => (IN_DOUBT, false),
                AlertKind::Missed => ("FencronRunMissed", true),
                AlertKind::Late | AlertKind::LateNoMore => ("FencronRunLate", true),
            };
            let mut labels = json!({ "alertname": name, "job_name": alert.job, "fencron_namespace": about.namespace });
            if of_run {
                labels["run_id"] = json!(alert.run);
            }
            (labels, (!is_end).then_some(alert.finished_at), ends)
        }
        Content::Trouble(trouble) => {
            let labels = json!({
                "alertname": "FencronTrouble", "trouble": trouble.key, "fencron_namespace": about.namespace,
            });
            let ends = if trouble.over_at.is_some() { about.now } else { about.now.plus(SHOWN_FOR) };
            (labels, trouble.over_at.is_none().then_some(trouble.since), ends)
        }
        Content::Summary(summary) => {
            let labels = json!({ "alertname": "FencronAlerts", "fencron_namespace": about.namespace });
            (labels, summary.from, about.now.plus(Duration::from_secs(3_600)))
        }
    };
    let mut annotations = json!({ "summary": text(message, about), "id": message.id });
    // Not among the labels: these have to be the same when the job has recovered, whatever the file says by then.
    if let Content::Alert(alert) = &message.content {
        let output = Some(about.output.as_str()).filter(|output| !output.is_empty());
        for (name, value) in
            [("owner", alert.whose.owner.as_deref()), ("runbook_url", link(message)), ("output", output)]
        {
            if let Some(value) = value {
                annotations[name] = json!(value);
            }
        }
    }
    let mut alert = json!({ "labels": labels, "annotations": annotations, "endsAt": ends_at });
    if let Some(starts_at) = starts_at {
        alert["startsAt"] = json!(starts_at);
    }
    // A recovery ends what a failure had begun, as it is itself, and what a run in doubt had.
    let recovered = match &message.content {
        Content::Alert(alert) if alert.kind == AlertKind::Recovered => Some(alert.job.clone()),
        _ => None,
    };
    let in_doubt = |job: &JobName| json!({ "alertname": IN_DOUBT, "job_name": job });
    let ends = ends(message).flat_map(|incident| match &incident {
        Incident::Failing(job) => vec![json!({ "alertname": "FencronJobFailing", "job_name": job }), in_doubt(job)],
        Incident::Late(run) => vec![json!({ "alertname": "FencronRunLate", "job_name": run.job(), "run_id": run })],
        Incident::Trouble(key) => vec![json!({ "alertname": "FencronTrouble", "trouble": key })],
    });
    let ends = recovered.iter().map(in_doubt).chain(ends).map(|mut labels| {
        labels["fencron_namespace"] = json!(about.namespace);
        json!({ "labels": labels, "endsAt": about.now })
    });
    [alert].into_iter().chain(ends).collect()
}

/// One incident for a job that fails or has a run in doubt, which its recovery resolves; one for each run that is late,
/// until it is no more; one for each that is missed, and for each summary.
fn pagerduty(key: &str, message: &Message, about: &About) -> Value {
    let own;
    let (of, action) = match &message.content {
        Content::Alert(alert) => match alert.kind {
            AlertKind::Recovered => (alert.job.as_str(), "resolve"),
            AlertKind::Failed | AlertKind::TimedOut | AlertKind::Unknown => (alert.job.as_str(), "trigger"),
            AlertKind::Missed => (&*message.id, "trigger"),
            AlertKind::Late | AlertKind::LateNoMore => {
                own = name(&Incident::Late(alert.run.clone()));
                (&*own, if alert.kind == AlertKind::Late { "trigger" } else { "resolve" })
            }
        },
        Content::Trouble(trouble) => {
            own = name(&Incident::Trouble(trouble.key.clone()));
            (&*own, if trouble.over_at.is_none() { "trigger" } else { "resolve" })
        }
        Content::Summary(_) => (&*message.id, "trigger"),
    };
    let summary: String = text(message, about).chars().take(SUMMARY_MOST).collect();
    let links: Vec<Value> = link(message).map(|href| json!({ "href": href, "text": "runbook" })).into_iter().collect();
    json!({
        "routing_key": key,
        "event_action": action,
        "dedup_key": dedup(about, of),
        "links": links,
        "payload": {
            "summary": summary,
            "source": about.node,
            "severity": "error",
            "timestamp": about.now,
            "custom_details": plain(message, about),
        },
    })
}

/// What the tests send.
#[cfg(test)]
pub(super) mod cases {
    use super::*;
    use crate::job::RunId;

    pub fn message(kind: AlertKind) -> Message {
        let (job, at) = (JobName::new("bill").unwrap(), Wall::EPOCH);
        let alert = Alert {
            kind,
            run: RunId::of(&job, at),
            job,
            scheduled_at: at,
            verdict: Some(Verdict::Failed),
            reason: "<exit> & 3".to_owned(),
            exit_code: Some(3),
            attempt: 1,
            in_a_row: 2,
            node: Some("a".to_owned()),
            fence: Fence::new(7),
            finished_at: at,
            whose: Whose {
                owner: Some("ops".to_owned()),
                labels: [("team".to_owned(), "shop".to_owned())].into(),
                runbook: Some("https://wiki/bill".to_owned()),
                ran: Some("./bill --all".to_owned()),
            },
        };
        Message::new(alert.id(), at, Content::Alert(Box::new(alert)))
    }

    pub fn about() -> About {
        let (namespace, node) = ("shop".to_owned(), "b".to_owned());
        About { namespace, node, fence: Fence::new(8), now: Wall::EPOCH, output: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::cases::{about, message};
    use super::*;
    use crate::job::Text;
    use crate::scheduler::trouble::Trouble;

    fn to(channel: &Channel, kind: AlertKind) -> Value {
        only(channel, &message(kind))
    }

    fn only(channel: &Channel, message: &Message) -> Value {
        let parts: Vec<Part> = parts(channel, message, &about()).collect();
        let [part] = &parts[..] else { panic!("one request") };
        part.body.clone()
    }

    #[test]
    fn a_runbook_of_which_a_part_is_left_out_is_no_link() {
        let url = Text::plain("http://localhost/");
        let mut message = message(AlertKind::Failed);
        let pagerduty = Channel::Pagerduty { key: Text::secret("k"), url: url.clone() };
        assert_eq!(only(&pagerduty, &message)["links"][0]["href"], "https://wiki/bill");
        let Content::Alert(alert) = &mut message.content else { panic!("one alert") };
        alert.whose.runbook = Some("https://wiki/bill?token=***".to_owned());
        let body = only(&pagerduty, &message);
        assert_eq!(body["links"], json!([]));
        assert!(body["payload"]["summary"].as_str().unwrap().contains("token=***"), "people read it still");
        let alertmanager = Channel::Alertmanager { url, headers: Vec::new() };
        assert!(only(&alertmanager, &message)[0]["annotations"].get("runbook_url").is_none());
    }

    #[test]
    fn the_end_of_a_trouble_ends_what_it_opened() {
        let url = Text::plain("http://localhost/");
        let of = |channel: &Channel, over_at| {
            let what = "a: jobs.yaml is refused".to_owned();
            let trouble = Trouble { what, key: "k".to_owned(), since: Wall::EPOCH, over_at };
            let content = Content::Trouble(Box::new(trouble.clone()));
            only(channel, &Message::new(trouble.id(), Wall::EPOCH, content))
        };
        let alertmanager = Channel::Alertmanager { url: url.clone(), headers: Vec::new() };
        let (begun, over) = (of(&alertmanager, None), of(&alertmanager, Some(Wall::EPOCH)));
        assert_eq!((&begun[0]["labels"], &over[0]["endsAt"]), (&over[0]["labels"], &json!(Wall::EPOCH)));
        let pagerduty = Channel::Pagerduty { key: Text::secret("k"), url: url.clone() };
        let (begun, over) = (of(&pagerduty, None), of(&pagerduty, Some(Wall::EPOCH)));
        assert_eq!((&begun["dedup_key"], &over["event_action"]), (&over["dedup_key"], &json!("resolve")));
        let webhook = of(&Channel::Webhook { url, headers: Vec::new(), template: None }, None);
        assert_eq!((&webhook["kind"], &webhook["reason"]), (&json!("trouble"), &json!("a: jobs.yaml is refused")));
    }

    #[test]
    fn the_identity_of_an_incident_is_never_longer_than_pagerduty_takes() {
        let mut message = message(AlertKind::Missed);
        message.id = format!("{}@1970-01-01T00:00:00Z:missed:1970-01-01T00:00:00Z", "j".repeat(100));
        let about = About { namespace: "n".repeat(100), ..about() };
        let pagerduty = Channel::Pagerduty { key: Text::secret("k"), url: Text::plain("http://localhost/") };
        let dedup = |message: &Message| {
            let part = parts(&pagerduty, message, &about).next().unwrap();
            part.body["dedup_key"].as_str().unwrap().to_owned()
        };
        let first = dedup(&message);
        assert_eq!((first.len(), first.starts_with("fencron/nnn")), (DEDUP_MOST, true));
        let other = Message { id: message.id.replace("00:00Z", "00:01Z"), ..message };
        assert_ne!(first, dedup(&other), "another run is another incident");
    }

    #[test]
    fn a_recovery_that_is_in_a_summary_ends_the_alert_and_the_incident_too() {
        let url = Text::plain("http://localhost/");
        let recovered = [JobName::new("bill").unwrap()].into();
        let content = Content::Summary(Summary { recovered, ..Summary::default() });
        let summary = Message::new("s".to_owned(), Wall::EPOCH, content);
        let alertmanager = Channel::Alertmanager { url: url.clone(), headers: Vec::new() };
        let failed = to(&alertmanager, AlertKind::Failed);
        let body = only(&alertmanager, &summary);
        assert_eq!((&body[1]["labels"], &body[1]["endsAt"]), (&failed[0]["labels"], &json!(Wall::EPOCH)));
        let pagerduty = Channel::Pagerduty { key: Text::secret("k"), url };
        let failed = to(&pagerduty, AlertKind::Failed);
        let both: Vec<Part> = parts(&pagerduty, &summary, &about()).collect();
        let [first, end] = &both[..] else { panic!("the summary, and the end") };
        assert_eq!((&end.body["event_action"], &end.body["dedup_key"]), (&json!("resolve"), &failed["dedup_key"]));
        assert_eq!([first.id.as_str(), end.id.as_str()], ["s", "s:bill"], "what is not the same has ids of its own");
    }

    #[test]
    fn a_summary_ends_what_late_runs_and_troubles_had_opened() {
        let url = || Text::plain("http://localhost/");
        let late = message(AlertKind::Late);
        let Content::Alert(alert) = &late.content else { panic!("one alert") };
        let trouble = Trouble { what: "w".to_owned(), key: "k".to_owned(), since: Wall::EPOCH, over_at: None };
        let ended = [Incident::Late(alert.run.clone()), Incident::Trouble("k".to_owned())].into();
        let summary = Summary { ended, ..Summary::default() };
        let summary = Message::new("s".to_owned(), Wall::EPOCH, Content::Summary(summary));
        let trouble = Message::new("t".to_owned(), Wall::EPOCH, Content::Trouble(Box::new(trouble)));
        let alertmanager = Channel::Alertmanager { url: url(), headers: Vec::new() };
        let opened = [&late, &trouble].map(|message| only(&alertmanager, message)[0]["labels"].clone());
        let body = only(&alertmanager, &summary);
        assert_eq!([&body[1]["labels"], &body[2]["labels"]], [&opened[0], &opened[1]], "{body}");
        let pagerduty = Channel::Pagerduty { key: Text::secret("k"), url: url() };
        let opened = [&late, &trouble].map(|message| only(&pagerduty, message)["dedup_key"].clone());
        let ends: Vec<Value> = parts(&pagerduty, &summary, &about()).skip(1).map(|part| part.body).collect();
        assert!(ends.iter().all(|end| end["event_action"] == "resolve"), "{ends:?}");
        assert_eq!(ends.iter().map(|end| end["dedup_key"].clone()).collect::<Vec<_>>(), opened);
        let said = text(&summary, &about());
        assert_eq!(said, "[shop] 1 runs are late no more\n1 troubles of the cluster are over");
    }

    #[test]
    fn a_webhook_receives_the_run_with_the_names_of_the_api() {
        let url = Text::plain("http://localhost/");
        let body = to(&Channel::Webhook { url, headers: Vec::new(), template: None }, AlertKind::Failed);
        assert_eq!(
            (body["kind"].as_str(), body["run_id"].as_str()),
            (Some("failed"), Some("bill@1970-01-01T00:00:00Z"))
        );
        assert_eq!(body["id"], "bill@1970-01-01T00:00:00Z:failed:1970-01-01T00:00:00Z");
        assert_eq!((&body["fence"], &body["sent_by"]["fence"]), (&json!(7), &json!(8)));
        assert_eq!((&body["owner"], &body["labels"]), (&json!("ops"), &json!({ "team": "shop" })));
    }

    #[test]
    fn a_template_has_the_names_of_all_messages_and_no_others() {
        let about = About { output: "boom".to_owned(), ..about() };
        let trouble = Trouble { what: "w".to_owned(), key: "k".to_owned(), since: Wall::EPOCH, over_at: None };
        let contents = [
            message(AlertKind::Failed).content,
            Content::Trouble(Box::new(trouble)),
            Content::Summary(Summary::default()),
        ];
        let has = contents.map(|content| plain(&Message::new("1".to_owned(), Wall::EPOCH, content), &about));
        let has: std::collections::BTreeSet<&str> =
            has.iter().flat_map(|body| body.as_object().unwrap().keys().map(String::as_str)).collect();
        assert_eq!(has.into_iter().collect::<Vec<_>>(), crate::job::template::NAMES);
        let template = crate::job::template::Template::new(json!({ "content": "{{job}}: {{output}}" }), false);
        let url = Text::plain("http://localhost/");
        let channel = Channel::Webhook { url, headers: Vec::new(), template: Some(Box::new(template)) };
        let body = parts(&channel, &message(AlertKind::Failed), &about).next().unwrap().body;
        assert_eq!(body, json!({ "content": "bill: boom" }));
    }

    #[test]
    fn a_summary_without_alerts_says_what_was_given_up() {
        let content = Content::Summary(Summary { given_up: 2, ..Summary::default() });
        let message = Message::new("s".to_owned(), Wall::EPOCH, content);
        let expected = "[shop] 2 earlier alerts were given up: this channel did not take them";
        assert_eq!(text(&message, &about()), expected);
    }

    #[test]
    fn the_last_message_before_a_bound_says_what_follows_it_and_when() {
        let until = Wall::EPOCH.plus(Duration::from_secs(3_600));
        let of = |bound| Message { last: Some(LastOf { bound, until }), ..message(AlertKind::Failed) };
        let channel = Channel::Webhook { url: Text::plain("http://localhost/"), headers: Vec::new(), template: None };
        for (bound, whose, word) in
            [(Bound::Job, "this job has had its 6", "job"), (Bound::Channel, "this channel has sent its 60", "channel")]
        {
            let body = only(&channel, &of(bound));
            let text = body["text"].as_str().unwrap();
            assert!(text.contains(whose) && text.ends_with("are in a summary after 1970-01-01T01:00:00Z"), "{text}");
            assert_eq!(body["last"], json!({ "bound": word, "until": until }));
        }
        assert_eq!(only(&channel, &message(AlertKind::Failed))["last"], Value::Null);
    }

    #[test]
    fn slack_receives_text_without_markup() {
        let body = to(&Channel::Slack { url: Text::plain("http://localhost/") }, AlertKind::Failed);
        let text = "[shop] bill failed, 2 times in a row\n&lt;exit&gt; &amp; 3\nran ./bill --all\n\
                    on node a, ended 1970-01-01T00:00:00Z\nrun bill@1970-01-01T00:00:00Z\n\
                    owner ops\nlabels team=shop\nrunbook https://wiki/bill";
        assert_eq!(body, json!({ "text": text }));
    }

    #[test]
    fn the_end_of_an_output_is_quoted_as_text() {
        for (output, expected) in [
            ("\u{1b}[31mred\u{1b}[0m\n\u{1b}]0;title\u{7}é\n\n", "red\né"),
            ("10%\r50%\r\u{1b}[Kdone\r\nnext\tx\r\n", "done\nnext\tx"),
            ("", ""),
        ] {
            assert_eq!(quoted(output), expected);
        }
        let end = quoted(&"0123456789\n".repeat(1_000));
        assert!(end.len() <= OUTPUT_MOST + 4 && end.starts_with("…\n0123") && end.ends_with("789"), "{end}");
        let about = About { output: quoted("<b>boom</b>"), ..about() };
        let of = |channel: &Channel| parts(channel, &message(AlertKind::Failed), &about).next().unwrap().body;
        let url = || Text::plain("http://localhost/");
        let slack = of(&Channel::Slack { url: url() });
        assert!(
            slack["text"].as_str().unwrap().ends_with("\n\nits output ends with:\n&lt;b&gt;boom&lt;/b&gt;"),
            "{slack}"
        );
        let webhook = of(&Channel::Webhook { url: url(), headers: Vec::new(), template: None });
        assert_eq!((&webhook["output"], &webhook["ran"]), (&json!("<b>boom</b>"), &json!("./bill --all")));
        let alertmanager = of(&Channel::Alertmanager { url: url(), headers: Vec::new() });
        assert_eq!(alertmanager[0]["annotations"]["output"], "<b>boom</b>");
        let pagerduty = of(&Channel::Pagerduty { key: Text::secret("k"), url: url() });
        assert_eq!(pagerduty["payload"]["custom_details"]["output"], "<b>boom</b>");
    }

    #[test]
    fn a_recovery_ends_the_alert_and_the_incident_of_the_failure() {
        let url = Text::plain("http://localhost/");
        let alertmanager = Channel::Alertmanager { url: url.clone(), headers: Vec::new() };
        let (failed, recovered) = (to(&alertmanager, AlertKind::Failed), to(&alertmanager, AlertKind::Recovered));
        assert_eq!(failed[0]["labels"], recovered[0]["labels"]);
        assert_eq!(failed[0]["annotations"]["runbook_url"], "https://wiki/bill");
        assert_eq!(
            (&failed[0]["endsAt"], &recovered[0]["endsAt"]),
            (&json!("1970-01-02T01:00:00Z"), &json!(Wall::EPOCH))
        );
        let pagerduty = Channel::Pagerduty { key: Text::secret("k"), url };
        let (failed, recovered) = (to(&pagerduty, AlertKind::Failed), to(&pagerduty, AlertKind::Recovered));
        assert_eq!((&failed["event_action"], &recovered["event_action"]), (&json!("trigger"), &json!("resolve")));
        assert_eq!((&failed["dedup_key"], &failed["routing_key"]), (&recovered["dedup_key"], &json!("k")));
        assert_eq!(to(&pagerduty, AlertKind::Unknown)["dedup_key"], failed["dedup_key"], "a recovery resolves it");
        let (doubt, ends) = (to(&alertmanager, AlertKind::Unknown), to(&alertmanager, AlertKind::Recovered));
        assert_eq!((&ends[1]["labels"], &ends[1]["endsAt"]), (&doubt[0]["labels"], &json!(Wall::EPOCH)));
        for (channel, labels) in [(&alertmanager, "/0/labels"), (&pagerduty, "/dedup_key")] {
            let of = |kind| to(channel, kind).pointer(labels).unwrap().clone();
            assert_eq!(of(AlertKind::Late), of(AlertKind::LateNoMore), "the end of a late run ends what it opened");
            assert_ne!(of(AlertKind::Late), of(AlertKind::Failed), "and nothing else");
        }
    }
}
