//! Where the ledger keeps what, below its namespace's prefix. History stands behind everything else in the order of
//! keys (`~`), so that one watch covers all that nodes follow and none of what they do not.

use std::time::Duration;

use super::once::{OnceKey, OnceKind};
use crate::fence::Fence;
use crate::job::{JobName, RunId, Verdict};
use crate::lock::{Namespace, escaped, unescaped};
use crate::scheduler::run::Done;
use crate::store::Keys;
use crate::time::Wall;

/// The end of the key of a verdict on what was never begun. It sorts before `~`, with which a call begins, and no run has
/// it in its name.
const UNBEGUN: &str = "#";

/// The keys of one namespace's ledger.
#[derive(Clone, Debug)]
pub(super) struct LedgerKeys {
    prefix: String,
    mark: String,
    lineage: String,
}

/// What a key is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    Watermark,
    Job(JobName),
    Pause(JobName),
    PauseAll,
    Last(JobName),
    Open(RunId),
    Cancel(RunId),
    Resolved(RunId),
    StepDown,
    /// The node of this name.
    Drain(String),
    /// Put by every grant and claim.
    Mark,
    /// By which a restored store is known.
    Lineage,
    Rewound,
}

impl LedgerKeys {
    pub fn new(namespace: &Namespace) -> LedgerKeys {
        LedgerKeys { prefix: namespace.prefix(), mark: namespace.mark_key(), lineage: namespace.lineage_key() }
    }

    /// All that nodes follow: everything but the history.
    pub fn followed(&self) -> Keys {
        Keys::Range { start: self.prefix.clone(), end: format!("{}~", self.prefix) }
    }

    pub fn watermark(&self) -> String {
        format!("{}watermark", self.prefix)
    }

    /// What is kept of the watermark's being brought back by hand.
    pub fn rewound(&self) -> String {
        format!("{}rewound", self.prefix)
    }

    /// The key with which nodes seal what they hand out.
    #[cfg(feature = "cli")]
    pub fn auth_key(&self) -> String {
        format!("{}~auth/key", self.prefix)
    }

    pub fn job(&self, job: &JobName) -> String {
        format!("{}job/{job}", self.prefix)
    }

    pub fn pause(&self, job: &JobName) -> String {
        format!("{}pause/{job}", self.prefix)
    }

    pub fn paused(&self) -> Keys {
        Keys::prefix(format!("{}pause/", self.prefix))
    }

    /// That all jobs are paused.
    pub fn pause_all(&self) -> String {
        format!("{}pause-all", self.prefix)
    }

    /// What a person did. The keys sort by when that was.
    pub fn audit(&self, at: Wall, id: &str) -> String {
        format!("{}~audit/{}-{id}", self.prefix, sortable(at))
    }

    pub fn audits(&self) -> Keys {
        Keys::prefix(format!("{}~audit/", self.prefix))
    }

    /// What a request did that a caller gave a key, by the hash of that.
    pub fn once_asked(&self, hash: &str) -> String {
        format!("{}~idem/{hash}", self.prefix)
    }

    pub fn all_once_asked(&self) -> Keys {
        Keys::prefix(format!("{}~idem/", self.prefix))
    }

    /// What is left to do about a backfill, where something is.
    pub fn backfilling(&self, id: &str) -> String {
        format!("{}~backfilling/{id}", self.prefix)
    }

    pub fn all_backfilling(&self) -> Keys {
        Keys::prefix(format!("{}~backfilling/", self.prefix))
    }

    /// A backfill. The keys sort by when it was asked for, with which its id begins.
    pub fn backfill(&self, id: &str) -> String {
        format!("{}~backfill/{id}", self.prefix)
    }

    pub fn backfills(&self) -> Keys {
        Keys::prefix(format!("{}~backfill/", self.prefix))
    }

    /// How the last run of a job ended.
    pub fn last(&self, job: &JobName) -> String {
        format!("{}last/{job}", self.prefix)
    }

