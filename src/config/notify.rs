//! `notify`: the channels of a file and its heartbeat, and which ends of a job's runs are notified through them.

mod smtp;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::fill::Filled;
use super::http::{MAX_HEADERS, read_headers, read_json, read_url};
use super::jobs::read_words;
use super::keys::{self, DAY, SECOND, Shape, Tables, duration, key, named};
use super::tables::MAX_ARGS;
use super::values::Value;
use super::walk::{Fields, Spot, Walk};
use crate::job::template::{self, Template};
use crate::job::{
    About, AlertKind, CHANNELS_MOST, Channel, Heartbeat, Notices, Notify, Text, Whose, Word as _, check_name, words,
};

/// The most runs in a row that may end badly before the first alert.
pub const MAX_AFTER: u32 = 1_000;
/// The longest time until an alert is repeated.
pub const MAX_REPEAT: Duration = Duration::from_secs(365 * 86_400);

/// How large a template may be, in bytes.
const TEMPLATE_MOST: usize = 16 * 1024;

/// Where PagerDuty takes events.
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";
/// How often a heartbeat is sent that does not say so.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);
/// What `to` says in place of channels for a job without alerts.
const OFF: &str = "off";

static CHANNEL_SHAPE: Shape = Shape::Map(CHANNEL);

/// The keys of `notify` of a file.
#[rustfmt::skip]
pub static NOTICES: Tables = &[&[
    key("channels", named(&CHANNEL_SHAPE, CHANNELS_MOST, "channels are too many: at most"),
        "Where alerts go, by name.").also("channel receivers contacts"),
    key("heartbeat", Shape::Map(HEARTBEAT),
        "A request that the leader makes again and again, so that another service notices its silence.")
        .also("ping dead_man deadman watchdog"),
    key("troubles", Shape::Texts { most: CHANNELS_MOST },
        "The channels through which troubles of the cluster are notified, or `off`; by default all of them.")
        .also("cluster"),
]];

#[rustfmt::skip]
static CHANNEL: Tables = &[&[
    key("webhook", Shape::Text, "A URL to which each alert is sent as a POST of JSON.").also("http url"),
    key("slack", Shape::Text, "The URL of an incoming webhook of Slack, or of what takes the same.").also("mattermost"),
    key("alertmanager", Shape::Text, "The URL of an Alertmanager, without a path: `http://alertmanager:9093`."),
    key("pagerduty", Shape::Text, "The routing key of a service in PagerDuty (Events API, version 2).").also("routing_key"),
    key("smtp", Shape::Text,
        "A server that takes mails: `smtps://HOST` speaks TLS from the beginning, `smtp://HOST` has to offer STARTTLS.")
        .also("mail email"),
    key("from", Shape::Text, "With `smtp`: the address of the sender.").also("sender"),
    key("to", Shape::Texts { most: smtp::MAX_RECEIVERS }, "With `smtp`: the addresses of the receivers.")
        .also("recipients receivers"),
    key("user", Shape::Text, "With `smtp`: the name to log in with.").also("username login"),
    key("password", Shape::Text, "With `smtp`: the password of that user.").also("pass secret"),
    key("starttls", Shape::Word(words::<bool>),
        "With `smtp`: `false` sends in the clear, for a server on this machine or behind a tunnel."),
    key("ca", Shape::Text,
        "With `smtp`: a file of the certificates (PEM) to trust instead of those that the machine trusts."),
    key("exec", Shape::Command { most: MAX_ARGS },
        "A program and its arguments; it reads the alert as JSON from its input.")
        .also("command cmd run"),
    key("template", Shape::Any,
        "With `webhook`: the body to send in place of its own JSON, in whose texts `{{NAME}}` stands for what that has.")
        .also("body json payload"),
    key("output", Shape::Word(words::<bool>),
        "Whether alerts have the end of what their runs wrote, which may hold what the receiver must not see.")
        .also("logs tail"),
    key("headers", named(&Shape::Text, MAX_HEADERS, "headers are too many: a request sets at most"),
        "Headers to send with `webhook` or `alertmanager`.").also("header"),
    key("url", Shape::Text, "With `pagerduty`: where events are sent, in place of PagerDuty's own URL."),
]];

