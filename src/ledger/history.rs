//! Reading what was.

use std::time::Duration;

use super::record::{DoneRecord, KnownRecord, NodeRecord, WatermarkRecord, decode};
use super::{AskError, Ledger, Pause};
use crate::job::{JobName, RunId, Verdict};
use crate::scheduler::run::{Claimant, Done, Known, Open, Watermark};
use crate::store::{Entry, Keys, Op, Range, Revision, Sort, Store, StoreError, Txn};
use crate::time::Wall;

/// How many runs in doubt are looked through for those of some jobs.
pub const UNKNOWN_SEARCHED_MOST: usize = 20_000;

/// A run as it is listed: open, or with its verdict.
#[derive(Clone, Debug, PartialEq)]
pub enum RunRow {
    Open(Open),
    Done(Done),
}

impl RunRow {
    pub fn id(&self) -> &RunId {
        match self {
            RunRow::Open(open) => &open.id,
            RunRow::Done(done) => &done.id,
        }
    }

    /// Who made its last attempt, and which that was, counted from 1.
    pub fn last_attempt(&self) -> (Option<&Claimant>, u32) {
        let (claimant, attempt) = match self {
            RunRow::Open(open) => (open.claimant.as_ref(), open.attempt),
            RunRow::Done(done) => (done.claimant.as_ref(), done.attempt),
        };
        (claimant, attempt.max(1))
    }

    /// How it ended; `None` where it has not.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            RunRow::Open(_) => None,
            RunRow::Done(done) => Some(done.verdict),
        }
    }

    fn order(&self) -> (Wall, Wall, &RunId) {
        match self {
            RunRow::Open(open) => (open.claimed_at, open.at, &open.id),
            RunRow::Done(done) => (done.claimed_at, done.at, &done.id),
        }
    }
}

/// Which runs are looked for.
#[derive(Clone, Debug, Default)]
pub struct Find {
    pub job: Option<JobName>,
    /// Only those that ended so.
    pub verdict: Option<Verdict>,
    /// Open ones, those with a verdict, or both.
    pub open: bool,
    pub done: bool,
    /// At most so many.
    pub limit: usize,
}

/// How often a run that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How many verdicts are read at a time: more than one transaction writes, and with their outputs well below what one
/// answer may weigh.
const PAGE: usize = 200;

/// How many verdicts a search with a condition looks at.
const LOOKED_AT_MOST: usize = 100_000;

/// How many verdicts behind an occurrence are looked at for one that covers it: runs that a person asked for may lie
/// between.
const COVERING: usize = 50;

/// How many verdicts that the list of bad ones names are read at once.
const READ_TOGETHER: usize = 16;

impl<S: Store> Ledger<S> {
    /// Runs, the last claimed first.
    pub async fn runs(&self, find: &Find, keep: impl Fn(&RunRow) -> bool) -> Result<Vec<RunRow>, StoreError> {
        let mut rows = Vec::new();
        if find.open && find.verdict.is_none() {
            let keys = find.job.as_ref().map_or_else(|| self.keys.opens(), |job| self.keys.opens_of(job));
            let (entries, _) = self.store.range_all(keys).await?;
            rows.extend(entries.iter().filter_map(|entry| self.open_entry(entry)).map(RunRow::Open).filter(&keep));
        }
        if find.done {
            // Of what is a small part of the history, there is a list.
            let listed = match find.verdict.filter(|verdict| find.job.is_none() && verdict.is_bad()) {
                Some(verdict) => self.find_bad(verdict, find.limit, &keep, &mut rows).await?,
                None => None,
            };
            if rows.len() < find.limit || listed.is_none() {
                self.find_done(find, listed, &keep, &mut rows).await?;
            }
        }
        rows.sort_by(|a, b| b.order().cmp(&a.order()));
        rows.truncate(find.limit);
        Ok(rows)
    }

    /// Finds the runs that ended so by the list of bad verdicts, and answers since which revision that is complete; `None`:
    /// there is none yet, and nothing was looked for.
    async fn find_bad(
        &self,
        verdict: Verdict,
        limit: usize,
        keep: &impl Fn(&RunRow) -> bool,
        rows: &mut Vec<RunRow>,
    ) -> Result<Option<Revision>, StoreError> {
        let Some(since) = self.attention_since().await? else { return Ok(None) };
        let (mut before, mut found) = (None, 0);
        while found < limit {
            let page = self.attention(before, PAGE.min(limit - found)).await?;
            let runs: Vec<RunId> =
                page.runs.into_iter().filter(|bad| bad.verdict == verdict).map(|bad| bad.run).collect();
            for chunk in runs.chunks(READ_TOGETHER) {
                let gets = chunk.iter().map(|run| Op::Get(Range::of(self.keys.verdict_on(run))));
                let read = self.store.commit(gets.fold(Txn::new(), Txn::then)).await?;
                for nth in 0..chunk.len() {
                    // Those from before are found in the history.
                    let entry = read.got(nth).and_then(<[Entry]>::first).filter(|entry| entry.modified >= since);
                    let done = entry.and_then(done_entry);
                    let done = done.filter(|done| done.verdict == verdict);
                    if let Some(row) = done.map(RunRow::Done).filter(keep) {
                        rows.push(row);
                        found += 1;
                    }
                }
            }
            match page.next {
                // Those further down are from before as well.
                Some(next) if next > since => before = Some(next),
                _ => break,
            }
        }
        Ok(Some(since))
    }