    pub fn lasts(&self) -> Keys {
        Keys::prefix(format!("{}last/", self.prefix))
    }

    pub fn jobs(&self) -> Keys {
        Keys::prefix(format!("{}job/", self.prefix))
    }

    pub fn open(&self, run: &RunId) -> String {
        format!("{}open/{run}", self.prefix)
    }

    pub fn opens(&self) -> Keys {
        Keys::prefix(format!("{}open/", self.prefix))
    }

    pub fn opens_of(&self, job: &JobName) -> Keys {
        Keys::Range { start: format!("{}open/{job}@", self.prefix), end: format!("{}open/{job}A", self.prefix) }
    }

    pub fn cancel(&self, run: &RunId) -> String {
        format!("{}ask/cancel/{run}", self.prefix)
    }

    pub fn resolved(&self, run: &RunId) -> String {
        format!("{}ask/resolved/{run}", self.prefix)
    }

    pub fn step_down(&self) -> String {
        format!("{}ask/step-down", self.prefix)
    }

    /// That a node is drained.
    pub fn drain(&self, node: &str) -> String {
        format!("{}ask/drain/{}", self.prefix, escaped(node))
    }

    pub fn drains(&self) -> Keys {
        Keys::prefix(format!("{}ask/drain/", self.prefix))
    }

    pub fn history(&self) -> Keys {
        Keys::prefix(format!("{}~done/", self.prefix))
    }

    pub fn history_of(&self, job: &JobName) -> Keys {
        Keys::prefix(format!("{}~done/{job}/", self.prefix))
    }

    /// A run that ended as `unknown` and waits for a person.
    pub fn unknown(&self, run: &RunId) -> String {
        format!("{}~unknown/{run}", self.prefix)
    }

    pub fn all_unknown(&self) -> Keys {
        Keys::prefix(format!("{}~unknown/", self.prefix))
    }

    /// The run that one of those is about.
    pub fn run_of_unknown(&self, key: &str) -> Option<RunId> {
        key.strip_prefix(&self.prefix)?.strip_prefix("~unknown/")?.parse().ok()
    }

    /// That a run ended badly. The keys sort by when that was.
    pub fn attention(&self, done: &Done) -> String {
        format!("{}~attn/{}/{}", self.prefix, sortable(done.finished_at), done.id)
    }

    pub fn all_attention(&self) -> Keys {
        Keys::prefix(format!("{}~attn/", self.prefix))
    }

    /// Put when the list of bad verdicts was begun: those that were written before are not on it.
    pub fn attention_begun(&self) -> String {
        format!("{}~attn-begun", self.prefix)
    }

    /// The first key of what ended at `at` or later.
    pub fn attention_before(&self, at: Wall) -> String {
        format!("{}~attn/{}", self.prefix, sortable(at))
    }

    /// When the run ended that one of those is about, and which run that is.
    pub fn run_of_attention(&self, key: &str) -> Option<(Wall, RunId)> {
        let (at, run) = key.strip_prefix(&self.prefix)?.strip_prefix("~attn/")?.split_once('/')?;
        Some((at.parse().ok()?, run.parse().ok()?))
    }

    /// A term of a leader. The keys sort by fence.
    pub fn term(&self, fence: Fence) -> String {
        format!("{}~term/{:020}", self.prefix, fence.get())
    }

    pub fn terms(&self) -> Keys {
        Keys::prefix(format!("{}~term/", self.prefix))
    }

    /// The fence of the term that one of those is about.
    pub fn fence_of_term(&self, key: &str) -> Option<Fence> {
        Fence::new(key.strip_prefix(&self.prefix)?.strip_prefix("~term/")?.parse().ok()?)
    }

    /// What was counted in the hour that begins then. The keys sort by hour.
    pub fn stats(&self, hour: Wall) -> String {
        format!("{}~stat/{}", self.prefix, sortable(hour))
    }

    /// What begins the keys of alerts that wait.
    pub fn alerts_prefix(&self) -> String {
        format!("{}~alert/out/", self.prefix)
    }