#[rustfmt::skip]
static HEARTBEAT: Tables = &[&[
    key("url", Shape::Text, "The URL of the request.").also("uri address"),
    key("every", duration(SECOND, DAY), "How often it is made; by default each minute.").also("interval"),
]];

/// The keys that say what a channel is.
const KINDS: [&str; 6] = Channel::KINDS;

/// Reads `notify` of the file.
pub fn read(walk: &mut Walk, spot: Spot) -> Notices {
    let Some(fields) = walk.fields(&spot) else { return Notices::default() };
    let check = |name: &str| match name {
        OFF => Err("`off` cannot be the name of a channel: `notify: off` stands for no alerts".to_owned()),
        _ => check_name(name).map_err(|error| error.to_string()),
    };
    let channels = fields.get("channels").map(|spot| walk.named(spot, check, |walk, spot, _| read_channel(walk, spot)));
    let (mut with_output, channels) = (BTreeSet::new(), channels.unwrap_or_default().into_iter());
    let channels = channels.map(|(name, (channel, has_output))| {
        with_output.extend(has_output.then(|| name.clone()));
        (name, channel)
    });
    let channels = channels.collect();
    let heartbeat = fields.get("heartbeat").and_then(|spot| read_heartbeat(walk, spot));
    let mut notices = Notices { channels, with_output, heartbeat, troubles: Vec::new() };
    walk.channels = names(&notices);
    let troubles = fields.get("troubles").and_then(|spot| Recipients::read(walk, spot)).unwrap_or(Recipients::All);
    notices.troubles = match troubles {
        Recipients::All => walk.channels.to_vec(),
        Recipients::These(names) => names,
    };
    notices
}

/// The channel, and whether its alerts have the end of the output of their runs.
fn read_channel(walk: &mut Walk, spot: Spot) -> Option<(Channel, bool)> {
    let fields = walk.fields(&spot)?;
    let given: Vec<&'static str> = KINDS.into_iter().filter(|kind| fields.get(kind).is_some()).collect();
    let [kind] = given.as_slice() else {
        if given.is_empty() && !fields.meant(&KINDS) {
            let kinds = keys::list(KINDS.into_iter()).replace(" and ", " or ");
            walk.wrong(spot, format!("this channel goes nowhere: give it one of {kinds}"));
        } else if let Some(second) = given.get(1).and_then(|kind| fields.get(kind)) {
            let kinds = keys::list(given.iter().copied());
            walk.wrong(second, format!("{kinds} cannot be given together: make a channel of each"));
        }
        return None;
    };
    refuse_idle(walk, &fields, kind);
    let has_output = fields.get("output").map_or(Some(false), |spot| bool::read(walk, spot));
    let spot = fields.get(kind)?;
    let mut headers = || fields.get("headers").map(|spot| read_headers(walk, spot)).unwrap_or_default();
    let channel = match *kind {
        "webhook" => {
            let (headers, url) = (headers(), read_url(walk, spot));
            let template = match fields.get("template") {
                None => None,
                Some(spot) => Some(Box::new(read_template(walk, spot)?)),
            };
            Channel::Webhook { url: url?, headers, template }
        }
        "alertmanager" => Channel::Alertmanager { headers: headers(), url: read_url(walk, spot)? },
        "slack" => Channel::Slack { url: read_url(walk, spot)? },
        "pagerduty" => {
            let url = fields.get("url").map_or_else(|| Some(Text::plain(PAGERDUTY)), |spot| read_url(walk, spot));
            Channel::Pagerduty { key: walk.text(spot)?, url: url? }
        }
        "smtp" => Channel::Smtp(Box::new(smtp::read(walk, spot, &fields)?)),
        _ => Channel::Exec(read_words(walk, spot)?),
    };
    Some((channel, has_output?))
}

