//! What every screen has around it: whether jobs are being fired, under which leader, and the way to the other screens.

use std::sync::LazyLock;
use std::time::Duration;

use maud::{DOCTYPE, Markup, html};
use sha2::{Digest as _, Sha256};

use super::Noticed;
use super::looker::{JOBS, Looker, Theme, UTC, Zones, up};
use super::words::{Viewpoint, count, foreign, instant, shown, spoken, took};
use crate::board::{Board, Counts};
use crate::fence::Fence;
use crate::job::{JobName, RunId, Word as _};
use crate::ledger::{ALL_DRAINED, all_drained};
use crate::node::{Role, Status};
use crate::time::{Boot, Wall};

/// How long the store may say nothing before the page says so. Every node publishes a record each 5 s, so that a store that
/// answers is noticed at least that often.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(15);

/// The files beside the page, by the names that they are asked for. A name changes with what is in the file, so that a
/// browser may keep it for good.
pub(super) static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        Asset::new("css", "text/css; charset=utf-8", include_str!("page.css")),
        Asset::new("js", "text/javascript; charset=utf-8", include_str!("page.js")),
        Asset::new("svg", "image/svg+xml", include_str!("icon.svg")),
    ]
});

/// A file beside the page.
pub(super) struct Asset {
    pub name: String,
    pub kind: &'static str,
    pub text: &'static str,
}

impl Asset {
    fn new(extension: &str, kind: &'static str, text: &'static str) -> Asset {
        let digest = Sha256::digest(text);
        let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Asset { name: format!("page-{digest}.{extension}"), kind, text }
    }
}

/// The screens that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    Now,
    Jobs,
    Week,
    Trouble,
    Leadership,
    Locks,
    Migrations,
    Audit,
    Store,
}

const SCREENS: [(Screen, &str, &str); 9] = [
    (Screen::Now, "", "Now"),
    (Screen::Jobs, "jobs", "Jobs"),
    (Screen::Week, "week", "Week"),
    (Screen::Trouble, "trouble", "Trouble"),
    (Screen::Leadership, "leadership", "Leadership"),
    (Screen::Locks, "locks", "Locks"),
    (Screen::Migrations, "migrations", "Migrations"),
    (Screen::Audit, "audit", "Audit"),
    (Screen::Store, "store", "Store"),
];

/// Whether jobs are being fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pill {
    Firing,
    /// They are, and something is wrong.
    Degraded(String),
    NotFiring(String),
    /// This node does not know.
    Unclear(String),
}

impl Pill {
    /// The word, the class of its colour, and its sign.
    pub(crate) fn look(&self) -> (&'static str, &'static str, &'static str) {
        match self {
            Pill::Firing => ("firing", "ok", "●"),
            Pill::Degraded(_) => ("degraded", "warn", "▲"),
            Pill::NotFiring(_) => ("NOT firing", "bad", "■"),
            Pill::Unclear(_) => ("not known", "unk", "?"),
        }
    }

    pub(crate) fn why(&self) -> Option<&str> {
        match self {
            Pill::Firing => None,
            Pill::Degraded(why) | Pill::NotFiring(why) | Pill::Unclear(why) => Some(why),
        }
    }
}

/// The leader, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    /// `None`: its record is not known.
    pub node: Option<String>,
    pub fence: Option<Fence>,
    pub since: Wall,
    /// It is this node.
    pub is_here: bool,
    /// What its clock said when it published last.
    pub last_sign: Option<Wall>,
}