    /// What begins the keys of what channels have taken.
    pub fn channels_prefix(&self) -> String {
        format!("{}~alert/channel/", self.prefix)
    }

    /// What begins the keys of the runs of which it was notified that they are late.
    pub fn late_prefix(&self) -> String {
        format!("{}~alert/late/", self.prefix)
    }

    /// The troubles of the cluster that were notified.
    pub fn troubles(&self) -> String {
        format!("{}~alert/troubles", self.prefix)
    }

    pub fn all_stats(&self) -> Keys {
        Keys::prefix(format!("{}~stat/", self.prefix))
    }

    /// The beginning of the hour that one of those is about.
    pub fn hour_of_stats(&self, key: &str) -> Option<Wall> {
        key.strip_prefix(&self.prefix)?.strip_prefix("~stat/")?.parse().ok()
    }

    /// Which stretches of a job's history were pruned.
    pub fn pruned(&self, job: &JobName) -> String {
        format!("{}~pruned/{job}", self.prefix)
    }

    /// The verdicts of a job on runs after `at`.
    pub fn history_after(&self, job: &JobName, at: Wall) -> Keys {
        let Keys::Range { start, end } = self.history_of(job) else { return self.history_of(job) };
        Keys::Range { start: format!("{start}{}", sortable(at.plus(Duration::from_millis(1)))), end }
    }

    /// A verdict. The keys of a job sort by instant, so the instant is always written with its milliseconds.
    pub fn done(&self, run: &RunId) -> String {
        let call = run.as_str().split_once('~').map_or(String::new(), |(_, call)| format!("~{call}"));
        format!("{}~done/{}/{}{call}", self.prefix, run.job(), sortable(run.at()))
    }

    /// Where a verdict is kept: that on what was never begun stands apart, so that pruning recognizes it by its key.
    /// One in doubt never does, since it is resolved under its run.
    pub fn verdict(&self, done: &Done) -> String {
        let key = self.done(&done.id);
        if done.attempt == 0 && done.verdict != Verdict::Unknown { format!("{key}{UNBEGUN}") } else { key }
    }

    /// Both places at which the verdict on a run may be.
    pub fn verdict_on(&self, run: &RunId) -> Keys {
        let start = self.done(run);
        Keys::Range { end: format!("{start}$"), start }
    }

    /// Whether a key of the history is about what was never begun.
    pub fn is_unbegun(&self, key: &str) -> bool {
        key.ends_with(UNBEGUN)
    }

    /// The job whose verdict a key of the history holds.
    pub fn job_of_done(&self, key: &str) -> Option<JobName> {
        let (job, _) = key.strip_prefix(&self.prefix)?.strip_prefix("~done/")?.split_once('/')?;
        JobName::new(job).ok()
    }

    /// Whether a key of the history is about a run that a person asked for, or one that followed it.
    pub fn is_asked_for(&self, key: &str) -> bool {
        key.rsplit('/').next().is_some_and(|run| run.contains('~'))
    }

    /// The verdicts of a job on runs before `at`.
    pub fn history_before(&self, job: &JobName, at: Wall) -> Keys {
        let start = format!("{}~done/{job}/", self.prefix);
        let end = format!("{start}{}", sortable(at));
        Keys::Range { start, end }
    }

    /// The verdicts of a job on runs from `first` to `last`, both included.
    pub fn history_between(&self, job: &JobName, first: Wall, last: Wall) -> Keys {
        let start = format!("{}~done/{job}/", self.prefix);
        let end = format!("{start}{}", sortable(last.plus(std::time::Duration::from_millis(1))));
        Keys::Range { start: format!("{start}{}", sortable(first)), end }
    }

    /// All that is kept of the migrations: watched by the waiters.
    pub fn migrations(&self) -> Keys {
        Keys::prefix(format!("{}~mig/", self.prefix))
    }