/// Reads the body of a webhook.
fn read_template(walk: &mut Walk, spot: Spot) -> Option<Template> {
    let (mut is_secret, mut filled_in, wrong_before) = (false, 0, walk.wrong.count());
    let mut read = |walk: &mut Walk, spot: Spot, filled: Filled| {
        is_secret |= filled.secret;
        let names = match template::names(&filled.text) {
            Ok(names) => names,
            Err(_) => return walk.refuse(spot, "this `{{` has no `}}`: close it"),
        };
        filled_in += names.len();
        for (_, name) in names.into_iter().filter(|(_, name)| !template::NAMES.contains(name)) {
            let meant = keys::nearest(name, template::NAMES.iter().copied());
            let known = meant.map_or_else(
                || format!("it has {}", keys::list(template::NAMES.iter().copied())),
                |meant| format!("did you mean `{{{{{meant}}}}}`?"),
            );
            let shown = if filled.secret { String::new() } else { format!(" `{{{{{name}}}}}`") };
            walk.wrong(spot, format!("a message has no{shown}: {known}"));
        }
        Some(filled.text.into_owned())
    };
    let json = read_json(walk, spot, &mut read);
    if filled_in > template::FILLED_MOST {
        let most = template::FILLED_MOST;
        walk.wrong(spot, format!("{filled_in} names in braces are too many: a template has at most {most}"));
    }
    let json = json.filter(|_| walk.wrong.count() == wrong_before)?;
    let bytes = json.to_string().len();
    if bytes > TEMPLATE_MOST {
        return walk.refuse(spot, format!("this has {bytes} bytes as JSON: a template has at most {TEMPLATE_MOST}"));
    }
    Some(Template::new(json, is_secret))
}

/// Notes settings that mean nothing for this kind of channel.
fn refuse_idle(walk: &mut Walk, fields: &Fields, kind: &str) {
    let of_smtp = smtp::KEYS.map(|name| (name, ["smtp"].as_slice()));
    let of_others =
        [("headers", ["webhook", "alertmanager"].as_slice()), ("url", &["pagerduty"]), ("template", &["webhook"])];
    for (name, kinds) in of_others.into_iter().chain(of_smtp) {
        if let Some(spot) = fields.get(name).filter(|_| !kinds.contains(&kind)) {
            let kinds = keys::list(kinds.iter().copied()).replace(" and ", " or ");
            walk.wrong(spot, format!("this means nothing here: it goes with {kinds}"));
        }
    }
}

fn read_heartbeat(walk: &mut Walk, spot: Spot) -> Option<Heartbeat> {
    let fields = walk.fields(&spot)?;
    let every = fields.get("every").map_or(Some(HEARTBEAT_EVERY), |spot| Duration::read(walk, spot));
    let url = fields.need(walk, "url", spot, "the heartbeat goes nowhere: give it a `url`");
    Some(Heartbeat { url: url.and_then(|spot| read_url(walk, spot))?, every: every? })
}

/// Which ends of a job's runs are notified, and where, as far as it has been read.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    pub on: Kinds,
    pub to: Recipients,
    pub after: u32,
    pub repeat: Duration,
}

impl Wanted {
    pub fn blank() -> Wanted {
        let on = words::<AlertKind>().into_iter().filter_map(AlertKind::named).collect();
        Wanted { on: Kinds(on), to: Recipients::All, after: 1, repeat: Duration::ZERO }
    }

    /// What is notified, in a file with these channels. Jobs that want the same share it with `before`.
    pub fn settle(&self, channels: &[String], about: &About, before: &mut Option<Arc<Notify>>) -> Option<Arc<Notify>> {
        let to = match &self.to {
            Recipients::All => channels.to_vec(),
            Recipients::These(names) => names.clone(),
        };
        if to.is_empty() {
            return None;
        }
        let whose = whose(about);
        let notify = Notify { on: self.on.0.clone(), to, after: self.after, repeat: self.repeat, whose };
        let same = before.take().filter(|before| **before == notify);
        *before = Some(same.unwrap_or_else(|| Arc::new(notify)));
        before.clone()
    }
}

/// What alerts bear of a job: nothing that came from outside of the file, and nothing secret of a URL.
fn whose(about: &About) -> Whose {
    let owner = about.owner.as_ref().map(ToString::to_string);
    Whose { owner, labels: about.shown_labels(), runbook: about.shown_runbook(), ran: None }
}

/// The ends of runs that are notified: each once.
#[derive(Clone, PartialEq, Eq)]
pub struct Kinds(Vec<AlertKind>);

/// The channels of a job.
#[derive(Clone, PartialEq, Eq)]
pub enum Recipients {
    /// Every channel of the file.
    All,
    These(Vec<String>),
}

