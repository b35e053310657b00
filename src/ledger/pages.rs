//! The history in pages: verdicts, the last written first, from where the page before ended.

use super::history::{done_entry, row_of};
use super::{Ledger, RunRow};
use crate::job::{JobName, RunId, Verdict};
use crate::scheduler::run::Done;
use crate::store::{Entry, Op, Range, Revision, Sort, Store, StoreError, Txn};
use crate::time::Wall;

/// How many verdicts one page looks at: with their outputs, what that reads is well below what a node can hold.
pub const SEARCHED_MOST: usize = 2_000;

/// How many verdicts are read at a time: more than one transaction writes.
const READ_AT_ONCE: usize = 200;

/// How many verdicts that the list of bad ones names are read at once.
const READ_TOGETHER: usize = 16;

const _: () = assert!(SEARCHED_MOST.is_multiple_of(READ_AT_ONCE), "a search ends between two reads");

/// Which verdicts a page has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindDone {
    pub job: Option<JobName>,
    pub verdict: Option<Verdict>,
    /// Only those of instants from here on.
    pub since: Option<Wall>,
    /// Only those of instants up to here, which is included.
    pub until: Option<Wall>,
    /// From behind this verdict.
    pub after: Option<DonePlace>,
    /// At most so many, from 1.
    pub limit: usize,
}

/// A verdict's place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DonePlace {
    /// The revision at which it was written.
    pub revision: u64,
    /// `None`: before all that were written at this revision.
    pub run: Option<RunId>,
}

/// A page of verdicts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DonePage {
    /// Each with the revision at which it was written.
    pub rows: Vec<(Done, u64)>,
    /// Where the next page begins; `None`: there is no more.
    pub next: Option<DonePlace>,
    /// Where the search has ended without having filled the page, the instant up to which verdicts were written that it
    /// has not seen.
    pub searched_to: Option<Wall>,
}

impl DonePage {
    /// A caller may not know of each run that was looked at, so the place where the next page begins names none but one
    /// of this page, or the one that it went on from. Runs of a revision that are not named are looked at again.
    fn naming_no_other(self, find: &FindDone) -> DonePage {
        let next = self.next.map(|place| {
            let last = self.rows.last().map(|(done, revision)| (*revision, done.id.clone()));
            let before = find.after.as_ref().map(|after| (after.revision, after.run.clone()));
            let run = match (last, before) {
                (Some((revision, run)), _) if revision == place.revision => Some(run),
                (None, Some((revision, run))) if revision == place.revision => run,
                _ => None,
            };
            DonePlace { revision: place.revision, run }
        });
        DonePage { next, ..self }
    }
}

impl FindDone {
    fn takes(&self, done: &Done) -> bool {
        self.verdict.is_none_or(|verdict| done.verdict == verdict)
            && self.since.is_none_or(|since| done.at >= since)
            && self.until.is_none_or(|until| done.at <= until)
    }
}