    /// All that is kept of what is done once under a key.
    pub fn once(&self, key: &OnceKey) -> Keys {
        match key.kind() {
            OnceKind::Migration => self.migrations(),
            OnceKind::Once => Keys::prefix(format!("{}~once/{}/", self.prefix, escaped(key.name()))),
        }
    }

    pub fn once_record(&self, key: &OnceKey) -> String {
        let name = escaped(key.name());
        match key.kind() {
            OnceKind::Migration => format!("{}~mig/at/{name}", self.prefix),
            OnceKind::Once => format!("{}~once/{name}/at", self.prefix),
        }
    }

    /// What is being written right now by what holds the lock of `key`.
    pub fn once_live(&self, key: &OnceKey) -> String {
        match key.kind() {
            OnceKind::Migration => format!("{}~mig/live", self.prefix),
            OnceKind::Once => format!("{}~once/{}/live", self.prefix, escaped(key.name())),
        }
    }

    /// What one of the followed keys is about; `None` for those of locks and sessions, and for strangers.
    pub fn about(&self, key: &str) -> Option<About> {
        let rest = key.strip_prefix(&self.prefix)?;
        if rest == "watermark" {
            return Some(About::Watermark);
        }
        if key == self.mark {
            return Some(About::Mark);
        }
        if key == self.lineage {
            return Some(About::Lineage);
        }
        if rest == "pause-all" {
            return Some(About::PauseAll);
        }
        if rest == "rewound" {
            return Some(About::Rewound);
        }
        if rest == "ask/step-down" {
            return Some(About::StepDown);
        }
        if let Some(run) = rest.strip_prefix("ask/cancel/") {
            return run.parse().ok().map(About::Cancel);
        }
        if let Some(node) = rest.strip_prefix("ask/drain/") {
            return unescaped(node).map(About::Drain);
        }
        if let Some(run) = rest.strip_prefix("ask/resolved/") {
            return run.parse().ok().map(About::Resolved);
        }
        let (kind, name) = rest.split_once('/')?;
        match kind {
            "open" => name.parse().ok().map(About::Open),
            "job" => JobName::new(name).ok().map(About::Job),
            "pause" => JobName::new(name).ok().map(About::Pause),
            "last" => JobName::new(name).ok().map(About::Last),
            _ => None,
        }
    }
}