impl Value for Kinds {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Kinds> {
        let mut kinds = Vec::new();
        for item in walk.items("a kind of alert, or a list of them", &spot)? {
            kinds.extend(AlertKind::read(walk, item).filter(|kind| !kinds.contains(kind)));
        }
        Some(Kinds(kinds))
    }
}

impl Value for Recipients {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Recipients> {
        let items = walk.items("the name of a channel, or a list of them", &spot)?;
        let (alone, mut names) = (items.len() == 1, Vec::new());
        for item in items {
            let Some(filled) = walk.known("the name of a channel", item) else { continue };
            if alone && filled.text == OFF {
                return Some(Recipients::These(Vec::new()));
            }
            let channels = Arc::clone(&walk.channels);
            if !channels.iter().any(|channel| *channel == filled.text) {
                let meant = walk.guess(&filled, channels.iter().map(String::as_str));
                let shown = filled.shown();
                walk.wrong(
                    item,
                    match meant {
                        Some(meant) => format!("there is no channel {shown}: did you mean `{meant}`?"),
                        None => {
                            format!("there is no channel {shown}: `notify: {{channels: …}}` of the file names them")
                        }
                    },
                );
            } else if !names.iter().any(|name| *name == filled.text) {
                names.push(filled.text.into_owned());
            }
        }
        Some(Recipients::These(names))
    }
}