/// What every screen says.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The person who looks at it.
    pub looker: Looker,
    /// The key of the forms of this page: sent twice, each is one act.
    pub key: String,
    /// All jobs are paused.
    pub all_paused: bool,
    /// All nodes are drained.
    pub all_drained: bool,
    pub namespace: String,
    /// The node that answers; empty: a command shows what it reads itself.
    pub node: String,
    /// The URL of the store, without its user and password; empty: a command shows what it reads itself.
    pub store: String,
    pub now: Wall,
    pub firing: Pill,
    pub leader: Option<Leader>,
    /// When this node last heard from the store.
    pub heard_at: Option<Wall>,
    /// For how long this node trusts its session; `None`: it has none that it may trust.
    pub trusted_for: Option<Duration>,
    /// Up to when the schedules have been decided.
    pub decided: Option<Wall>,
    /// Of the jobs that the looker sees.
    pub counts: Counts,
    /// What is wrong with nodes, for people.
    pub troubles: Vec<String>,
    /// How many runs are in doubt; `None`: that is not known, or not shown to this person.
    pub in_doubt: Option<usize>,
    /// What is wrong with the store, for people.
    pub defects: Vec<String>,
    /// The channels that take no alerts, for people.
    pub unsent: Vec<String>,
}

impl Frame {
    /// What is known here, at this time, and this person may see. `status`: of the node that answers; `None`: a command
    /// shows what it reads itself.
    pub(crate) fn of(
        board: &Board,
        status: Option<&Status>,
        namespace: &str,
        (boot, now): (Boot, Wall),
        looker: Looker,
    ) -> Frame {
        let own = board.this_node();
        let leader = board.leader().map(|leader| {
            let record = board.nodes().find(|(lease, _)| *lease == leader.lease).map(|(_, record)| record);
            Leader {
                node: record.map(|record| record.node.clone()),
                fence: board.fence(),
                since: leader.since,
                is_here: own.lease == Some(leader.lease),
                // It was there when it began to lead, which its record may not show yet.
                last_sign: record.map(|record| record.clock.max(leader.since)),
            }
        });
        let trusted_for = own.trusted_until.map(|until| until.since(boot)).filter(|left| !left.is_zero());
        let mut frame = Frame {
            namespace: namespace.to_owned(),
            node: status.map_or_else(String::new, |status| status.node.clone()),
            now,
            firing: Pill::Firing,
            leader,
            heard_at: board.current_at(),
            trusted_for,
            decided: board.watermark().map(|mark| mark.instant),
            counts: board.counts_of(now, looker.jobs.as_ref().map(|jobs| move |job: &JobName| jobs.include(job))),
            troubles: troubles(board, status),
            in_doubt: None,
            defects: Vec::new(),
            unsent: Vec::new(),
            key: String::new(),
            store: String::new(),
            all_paused: board.are_all_paused().is_some(),
            all_drained: all_drained(board.nodes().map(|(_, node)| node)),
            looker,
        };
        if !frame.looker.sees_all_jobs() && !frame.troubles.is_empty() {
            // They may name jobs.
            frame.troubles = vec!["a node reports a trouble, which is shown to those who see all jobs".to_owned()];
        }
        frame.firing = frame.judge(status);
        frame
    }

    /// The same with what the node has seen of the store.
    pub(super) fn noticing(mut self, noticed: Option<&Noticed>) -> Frame {
        let Some(noticed) = noticed.filter(|_| self.looker.sees_all_jobs()) else { return self };
        let Noticed { in_doubt, defects, unsent } = noticed;
        self.unsent.clone_from(unsent);
        self.in_doubt = Some(*in_doubt);
        self.defects.clone_from(defects);
        if self.firing == Pill::Firing && *in_doubt > 0 {
            self.firing = Pill::Degraded(super::words::in_doubt(*in_doubt));
        }
        self
    }

    /// The same with the runs in doubt that the screen lists: the header has them too, also where the node has not looked
    /// since.
    pub(super) fn listing(self, unknown: &Result<(Vec<RunId>, bool), String>) -> Frame {
        let listed = unknown.as_ref().map_or(0, |(runs, _)| runs.len());
        let in_doubt = listed.max(self.in_doubt.unwrap_or(0));
        let noticed = Noticed { in_doubt, defects: self.defects.clone(), unsent: self.unsent.clone() };
        self.noticing(Some(&noticed))
    }