pub(super) fn sortable(at: Wall) -> String {
    at.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> LedgerKeys {
        LedgerKeys::new(&Namespace::new("shop").unwrap())
    }

    #[test]
    fn every_followed_key_is_known_again() {
        let keys = keys();
        let run: RunId = "a.b@2026-11-21T02:00:00.250Z~t-1".parse().unwrap();
        let job = JobName::new("a.b").unwrap();
        let known = [
            (keys.watermark(), About::Watermark),
            (keys.job(&job), About::Job(job.clone())),
            (keys.pause(&job), About::Pause(job.clone())),
            (keys.pause_all(), About::PauseAll),
            (keys.open(&run), About::Open(run.clone())),
            (keys.cancel(&run), About::Cancel(run.clone())),
            (keys.resolved(&run), About::Resolved(run.clone())),
            (keys.step_down(), About::StepDown),
            (keys.drain("a/b ü%"), About::Drain("a/b ü%".to_owned())),
            (keys.rewound(), About::Rewound),
        ];
        for (key, about) in known {
            assert_eq!(keys.about(&key), Some(about), "{key}");
            assert!(keys.followed().contains(&key), "{key}");
        }
        assert!(!keys.followed().contains(&keys.done(&run)));
    }

    #[test]
    fn what_is_done_once_is_not_followed_and_no_name_reaches_out_of_its_place() {
        let keys = keys();
        let once = OnceKey::once("a/at").unwrap();
        assert_eq!(keys.once_record(&once), "/fencron/v1/shop/~once/a%2Fat/at");
        assert!(keys.once(&once).contains(&keys.once_live(&once)));
        assert!(!keys.once(&OnceKey::once("a").unwrap()).contains(&keys.once_record(&once)));
        let migration = OnceKey::migration("init/001.sql");
        assert_eq!(keys.once_record(&migration), "/fencron/v1/shop/~mig/at/init%2F001.sql");
        assert!(!keys.followed().contains(&keys.once_record(&migration)));
    }

    #[test]
    fn a_verdict_on_a_run_that_was_asked_for_is_known_by_its_key() {
        let asked_for = |run: &str| keys().is_asked_for(&keys().done(&run.parse().unwrap()));
        assert!(asked_for("a@2026-11-21T02:00:00Z~t-1") && !asked_for("a@2026-11-21T02:00:00Z"));
    }

    #[test]
    fn the_verdict_on_a_run_is_found_at_either_place_and_that_on_no_other() {
        let keys = keys();
        let at = |run: &str| keys.verdict_on(&run.parse().unwrap());
        let key = |run: &str| keys.done(&run.parse().unwrap());
        let (run, asked_for) = ("a@2026-11-21T02:00:00Z", "a@2026-11-21T02:00:00Z~t-1");
        for (of, others) in
            [(run, [asked_for, "a@2026-11-21T02:00:00.001Z"]), (asked_for, [run, "a@2026-11-21T02:00:00Z~t-1-1"])]
        {
            assert!(at(of).contains(&key(of)) && at(of).contains(&format!("{}{UNBEGUN}", key(of))), "{of}");
            for other in others {
                assert!(
                    !at(of).contains(&key(other)) && !at(of).contains(&format!("{}{UNBEGUN}", key(other))),
                    "{of}, {other}"
                );
            }
        }
    }

    #[test]
    fn what_is_kept_of_terms_and_of_bad_verdicts_is_read_from_its_key_and_sorts_by_fence_and_by_time() {
        let keys = keys();
        let term = |fence: u64| keys.term(Fence::new(fence).unwrap());
        assert!(term(9) < term(10) && keys.terms().contains(&term(10)) && !keys.followed().contains(&term(10)));
        assert_eq!(keys.fence_of_term(&term(1234)).map(Fence::get), Some(1234));
        let run: RunId = "a.b@2026-11-21T02:00:00.250Z~t-1".parse().unwrap();
        let at: Wall = "2026-11-21T02:00:07Z".parse().unwrap();
        let key = format!("/fencron/v1/shop/~attn/2026-11-21T02:00:07.000Z/{run}");
        assert_eq!(keys.run_of_attention(&key), Some((at, run)));
        let hour: Wall = "2026-11-21T02:00:00Z".parse().unwrap();
        assert_eq!(keys.stats(hour), "/fencron/v1/shop/~stat/2026-11-21T02:00:00.000Z");
        assert_eq!(keys.hour_of_stats(&keys.stats(hour)), Some(hour));
        assert!(keys.all_stats().contains(&keys.stats(hour)) && !keys.followed().contains(&keys.stats(hour)));
        assert!(keys.attention_before(at) <= key && keys.attention_before(at.plus(Duration::from_millis(1))) > key);
    }

    #[test]
    fn verdicts_of_a_job_sort_by_instant() {
        let done = |run: &str| keys().done(&run.parse().unwrap());
        assert!(done("a@2026-11-21T02:00:00Z") < done("a@2026-11-21T02:00:00.250Z"));
        assert!(done("a@2026-11-21T02:00:00Z") < done("a@2026-11-21T02:00:00Z~t-1"));
        assert!(done("a@2026-11-21T02:00:00Z~t-1") < done("a@2026-11-21T02:00:01Z"));
    }

    #[test]
    fn the_open_runs_of_a_job_are_not_those_of_its_namesakes() {
        let of = keys().opens_of(&JobName::new("a").unwrap());
        let open = |run: &str| keys().open(&run.parse().unwrap());
        assert!(of.contains(&open("a@2026-11-21T02:00:00Z")) && !of.contains(&open("ab@2026-11-21T02:00:00Z")));
    }
}