impl<S: Store> Ledger<S> {
    /// A page of verdicts, the last written first. It looks at [`SEARCHED_MOST`] of them at most.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn done_page(
        &self,
        find: &FindDone,
        keep: impl Fn(&Done) -> bool + Send + Sync,
    ) -> Result<DonePage, StoreError> {
        let page = self.page_of(find, &|done: &Done| find.takes(done) && keep(done)).await?;
        Ok(page.naming_no_other(find))
    }

    async fn page_of(
        &self,
        find: &FindDone,
        is_wanted: &(impl Fn(&Done) -> bool + Sync),
    ) -> Result<DonePage, StoreError> {
        // Of what is a small part of the history, there is a list, which is younger than the history may be.
        let is_listed = find.job.is_none() && find.verdict.is_some_and(Verdict::is_bad);
        let begun = if is_listed { self.attention_since().await? } else { None };
        let Some(begun) = begun.filter(|begun| find.after.as_ref().is_none_or(|after| after.revision >= begun.0))
        else {
            return self.history_page(find, is_wanted).await;
        };
        let listed = self.listed_page(find, is_wanted, begun).await?;
        let is_over = listed.next.as_ref().is_some_and(|next| next.revision < begun.0);
        let room = find.limit.saturating_sub(listed.rows.len());
        if !is_over || room == 0 {
            return Ok(listed);
        }
        let mut page =
            self.history_page(&FindDone { after: listed.next, limit: room, ..find.clone() }, is_wanted).await?;
        page.rows.splice(0..0, listed.rows);
        Ok(page)
    }

    /// A page of bad verdicts by the list of them, which was begun at a revision. Where it ends, the history from before
    /// that comes next.
    async fn listed_page(
        &self,
        find: &FindDone,
        is_wanted: &(impl Fn(&Done) -> bool + Sync),
        begun: Revision,
    ) -> Result<DonePage, StoreError> {
        let mut found = DonePage::default();
        let mut place = find.after.clone();
        let mut looked_at = 0;
        while looked_at < SEARCHED_MOST {
            let before = place.as_ref().map(|place| Revision(place.revision).next());
            let page = self.attention(before, find.limit.clamp(READ_TOGETHER, READ_AT_ONCE)).await?;
            looked_at += page.runs.len();
            let runs = page.runs.iter().filter(|bad| find.verdict == Some(bad.verdict)).map(|bad| &bad.run);
            let runs: Vec<&RunId> = runs.collect();
            let mut entries = Vec::new();
            for chunk in runs.chunks(READ_TOGETHER) {
                let gets = chunk.iter().map(|run| Op::Get(Range::of(self.keys.verdict_on(run))));
                let read = self.store.commit(gets.fold(Txn::new(), Txn::then)).await?;
                // Those from before are on the list too, if no older version led then, and come with the history.
                let found = (0..chunk.len()).filter_map(|nth| read.got(nth)?.first().cloned());
                entries.extend(found.filter(|entry| entry.modified >= begun));
            }
            for (done, revision) in self.in_order(&entries, false, place.as_ref()) {
                let is_wanted = is_wanted(&done);
                if is_wanted && found.rows.len() == find.limit {
                    return Ok(DonePage { next: place, searched_to: None, ..found });
                }
                place = Some(DonePlace { revision, run: Some(done.id.clone()) });
                found.searched_to = Some(done.finished_at);
                if is_wanted {
                    found.rows.push((done, revision));
                }
            }
            // What is further down is from before the list was begun, and comes with the history.
            let Some(next) = page.next.filter(|next| *next > begun) else {
                let next = DonePlace { revision: begun.0 - 1, run: None };
                return Ok(DonePage { next: Some(next), searched_to: None, ..found });
            };
            place = Some(DonePlace { revision: next.0 - 1, run: None });
        }
        Ok(DonePage { next: place, ..found })
    }

    async fn history_page(
        &self,
        find: &FindDone,
        is_wanted: &(impl Fn(&Done) -> bool + Sync),
    ) -> Result<DonePage, StoreError> {
        let keys = match (&find.job, find.since, find.until) {
            (None, ..) => self.keys.history(),
            (Some(job), None, None) => self.keys.history_of(job),
            (Some(job), since, until) => {
                self.keys.history_between(job, since.unwrap_or(Wall::from_millis(i64::MIN)), until.unwrap_or(Wall::MAX))
            }
        };
        let mut found = DonePage::default();
        if find.since.zip(find.until).is_some_and(|(since, until)| since > until) {
            return Ok(found);
        }
        let mut place = find.after.clone();
        for _ in 0..SEARCHED_MOST / READ_AT_ONCE {
            let before = place.as_ref().map(|place| Revision(place.revision).next());
            let (limit, order) = (READ_AT_ONCE, Sort::NewestFirst);
            let page =
                self.store.range(Range { limit, order, modified_before: before, ..Range::of(keys.clone()) }).await?;
            for (done, revision) in self.in_order(&page.entries, page.more, place.as_ref()) {
                let is_wanted = is_wanted(&done);
                if is_wanted && found.rows.len() == find.limit {
                    return Ok(DonePage { next: place, searched_to: None, ..found });
                }
                place = Some(DonePlace { revision, run: Some(done.id.clone()) });
                found.searched_to = Some(done.finished_at);
                if is_wanted {
                    found.rows.push((done, revision));
                }
            }
            let Some(oldest) = page.entries.last().filter(|_| page.more) else {
                return Ok(DonePage { next: None, searched_to: None, ..found });
            };
            // What was written at this revision is read whole the next time, also where none of it can be read.
            place = Some(DonePlace { revision: oldest.modified.0, run: None });
        }
        Ok(DonePage { next: place, ..found })
    }

    /// The verdicts of a read behind `after`, in one order for all stores: verdicts of one transaction share a revision,
    /// which a read may cut in two. The next read begins with it.
    fn in_order(&self, entries: &[Entry], more: bool, after: Option<&DonePlace>) -> Vec<(Done, u64)> {
        let oldest = entries.last().map(|entry| entry.modified);
        let is_whole = |entry: &&Entry| !more || Some(entry.modified) != oldest;
        let read = entries.iter().filter(is_whole).filter_map(|entry| Some((done_entry(entry)?, entry.modified.0)));
        let mut rows: Vec<(Done, u64)> = read.collect();
        rows.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| self.keys.done(&a.id).cmp(&self.keys.done(&b.id))));
        rows.dedup_by(|(a, _), (b, _)| a.id == b.id);
        if let Some(DonePlace { revision: at, run }) = after {
            let key = run.as_ref().map(|run| self.keys.done(run));
            let is_behind = |done: &Done| key.as_ref().is_none_or(|key| self.keys.done(&done.id) > *key);
            rows.retain(|(done, revision)| revision < at || (revision == at && is_behind(done)));
        }
        rows
    }

    /// One run, wherever it stands, and the version of its record. A run that one verdict covers with others has the
    /// version of that.
    pub async fn run_and_version(&self, run: &RunId) -> Result<Option<(RunRow, u64)>, StoreError> {
        // Twice: a run that ends between the look at the open ones and the look at the others is in neither.
        for _ in 0..2 {
            if let Some(found) = row_of(self, run).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