    fn judge(&self, status: Option<&Status>) -> Pill {
        let leads_without_trust =
            status.is_some_and(|status| status.role == Role::Leader) && self.trusted_for.is_none();
        let here = if status.is_some() { "this node" } else { "this command" };
        match (self.heard_at, &self.leader) {
            (None, _) => Pill::Unclear(format!("{here} has not read the store yet")),
            _ if leads_without_trust => Pill::NotFiring(
                "this node leads and can no longer trust its lease: the store does not answer".to_owned(),
            ),
            (Some(_), _) if self.silence().is_some() => {
                Pill::Unclear(format!("the store has said nothing to {here} for a while"))
            }
            (Some(_), None) if self.all_drained => Pill::NotFiring(ALL_DRAINED.to_owned()),
            (Some(_), None) => Pill::NotFiring("no node leads".to_owned()),
            _ if self.all_paused => Pill::Degraded("all jobs are paused".to_owned()),
            _ if self.counts.late > self.counts.overdue => {
                let undecided = self.counts.late.saturating_sub(self.counts.overdue);
                Pill::Degraded(format!("{} late", count(undecided, "job")))
            }
            _ => match self.troubles.first() {
                Some(trouble) => Pill::Degraded(trouble.clone()),
                None => Pill::Firing,
            },
        }
    }

    /// From where the instants of the screen are looked at.
    pub(crate) fn view(&self) -> Viewpoint {
        Viewpoint { now: self.now, zones: self.looker.zones }
    }

    /// For how long the store has said nothing, where that is too long.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.heard_at.map(|heard| self.now.since(heard)).filter(|silence| *silence > SILENT_AFTER)
    }

    /// Whether the store answers, as far as this node knows.
    pub(super) fn store_answers(&self) -> bool {
        self.heard_at.is_some() && self.silence().is_none()
    }
}

/// What is wrong with nodes; what several of them say is said once, with their names.
fn troubles(board: &Board, status: Option<&Status>) -> Vec<String> {
    let mut said: Vec<(String, Vec<&str>)> = Vec::new();
    let own = status.into_iter().flat_map(|status| status.reasons.iter().map(|why| (&*status.node, why.to_string())));
    let others = board.nodes().map(|(_, record)| record);
    let others = others.filter(|record| status.is_none_or(|status| record.node != status.node));
    let others = others.flat_map(|record| {
        let stands_back = record.stands_back.iter().map(|why| format!("stands back: {why}"));
        stands_back.chain(record.troubles.iter().cloned()).map(|what| (&*record.node, what))
    });
    let hand_overs = board.nodes().filter_map(|(_, record)| Some((&*record.node, record.hands_over.as_ref()?.text())));
    for (node, what) in own.chain(others).chain(hand_overs) {
        match said.iter_mut().find(|(other, _)| *other == what) {
            Some((_, nodes)) => nodes.push(node),
            None => said.push((what, vec![node])),
        }
    }
    let mut troubles: Vec<String> = said.iter().map(|(what, nodes)| format!("{}: {what}", nodes.join(", "))).collect();
    let mut digest: Option<&str> = None;
    let mut differs = false;
    for (_, record) in board.nodes() {
        differs |= *digest.get_or_insert(&record.config_digest) != record.config_digest;
    }
    if differs {
        troubles.push("the nodes have different configurations: what fires depends on which node leads".to_owned());
    }
    troubles
}

/// Where a screen stands below the top: links are relative, so that the page works behind any prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// `/`, `/jobs`.
    Top,
    /// `/jobs/NAME`, `/runs/RUN`.
    Below,
}

impl Depth {
    /// What leads to the top.
    pub(super) fn up(self) -> &'static str {
        match self {
            Depth::Top => "./",
            Depth::Below => "../",
        }
    }
}