    /// `before`: only what was written before this revision.
    async fn find_done(
        &self,
        find: &Find,
        before: Option<Revision>,
        keep: &impl Fn(&RunRow) -> bool,
        rows: &mut Vec<RunRow>,
    ) -> Result<(), StoreError> {
        let keys = find.job.as_ref().map_or_else(|| self.keys.history(), |job| self.keys.history_of(job));
        let keep = |row: &RunRow| find.verdict.is_none_or(|verdict| row.verdict() == Some(verdict)) && keep(row);
        let (mut before, mut looked_at, mut found) = (before, 0, 0);
        loop {
            let range =
                Range { limit: PAGE, order: Sort::NewestFirst, modified_before: before, ..Range::of(keys.clone()) };
            let page = self.store.range(range).await?;
            looked_at += page.entries.len();
            let oldest = page.entries.last().map(|entry| entry.modified);
            // Verdicts of one transaction share a revision, which a page may cut in two: the next begins with it.
            let whole = |entry: &&Entry| !page.more || Some(entry.modified) != oldest;
            let batch =
                page.entries.iter().filter(whole).filter_map(done_entry).map(RunRow::Done).filter(|row| keep(row));
            let before_batch = rows.len();
            rows.extend(batch);
            found += rows.len() - before_batch;
            if !page.more || found >= find.limit || looked_at >= LOOKED_AT_MOST {
                return Ok(());
            }
            before = oldest.map(Revision::next);
        }
    }

    /// The runs of a job for instants from `first` to `last`, both included, scheduled and requested ones.
    pub async fn runs_between(&self, job: &JobName, first: Wall, last: Wall) -> Result<Vec<RunRow>, StoreError> {
        let (open, _) = self.store.range_all(self.keys.opens_of(job)).await?;
        let (done, _) = self.store.range_all(self.keys.history_between(job, first, last)).await?;
        let open = open.iter().filter_map(|entry| self.open_entry(entry));
        let open = open.filter(|open| (first..=last).contains(&open.at)).map(RunRow::Open);
        Ok(open.chain(done.iter().filter_map(done_entry).map(RunRow::Done)).collect())
    }

    fn open_entry(&self, entry: &Entry) -> Option<Open> {
        match self.keys.about(&entry.key)? {
            super::keys::About::Open(run) => self.open_of(&run, entry),
            _ => None,
        }
    }

    /// One run, wherever it stands.
    pub async fn run(&self, run: &RunId) -> Result<Option<RunRow>, StoreError> {
        Ok(row_of(self, run).await?.map(|(row, _)| row))
    }