/// The names of the channels.
pub fn names(notices: &Notices) -> Arc<[String]> {
    let channels: &BTreeMap<String, Channel> = &notices.channels;
    channels.keys().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Sources, parse};
    use super::*;

    fn file(channels: &str, defaults: &str, job: &str) -> String {
        format!(
            "version: 1\nnotify:\n  channels: {channels}\ndefaults: {defaults}\njobs:\n  j: {{schedule: '@daily', \
             shell: 'true'{job}}}\n"
        )
    }

    fn of_job(defaults: &str, job: &str) -> Option<Arc<Notify>> {
        let channels = "{ops: {slack: 'http://localhost/s'}, hook: {webhook: 'http://localhost/w', headers: {a: b}}}";
        let config = parse(&file(channels, defaults, job), &Sources::none()).unwrap();
        config.jobs.values().next().unwrap().notify.clone()
    }

    fn problems(channels: &str, job: &str) -> Vec<String> {
        let found = parse(&file(channels, "{}", job), &Sources::none()).unwrap_err();
        found.list().iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
    }

    #[test]
    fn a_job_is_notified_through_all_channels_unless_it_names_some() {
        let of = |defaults, job| of_job(defaults, job).map(|notify| notify.to.clone());
        let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("{}", ""), some(&["hook", "ops"]));
        assert_eq!(of("{}", ", notify: ops"), some(&["ops"]));
        assert_eq!(of("{notify: {to: ops}}", ""), some(&["ops"]));
        assert_eq!(of("{notify: ops}", ", notify: {to: [hook, hook]}"), some(&["hook"]));
        assert_eq!(of("{notify: ops}", ", notify: off"), None);
    }

    #[test]
    fn what_a_job_says_is_laid_over_the_defaults() {
        let notify = of_job("{notify: {after: 3, repeat: 1h}}", ", notify: {on: [failed, failed]}").unwrap();
        assert_eq!((notify.after, notify.repeat), (3, Duration::from_secs(3_600)));
        assert_eq!(notify.on, [AlertKind::Failed]);
        let notify = of_job("{}", "").unwrap();
        assert_eq!((notify.after, notify.repeat, notify.on.len()), (1, DAY, words::<AlertKind>().len()));
    }

    #[test]
    fn alerts_bear_whose_a_job_is_without_what_is_secret() {
        let job = ", owner: ops, labels: {team: shop}, runbook: 'https://u:p@wiki/x'";
        let whose = of_job("{}", job).unwrap().whose.clone();
        assert_eq!((whose.owner.as_deref(), whose.labels["team"].as_str()), (Some("ops"), "shop"));
        assert_eq!(whose.runbook.as_deref(), Some("https://u:***@wiki/x"));
        for (url, shown) in [
            ("https://wiki/x?page=1&token=hunter2", "https://wiki/x?page=1&token=***"),
            ("https://hunter2@wiki/x", "https://***@wiki/x"),
        ] {
            let whose = of_job("{}", &format!(", runbook: '{url}'")).unwrap().whose.clone();
            assert_eq!(whose.runbook.as_deref(), Some(shown));
        }
        assert!(of_job("{}", "").unwrap().whose.is_empty());
    }

    #[test]
    fn all_that_is_wrong_with_a_template_is_said_at_once_with_its_place() {
        let found = problems(
            "{a: {webhook: 'http://x/', template: {b: '{{jbo}}', c: [1, '{{kind'], d: '{{zzzzzz}}'}}, \
             b: {slack: 'http://x/', template: {}}}",
            "",
        );
        assert_eq!(found.len(), 4, "{found:#?}");
        assert_eq!(found[0], "notify.channels.a.template.b: a message has no `{{jbo}}`: did you mean `{{job}}`?");
        assert_eq!(found[1], "notify.channels.a.template.c[1]: this `{{` has no `}}`: close it");
        assert!(
            found[2].starts_with("notify.channels.a.template.d: a message has no `{{zzzzzz}}`: it has"),
            "{found:#?}"
        );
        assert!(found[3].contains("it goes with `webhook`"), "{found:#?}");
        for (template, says) in [
            (format!("['{}']", "{{job}}".repeat(101)), "101 names in braces are too many"),
            (format!("'{}'", "x".repeat(17 * 1024)), "a template has at most 16384"),
        ] {
            let found = problems(&format!("{{a: {{webhook: 'http://x/', template: {template}}}}}"), "");
            assert!(found.len() == 1 && found[0].contains(says), "{found:#?}");
        }
    }

    #[test]
    fn only_channels_that_ask_for_it_have_the_output() {
        let channels =
            "{a: {slack: 'http://localhost/s', output: true}, b: {exec: [x], output: false}, c: {exec: [x]}}";
        let config = parse(&file(channels, "{}", ""), &Sources::none()).unwrap();
        assert_eq!((config.notices.with_output.clone(), config.notices.channels.len()), (["a".to_owned()].into(), 3));
    }

    #[test]
    fn troubles_of_the_cluster_go_to_all_channels_unless_some_are_named() {
        let of = |more: &str| {
            let channels = "{b: {slack: 'http://localhost/s'}, a: {slack: 'http://localhost/t'}}";
            let text = file(&format!("{channels}{more}"), "{}", "");
            parse(&text, &Sources::none()).map(|config| config.notices.troubles.clone())
        };
        assert_eq!(of("").unwrap(), ["a", "b"]);
        assert_eq!(of("\n  troubles: b").unwrap(), ["b"]);
        assert_eq!(of("\n  troubles: off").unwrap(), [""; 0]);
        let why = of("\n  troubles: [c]").unwrap_err().to_string();
        assert!(why.contains("there is no channel `c`"), "{why}");
    }

    #[test]
    fn a_file_without_channels_notifies_nothing() {
        let config = parse(&file("{}", "{}", ""), &Sources::none()).unwrap();
        assert_eq!(config.jobs.values().next().unwrap().notify, None);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_place() {
        let found =
            problems("{ops: {slak: 'http://x/'}, b: {slack: 'x', webhook: 'http://x/'}, c: {}}", ", notify: opps");
        let expected = [
            "notify.channels.ops.slak: unknown key `slak`: did you mean `slack`?",
            "notify.channels.b.slack: `webhook` and `slack` cannot be given together: make a channel of each",
            "notify.channels.c: this channel goes nowhere: give it one of `webhook`, `slack`, `alertmanager`, \
             `pagerduty`, `smtp` or `exec`",
        ];
        for message in expected {
            assert!(found.iter().any(|found| found == message), "{message}: {found:#?}");
        }
        assert!(found.iter().any(|found| found.contains("there is no channel `opps`")), "{found:#?}");
        let found = problems("{ops: {slack: 'http://x/', headers: {a: b}}}", ", notify: {to: opps, on: [faild]}");
        assert!(found.iter().any(|found| found.contains("it goes with `webhook` or `alertmanager`")), "{found:#?}");
        assert!(found.iter().any(|found| found.contains("did you mean `ops`?")), "{found:#?}");
        assert!(found.iter().any(|found| found.contains("did you mean `failed`?")), "{found:#?}");
    }
}