/// A whole page. `live`: the seconds between two looks of the script at what has changed; 0: none.
pub(super) fn page(frame: &Frame, at: (Screen, Depth), title: &str, live: u32, body: &Markup) -> Markup {
    let (screen, depth) = at;
    let up = depth.up();
    let (word, class, sign) = frame.firing.look();
    let title = format!("{word} · {title} · {}", frame.namespace);
    let content = html! {
        header id="top" {
            div.bar {
                a.brand href=(up) { "fencron" }
                span.ns title="The namespace" { (frame.namespace) }
                p.pill.(class) id="pill" role="status" { span.sign aria-hidden="true" { (sign) } " " (word) }
                p.who { (leader_line(frame)) }
                form.find role="search" action={ (up) "jobs" } {
                    input type="search" name="q" aria-label="Find jobs by name" placeholder="Find a job"
                        maxlength="100";
                }
                button.live id="live" type="button" hidden data-keep="" aria-pressed="false" { "Pause updates" }
                (me(&frame.looker, up))
            }
            nav aria-label="Screens" {
                @for (other, path, name) in SCREENS {
                    @if frame.looker.may_open(path) && (other != Screen::Audit || frame.looker.may_act()) {
                        a href={ (up) (path) } aria-current=[(other == screen).then_some("page")] {
                            (name) (badge(other, frame))
                        }
                    }
                }
            }
        }
        main id="main" tabindex="-1" {
            (said(&frame.looker))
            (stale(frame))
            (body)
        }
        (footer(frame))
    };
    document(frame.looker.theme, up, &title, live, &content)
}

/// A page that is about no cluster: it has nothing but its text.
pub(crate) fn plain(looker: &Looker, title: &str, body: &Markup) -> Markup {
    let up = up(&looker.path);
    let content = html! {
        header id="top" { div.bar.alone { a.brand href=(up) { "fencron" } } }
        main.alone id="main" tabindex="-1" { (body) }
    };
    document(looker.theme, &up, title, 0, &content)
}

/// What stands around the content of every page.
fn document(theme: Theme, up: &str, title: &str, live: u32, content: &Markup) -> Markup {
    let [css, js, icon] = &*ASSETS;
    let scheme = match theme {
        Theme::System => "light dark",
        Theme::Dark => "dark",
        Theme::Light => "light",
    };
    html! {
        (DOCTYPE)
        html lang="en" data-theme=(theme.word()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content=(scheme);
                title { (title) " · fencron" }
                link rel="stylesheet" href={ (up) "assets/" (css.name) };
                link rel="icon" type="image/svg+xml" href={ (up) "assets/" (icon.name) };
                script type="module" src={ (up) "assets/" (js.name) } {}
            }
            body data-live=(live) {
                a.skip href="#main" { "Skip to the content" }
                (content)
            }
        }
    }
}

/// Who looks, and how that person wants the page. Each choice is a form of its own, so that it works without script.
fn me(looker: &Looker, up: &str) -> Markup {
    let settings = format!("{up}settings");
    let zones = looker.zones;
    let choice = |name: &str, value: &str, chosen: bool, label: &str| {
        html! { button name=(name) value=(value) aria-pressed=(if chosen { "true" } else { "false" }) { (label) } }
    };
    let next = html! { input type="hidden" name="next" value=(looker.path); };
    let (mine, is_mine) = match zones {
        Zones::Mine(zone) => (zone.name(), true),
        Zones::Jobs | Zones::Utc => ("", false),
    };
    html! {
        details.me id="me" {
            summary {
                @if let Some(name) = &looker.name { (foreign(name)) ", " (looker.role.word()) " · " }
                span.muted { "times in " (zones.name()) }
            }
            div.menu {
                @if !looker.sees_all_jobs() { p.muted { "You see the jobs " (patterns(looker)) "." } }
                h2 { "Times" }
                form.choice method="post" action=(settings) {
                    (next)
                    (choice("zones", JOBS, zones == Zones::Jobs, "UTC and the job's"))
                    (choice("zones", UTC, zones == Zones::Utc, "UTC"))
                }
                form.choice method="post" action=(settings) {
                    (next)
                    input name="mine" id="mine" value=(mine) aria-label="My time zone" placeholder="Europe/Berlin"
                        maxlength="100" required;
                    (choice("zones", "mine", is_mine, "Mine"))
                }
                h2 { "Theme" }
                form.choice method="post" action=(settings) {
                    (next)
                    @for (theme, name) in Theme::ALL { (choice("theme", theme.word(), theme == looker.theme, name)) }
                }
                @if looker.has_login {
                    form.choice method="post" action={ (up) "logout" } { button id="logout" { "Log out" } }
                }
            }
        }
    }
}

