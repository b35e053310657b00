//! Troubles of this node that a person should know of, although the node may run on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clocks::{Steps, rounded};
use super::{Reason, Running};
use crate::execute::Execute;
use crate::ledger::NodeRecord;
use crate::lock::{Timing, Trust};
use crate::store::Store;
use crate::time::{Boot, Wall, written};

/// How long it is reported that the clock was set.
const SET_TOLD: Duration = Duration::from_secs(3_600);

/// How long it is reported that another node has this one's name, after that one was last seen: it would have published
/// twice by then.
const NAMESAKE_TOLD: Duration = Duration::from_secs(15);

/// How many characters of a text are shown.
const TEXT_MOST: usize = 300;

/// What is not as it should be.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// The files that were refused, by what they are: since when, and why.
    refused: BTreeMap<&'static str, (Wall, Reason)>,
    set: Option<(String, Boot)>,
    namesake: Option<(String, Boot)>,
    unwritten: Option<String>,
    behind: Option<String>,
    steps: Steps,
    /// When the store last answered, where it has not for so long that the session may have ended.
    silent_since: Option<Boot>,
}

/// News of a store that does not answer, with how long that has been.
#[derive(Debug)]
pub(super) enum Silence {
    Begins(String),
    Ended(String),
}

impl Troubles {
    /// A file was refused.
    pub fn file_refused(&mut self, file: &'static str, why: &str, now: Wall) {
        let first = why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let since = self.refused.get(file).map_or(now, |(since, _)| *since);
        // To the minute: nodes that refuse one file at about the same time say the same.
        let since_minute = since.to_utc().format("%Y-%m-%d %H:%MZ");
        let what = format!("{file} is refused since {since_minute}, the old one stays in force");
        self.refused.insert(file, (since, Reason::with_detail(what, cut(first))));
    }

    /// A file was taken.
    pub fn file_taken(&mut self, file: &'static str) {
        self.refused.remove(file);
    }

    /// Whether the wall clock was set since the last look: by how many milliseconds, and how to say it.
    fn look_at_clock(&mut self, (boot, wall): (Boot, Wall)) -> Option<(i64, String)> {
        let by = self.steps.look(boot, wall)?;
        let amount = rounded(by);
        let way = if by > 0 { "forward" } else { "back" };
        let what = format!("its clock was set {way} by {amount}, and showed {wall} then");
        self.set = Some((what.clone(), boot));
        Some((by, what))
    }

    /// Whether the store has begun, or ceased, to be silent for so long that the session may have ended.
    fn silence(&mut self, trust: &Trust, now: Boot, timing: &Timing) -> Option<Silence> {
        if trust.holds(now) {
            let since = self.silent_since.take()?;
            return Some(Silence::Ended(written(Duration::from_secs(now.since(since).as_secs()))));
        }
        if trust.ended.is_some() || self.silent_since.is_some() {
            return None;
        }
        // When the last keep-alive was sent that was acknowledged.
        let since = trust.trusted_until.minus(timing.ttl().saturating_sub(timing.margin()));
        self.silent_since = Some(since);
        Some(Silence::Begins(written(Duration::from_secs(now.since(since).as_secs()))))
    }

    /// Another process uses this node's name. Answers the message, if that is news.
    pub fn namesake(&mut self, other: &NodeRecord, now: Boot) -> Option<String> {
        let at = other.address.as_ref().map(|address| format!(" (at {address})")).unwrap_or_default();
        let what = format!("another node{at} has the name {} too: give each its own --node", other.node);
        let is_known = self.namesake.replace((what.clone(), now)).is_some_and(|(_, at)| now.since(at) < NAMESAKE_TOLD);
        (!is_known).then_some(what)
    }