    /// Waits until a run has ended. A store that is away is waited for. Cancel safe.
    pub async fn verdict_of(&self, run: &RunId) -> Result<Done, AskError> {
        loop {
            match self.run(run).await {
                Ok(Some(RunRow::Done(done))) => return Ok(done),
                Ok(Some(RunRow::Open(_))) => {}
                // Between the two reads it may have ended: it is looked for once more, in the history.
                Ok(None) if matches!(self.run(run).await?, Some(RunRow::Done(_))) => {}
                Ok(None) => return Err(AskError::NoSuchRun(run.clone())),
                Err(error) if error.is_passing() => tracing::warn!(%error, "cannot look now; trying on"),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The verdict over many occurrences of which this is one: it stands at the last of them.
    async fn verdict_over(&self, run: &RunId) -> Result<Option<(RunRow, u64)>, StoreError> {
        let (Keys::Range { start, .. }, Keys::Range { end, .. }) =
            (self.keys.verdict_on(run), self.keys.history_of(&run.job()))
        else {
            return Ok(None);
        };
        if run.as_str().contains('~') {
            return Ok(None);
        }
        let page = self.store.range(Range { limit: COVERING, ..Range::of(Keys::Range { start, end }) }).await?;
        let at = run.at();
        let covers = |done: &Done| done.many.is_some_and(|many| many.from <= at && at <= done.at);
        let read = page.entries.iter().filter_map(|entry| Some((done_entry(entry)?, entry.modified.0)));
        Ok(read.filter(|(done, _)| covers(done)).map(|(done, version)| (RunRow::Done(done), version)).next())
    }

    /// How far the schedules have been decided.
    pub async fn watermark(&self) -> Result<Option<Watermark>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.watermark()))).await?;
        let record = page.entries.first().and_then(|entry| decode::<WatermarkRecord>(&entry.value));
        Ok(record.map(WatermarkRecord::watermark))
    }

    /// The jobs that a leader has seen, and since when they are due.
    pub async fn known_jobs(&self) -> Result<Vec<(JobName, Known)>, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.jobs()).await?;
        let known = |entry: &Entry| match self.keys.about(&entry.key)? {
            super::keys::About::Job(job) => Some((job, decode::<KnownRecord>(&entry.value)?.into())),
            _ => None,
        };
        Ok(entries.iter().filter_map(known).collect())
    }

    /// The pause of all jobs; `None`: they are not paused together.
    pub async fn all_paused(&self) -> Result<Option<Pause>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.pause_all()))).await?;
        Ok(page.entries.first().and_then(|entry| decode(&entry.value)))
    }

    /// The paused jobs, with the person that paused them.
    pub async fn paused(&self) -> Result<Vec<(JobName, Pause)>, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.paused()).await?;
        let paused = |entry: &Entry| match self.keys.about(&entry.key)? {
            super::keys::About::Pause(job) => Some((job, decode::<Pause>(&entry.value)?)),
            _ => None,
        };
        Ok(entries.iter().filter_map(paused).collect())
    }

    /// The nodes that have a session, by its lease.
    pub async fn nodes(&self) -> Result<Vec<(u64, NodeRecord)>, StoreError> {
        let (entries, _) = self.store.range_all(self.namespace.sessions()).await?;
        let node = |entry: &Entry| {
            let lease = self.namespace.session_of(&entry.key)?;
            Some((lease.0.get(), NodeRecord::decode(&entry.value)?))
        };
        Ok(entries.iter().filter_map(node).collect())
    }

    /// The runs that ended as `unknown` and wait for a person: at most `limit`, and whether there are more.
    pub async fn unknown_runs(&self, limit: usize) -> Result<(Vec<RunId>, bool), StoreError> {
        self.unknown_runs_of(limit, |_| true).await
    }

    /// The same of the jobs that a reader `sees`: at most 20,000 of all are looked at.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn unknown_runs_of(
        &self,
        limit: usize,
        sees: impl Fn(&JobName) -> bool,
    ) -> Result<(Vec<RunId>, bool), StoreError> {
        let Keys::Range { mut start, end } = self.keys.all_unknown() else { return Ok((Vec::new(), false)) };
        let (mut runs, mut searched) = (Vec::new(), 0);
        while searched < UNKNOWN_SEARCHED_MOST {
            let keys = Keys::Range { start, end: end.clone() };
            let page =
                self.store.range(Range { keys_only: true, limit: limit.saturating_add(1), ..Range::of(keys) }).await?;
            let found = page.entries.iter().filter_map(|entry| self.keys.run_of_unknown(&entry.key));
            runs.extend(found.filter(|run| sees(&run.job())));
            if runs.len() > limit {
                runs.truncate(limit);
                return Ok((runs, true));
            }
            searched += page.entries.len();
            match page.entries.last().filter(|_| page.more) {
                Some(last) => start = super::prune::behind(&last.key),
                None => return Ok((runs, false)),
            }
        }
        Ok((runs, true))
    }

    /// The last verdict of a job, by instant.
    pub async fn last_verdict(&self, job: &JobName) -> Result<Option<Done>, StoreError> {
        let range = Range { limit: 1, order: Sort::NewestFirst, ..Range::of(self.keys.history_of(job)) };
        let page = self.store.range(range).await?;
        Ok(page.entries.first().and_then(done_entry))
    }

    /// The jobs that have a history, from `after` on, at most `limit`: those of jobs that are gone are among them.
    pub async fn jobs_with_history(&self, after: Option<&JobName>, limit: usize) -> Result<Vec<JobName>, StoreError> {
        let Keys::Range { mut start, end } = self.keys.history() else { return Ok(Vec::new()) };
        if let Some(after) = after
            && let Keys::Range { end: behind, .. } = self.keys.history_of(after)
        {
            start = behind;
        }
        let mut jobs: Vec<JobName> = Vec::new();
        while jobs.len() < limit {
            let keys = Keys::Range { start: start.clone(), end: end.clone() };
            let page = self.store.range(Range { keys_only: true, limit: 1, ..Range::of(keys) }).await?;
            let Some(job) = page.entries.first().and_then(|entry| self.keys.job_of_done(&entry.key)) else { break };
            if let Keys::Range { end: behind, .. } = self.keys.history_of(&job) {
                start = behind;
            }
            jobs.push(job);
        }
        Ok(jobs)
    }
}

pub(super) fn done_entry(entry: &Entry) -> Option<Done> {
    decode::<DoneRecord>(&entry.value).map(Done::from)
}

/// One run, and the version of its record.
pub(super) async fn row_of<S: Store>(ledger: &Ledger<S>, run: &RunId) -> Result<Option<(RunRow, u64)>, StoreError> {
    let page = ledger.store.range(Range::of(Keys::one(ledger.keys.open(run)))).await?;
    if let Some((open, entry)) = page.entries.first().and_then(|entry| Some((ledger.open_of(run, entry)?, entry))) {
        return Ok(Some((RunRow::Open(open), entry.modified.0)));
    }
    let page = ledger.store.range(Range::of(ledger.keys.verdict_on(run))).await?;
    if let Some((done, entry)) = page.entries.first().and_then(|entry| Some((done_entry(entry)?, entry))) {
        return Ok(Some((RunRow::Done(done), entry.modified.0)));
    }
    ledger.verdict_over(run).await
}
