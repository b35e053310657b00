//! What a person ought to know of this node: what is not as it should be, here, though the node may run on. Pure.

use std::time::Duration;

use super::clocks::{Said, rounded};
use crate::ledger::NodeRecord;
use crate::time::{Boot, Wall, written};

/// How long it is told that the clock was set.
const SET_TOLD: Duration = Duration::from_secs(3_600);

/// How long it is told that another node has this one's name, after that one was last heard of: it would have been
/// heard of twice by then.
const NAMESAKE_TOLD: Duration = Duration::from_secs(15);

/// How many characters of a text are told.
const TEXT_MOST: usize = 300;

/// How many of this node's own publications are remembered.
const PUBLICATIONS: usize = 8;

/// What is not as it should be.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// The jobs file was refused: since when, and why.
    refused: Option<(Wall, String)>,
    set: Option<(String, Boot)>,
    namesake: Option<(String, Boot)>,
    unwritten: Option<String>,
    behind: Option<String>,
}

impl Troubles {
    /// The jobs file was refused.
    pub fn file_refused(&mut self, why: &str, now: Wall) {
        let first = why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let since = self.refused.as_ref().map_or(now, |(since, _)| *since);
        let why = format!("the jobs file is refused since {since}, the old one stays in force: {}", cut(first));
        self.refused = Some((since, why));
    }

    /// The jobs file was taken.
    pub fn file_taken(&mut self) {
        self.refused = None;
    }

    /// The wall clock was set by so many milliseconds. Answers how to say it.
    pub fn clock_set(&mut self, by: i64, (boot, wall): (Boot, Wall)) -> String {
        let amount = rounded(by);
        let way = if by > 0 { "forward" } else { "back" };
        let what = format!("its clock was set {way} by {amount}, and showed {wall} then");
        self.set = Some((what.clone(), boot));
        what
    }

    /// Another process goes by this node's name. Answers how to say it, where that is news.
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
    pub fn behind(&mut self, decided: Option<Wall>, now: Wall, most: Duration) -> Option<&str> {
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

    /// What else is to be known.
    pub fn beside(&self, now: Boot) -> impl Iterator<Item = &String> {
        let lately = move |told: &Option<(String, Boot)>, long: Duration| {
            told.as_ref().is_some_and(|(_, at)| now.since(*at) < long)
        };
        let set = self.set.iter().filter(move |_| lately(&self.set, SET_TOLD)).map(|(what, _)| what);
        let namesake =
            self.namesake.iter().filter(move |_| lately(&self.namesake, NAMESAKE_TOLD)).map(|(what, _)| what);
        self.refused.iter().map(|(_, why)| why).chain(set).chain(namesake)
    }
}

fn cut(text: &str) -> String {
    let end = text.char_indices().nth(TEXT_MOST).map_or(text.len(), |(at, _)| at);
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", &text[..end])
}

/// When this node published what its clock says: what others wrote after they had heard of it is younger.
#[derive(Debug, Default)]
pub(super) struct Publications {
    /// What the clock said, when that was, and at which version it is in the store, once that is known.
    sent: std::collections::VecDeque<(Wall, Boot, Option<u64>)>,
}

impl Publications {
    pub fn sent(&mut self, clock: Wall, at: Boot) {
        self.sent.push_front((clock, at, None));
        self.sent.truncate(PUBLICATIONS);
    }

    /// One of them was heard of.
    pub fn heard(&mut self, clock: Wall, version: u64) {
        if let Some(sent) = self.sent.iter_mut().find(|(sent, ..)| *sent == clock) {
            sent.2 = Some(version);
        }
    }

    /// What another node said of its clock in this record, heard now.
    pub fn said(&self, record: &NodeRecord, (boot, wall): (Boot, Wall)) -> Said {
        let before = |version: &Option<u64>| version.is_some_and(|version| version <= record.heard);
        let answered = self.sent.iter().find(|(_, _, version)| before(version));
        let delay_most = answered.map(|(_, at, _)| boot.since(*at));
        Said { theirs: record.clock, ours: wall, heard_at: boot, delay_most }
    }
}