    /// The store did not take what this node wrote, or (`None`) it did. Says whether that is news.
    pub fn unwritten(&mut self, why: Option<String>, now: Wall) -> bool {
        let was = self.unwritten.is_some();
        match why {
            None => self.unwritten = None,
            Some(_) if was => {}
            Some(why) => {
                self.unwritten =
                    Some(format!("the store takes nothing that this node writes, since {now}: {}", cut(&why)));
            }
        }
        was != self.unwritten.is_some()
    }

    /// By how much the clock is behind `decided`, up to which the schedules have been decided. Answers how to say it,
    /// and whether it became or ceased to be by more than `most`.
    fn behind(&mut self, decided: Option<Wall>, now: Wall, most: Duration) -> Option<&str> {
        let by = decided.map(|decided| decided.since(now)).unwrap_or_default();
        let was = self.behind.is_some();
        self.behind = decided.filter(|_| by > most).map(|decided| {
            let by = written(Duration::from_secs(by.as_secs()));
            format!(
                "its clock is {by} behind {decided}, up to which the schedules have been decided: nothing is due until \
                 then. If a clock was ahead and is right now, `fencron rewind` brings the schedules back"
            )
        });
        (was != self.behind.is_some()).then(|| self.behind.as_deref().unwrap_or_default())
    }

    /// What keeps jobs from being fired by this node, or by any.
    pub fn in_the_way(&self) -> impl Iterator<Item = &String> {
        self.unwritten.iter().chain(&self.behind)
    }

    /// Other troubles.
    pub fn beside(&self, now: Boot) -> impl Iterator<Item = Reason> {
        let lately = move |reported: &Option<(String, Boot)>, long: Duration| {
            reported.as_ref().is_some_and(|(_, at)| now.since(*at) < long)
        };
        let set = self.set.iter().filter(move |_| lately(&self.set, SET_TOLD)).map(|(what, _)| what);
        let namesake =
            self.namesake.iter().filter(move |_| lately(&self.namesake, NAMESAKE_TOLD)).map(|(what, _)| what);
        let refused = self.refused.values().map(|(_, why)| why.clone());
        refused.chain(set.chain(namesake).cloned().map(Reason::new))
    }
}

fn cut(text: &str) -> String {
    let end = text.char_indices().nth(TEXT_MOST).map_or(text.len(), |(at, _)| at);
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", &text[..end])
}

impl<S: Store, E: Execute> Running<S, E> {
    /// Looks whether the wall clock was set, before anything is decided by it; answers what it says.
    pub(super) fn look_at_own_clock(&mut self) -> Wall {
        let (boot, wall) = self.node.options.clock.both();
        if let Some((by, what)) = self.troubles.look_at_clock((boot, wall)) {
            tracing::warn!(
                "{what}: time that was jumped over counts as missed, and what is decided is not decided again"
            );
            self.observed.own_clock_was_set(by);
            self.publishing.soon();
            self.look_at_clocks();
        }
        wall
    }

    /// Says when the clock falls behind what has been decided, and when it has caught up.
    pub(super) fn look_at_watermark(&mut self) {
        let decided = self.scheduler.view().watermark.as_ref().map(|mark| mark.instant);
        let (now, most) = (self.node.options.clock.wall(), self.node.options.max_clock_skew);
        match self.troubles.behind(decided, now, most) {
            None => return,
            Some("") => tracing::info!("this node's clock has caught up with what has been decided"),
            Some(what) => tracing::warn!("this node: {what}"),
        }
        self.publishing.soon();
    }

    /// Says when the store has not answered for so long that the session may have ended, and when it answers again.
    pub(super) fn look_at_silence(&mut self) {
        let Some(trust) = self.leadership.trust() else { return };
        match self.troubles.silence(&trust, self.node.options.clock.boot(), &self.node.options.timing) {
            Some(Silence::Begins(silent)) => tracing::warn!(%silent, "the store has not answered for {silent}"),
            Some(Silence::Ended(away)) => {
                tracing::info!(%away, "the store is back: it had not answered for {away}");
            }
            None => {}
        }
    }
}