/// The patterns of the jobs that a person is narrowed to.
fn patterns(looker: &Looker) -> Markup {
    let list = looker.jobs.as_ref().map(|jobs| jobs.list().join(", ")).unwrap_or_default();
    html! { b { (foreign(&list)) } }
}

fn footer(frame: &Frame) -> Markup {
    html! {
        footer id="foot" {
            span {
                "Answered by node "
                b { (foreign(&frame.node)) }
                ", fencron "
                (env!("CARGO_PKG_VERSION"))
                " at "
                (instant(frame.now, frame.view()))
            }
            span { "Times are in " (frame.looker.zones.name()) " where no other zone is named." }
            span {
                "The commands here are for a machine with a node. On another one, set "
                code { "FENCRON_STORE=" (shown(&frame.store)) }
                " and "
                code { "FENCRON_NAMESPACE=" (frame.namespace) }
                "."
            }
            span.keys hidden data-keep="" id="keys" {
                kbd { "/" }
                " search, "
                kbd { "g" }
                " then "
                kbd { "n" }
                " Now, "
                kbd { "j" }
                " Jobs, "
                kbd { "l" }
                " Leadership, "
                kbd { "p" }
                " pause updates"
            }
        }
    }
}

fn badge(screen: Screen, frame: &Frame) -> Markup {
    let (counts, defects) = (frame.counts, frame.defects.len());
    let badges = match screen {
        Screen::Trouble => [(frame.in_doubt.unwrap_or(0), "in doubt"), (counts.failing, "failing")],
        Screen::Jobs => [(counts.late, "late"), (0, "")],
        Screen::Store => [(defects, if defects == 1 { "defect" } else { "defects" }), (0, "")],
        _ => [(0, ""); 2],
    };
    html! { @for (number, what) in badges { @if number > 0 { " " span.badge { (number) " " (what) } } } }
}

fn leader_line(frame: &Frame) -> Markup {
    html! {
        @match &frame.leader {
            Some(leader) => {
                b { @match &leader.node { Some(node) => (foreign(node)), None => "a node that is gone" } }
                @if let Some(fence) = leader.fence { ", fence " b { (fence) } }
                @if leader.is_here && let Some(left) = frame.trusted_for { ", trusted for " (took(left)) }
            }
            None => "no leader",
        }
    }
}

/// What became of the form that the person sent last.
fn said(looker: &Looker) -> Markup {
    html! {
        @if let Some((is_done, text)) = &looker.said {
            p.notice.(if *is_done { "ok" } else { "bad" }) id="said" role="status" {
                @if *is_done { b { "Done. " } } @else { b { "Nothing was done. " } }
                (spoken(text))
            }
        }
    }
}

/// What the screen says where it may be old.
fn stale(frame: &Frame) -> Markup {
    html! {
        @if let (Some(silence), Some(heard)) = (frame.silence(), frame.heard_at) {
            p.notice.unk id="stale" {
                b { "This is as of " (instant(heard, frame.view())) ", " (took(silence)) " old. " }
                "Node "
                (foreign(&frame.node))
                " has heard nothing from the store (" (foreign(&frame.store)) ") since then, so it shows what it knew: "
                "what ran then may have ended. Look at another node, or at the store: " (super::words::command("status"))
            }
        }
        @if frame.heard_at.is_none() {
            p.notice.unk id="stale" {
                b { "This node has not read the store (" (foreign(&frame.store)) ") yet. " }
                "What stands here is incomplete."
            }
        }
    }
}
