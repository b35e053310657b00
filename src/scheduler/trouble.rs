//! Troubles of the cluster that are notified: what is seen twice in a row, and once that it is over.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::time::Wall;

/// How many troubles are known at once.
const TROUBLES_MOST: usize = 50;

/// How much is kept of what a trouble is, in bytes.
const WHAT_MOST: usize = 400;

/// That no node leads.
pub const NOBODY_LEADS: &str = "no node leads: nothing is started";

/// Something that is wrong with the cluster, or (`over_at`) was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// For people.
    pub what: String,
    /// The same for as long as the trouble lasts.
    pub key: String,
    /// When it was first notified.
    pub since: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_at: Option<Wall>,
}

impl Trouble {
    /// Its identity, and another one for its end.
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.kind(), self.key, self.since)
    }

    /// What its messages are called.
    pub fn kind(&self) -> &'static str {
        if self.over_at.is_some() { "trouble_over" } else { "trouble" }
    }
}

/// The troubles that were seen at one look, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found(BTreeMap<String, String>);

impl Found {
    /// Adds one. What follows a colon may quote files of users and is left out; `fencron status` has it.
    pub fn add(&mut self, whose: &str, what: &str) {
        let what = what.split(": ").next().unwrap_or_default();
        let what = &what[..what.floor_char_boundary(WHAT_MOST)];
        // How long it has lasted, and the like, changes while it lasts. The names of nodes often differ by a digit alone.
        let lasting: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        let key = format!("{:x}", Sha256::digest(format!("{whose}: {lasting}")))[..16].to_owned();
        let what = if whose.is_empty() { what.to_owned() } else { format!("{whose}: {what}") };
        self.0.insert(key, what);
    }
}

/// The troubles that were notified and are not over, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Troubles(BTreeMap<String, Trouble>);

impl Troubles {
    /// What has to be notified of these, which have lasted for long.
    pub fn begin(&mut self, seen: &Found, now: Wall) -> Vec<Trouble> {
        let mut news = Vec::new();
        for (key, what) in &seen.0 {
            if self.0.len() < TROUBLES_MOST && !self.0.contains_key(key) {
                let trouble = Trouble { what: what.clone(), key: key.clone(), since: now, over_at: None };
                news.push(trouble.clone());
                self.0.insert(key.clone(), trouble);
            }
        }
        news
    }

    /// What has to be notified after a look, where `before` is what was seen at the look before: what passes at once, as a
    /// file that reaches one node before the other, is not.
    pub fn look(&mut self, seen: &Found, before: &Found, now: Wall) -> Vec<Trouble> {
        let is_over = |key: &String| !seen.0.contains_key(key) && !before.0.contains_key(key);
        let over: BTreeSet<String> = self.0.keys().filter(|key| is_over(key)).cloned().collect();
        let ended = over.iter().filter_map(|key| self.0.remove(key));
        let mut news: Vec<Trouble> = ended.map(|trouble| Trouble { over_at: Some(now), ..trouble }).collect();
        let lasting = seen.0.iter().filter(|(key, _)| before.0.contains_key(*key));
        let lasting = Found(lasting.map(|(key, what)| (key.clone(), what.clone())).collect());
        news.extend(self.begin(&lasting, now));
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(whats: &[&str]) -> Found {
        let mut seen = Found::default();
        whats.iter().for_each(|what| seen.add("a", what));
        seen
    }

    #[test]
    fn a_trouble_is_notified_when_it_lasts_and_when_it_is_over() {
        let (mut troubles, none, now) = (Troubles::default(), Found::default(), Wall::from_millis(0));
        let first = seen(&["its clock is 5s behind: nothing is due"]);
        assert_eq!(troubles.look(&first, &none, now), [], "it may be over at once");
        let later = seen(&["its clock is 9s behind: nothing is due"]);
        let news = troubles.look(&later, &first, now);
        assert_eq!(news.iter().map(|trouble| trouble.what.as_str()).collect::<Vec<_>>(), ["a: its clock is 9s behind"]);
        assert_eq!(troubles.look(&first, &later, now), [], "it is the same");
        assert_eq!(troubles.look(&none, &first, now), [], "it may come again at once");
        let over = troubles.look(&none, &none, now);
        assert_eq!((over.len(), over[0].kind(), over[0].id() == news[0].id()), (1, "trouble_over", false));
        assert_eq!(over[0].key, news[0].key);
        assert_eq!(troubles, Troubles::default());
    }

    #[test]
    fn the_same_trouble_of_two_nodes_is_two() {
        let mut seen = Found::default();
        ["fencron-0", "fencron-1"].iter().for_each(|node| seen.add(node, "jobs.yaml is refused: line 3"));
        let news = Troubles::default().look(&seen, &seen, Wall::from_millis(0));
        let whats: Vec<&str> = news.iter().map(|trouble| trouble.what.as_str()).collect();
        assert_eq!(whats.len(), 2, "{whats:?}");
        assert!(
            ["fencron-0", "fencron-1"].iter().all(|node| whats.contains(&&*format!("{node}: jobs.yaml is refused")))
        );
    }
}
