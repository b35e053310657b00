//! Leases by observation.
//!
//! SQL has no clock but the wall clock, and a step of that would end leases whose holders trust in them. So a lease has no
//! deadline but a beat: each keep-alive counts it up. An observer ends a lease, under the lock of the writers, whose beat
//! it has seen unchanged for its TTL on its own boot clock, and which is unchanged still. The holder sent the beat before
//! the observer saw it, and trusts in it from when it sent it: so the holder's trust ends first, whatever clocks are set
//! to, and whichever server is the primary.
//!
//! What was seen is also recorded in the database, with the boot whose clock it was seen by: so that processes of one
//! machine, each of which lives shorter than a TTL, can end the lease of a holder that is dead.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

use super::link::{ASK_WITHIN, Link};
use super::reader::{Params, Reader};
use super::tables::LINEAGE;
use crate::store::contents::{lease_of, lease_sql, new_lease};
use crate::store::{LeaseId, StoreError, boot, rules};
use crate::time::Boot;

/// How often leases are looked at while a watch is open: an eighth of the shortest TTL, between these.
const LOOK_LEAST: Duration = Duration::from_millis(20);
const LOOK_MOST: Duration = Duration::from_millis(500);

/// How long what was seen counts as new for a handle without a watch.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A lease, as it was last seen.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    beat: i64,
    ttl: Duration,
    /// When its beat was first seen: not before it was sent.
    since: Boot,
    /// In which order leases were first seen.
    nth: u64,
}

impl Sighting {
    fn deadline(&self) -> Boot {
        self.since.plus(self.ttl)
    }
}

/// What a handle has seen of leases.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    leases: HashMap<i64, Sighting>,
    seen: u64,
    looked: Option<Boot>,
}

impl Sightings {
    /// The lease has this beat, as of an answer that came before `now`.
    pub fn saw(&mut self, lease: i64, beat: i64, ttl: Duration, now: Boot) {
        let known = self.leases.get(&lease).copied();
        if known.is_some_and(|known| known.beat == beat) {
            return;
        }
        self.seen += 1;
        let nth = known.map_or(self.seen, |known| known.nth);
        self.leases.insert(lease, Sighting { beat, ttl, since: now, nth });
    }

    /// It was seen at this beat already at `at`, by a process on the same clock.
    fn was_seen(&mut self, lease: i64, beat: i64, at: Boot) {
        if let Some(sighting) = self.leases.get_mut(&lease)
            && sighting.beat == beat
            && at < sighting.since
        {
            sighting.since = at;
        }
    }

    /// Whether it was last seen with this beat.
    pub fn has(&self, lease: i64, beat: i64) -> bool {
        self.leases.get(&lease).is_some_and(|sighting| sighting.beat == beat)
    }

    pub fn forget(&mut self, lease: i64) {
        self.leases.remove(&lease);
    }

    /// The leases whose time is up by what was seen, with their beats, in the order in which they end.
    pub fn due(&self, now: Boot) -> Vec<(i64, i64)> {
        let mut due: Vec<_> = self.leases.iter().filter(|(_, sighting)| sighting.deadline() <= now).collect();
        due.sort_by_key(|(_, sighting)| (sighting.deadline(), sighting.nth));
        due.into_iter().map(|(lease, sighting)| (*lease, sighting.beat)).collect()
    }

    /// How long until the next look, while a watch is open.
    fn pause(&self, now: Boot) -> Duration {
        let shortest = self.leases.values().map(|sighting| sighting.ttl).min();
        let regular = shortest.map_or(LOOK_MOST, |ttl| (ttl / 8).clamp(LOOK_LEAST, LOOK_MOST));
        // What is due already is asked for again no sooner: a server that was not adopted ends no lease.
        let deadlines = self.leases.values().map(Sighting::deadline).filter(|deadline| *deadline > now);
        let next = deadlines.map(|deadline| deadline.since(now)).min();
        next.map_or(regular, |next| regular.min(next.max(LOOK_LEAST)))
    }
}

/// The leases of a store, as one handle sees and keeps them.
pub(super) struct Leases {
    pub link: Link,
    sightings: Mutex<Sightings>,
    /// Asks for a look, where none is made regularly.
    pub wanted: Notify,
    /// How many watches are open.
    pub watched: tokio::sync::watch::Sender<usize>,
}

impl Leases {
    pub fn new(link: Link) -> Leases {
        Leases { link, sightings: Mutex::default(), wanted: Notify::new(), watched: Default::default() }
    }

    pub fn seen(&self) -> MutexGuard<'_, Sightings> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Boot {
        self.link.place.clock.boot()
    }

    /// The leases whose time is up, as far as this handle can say.
    pub fn due(&self) -> Vec<(i64, i64)> {
        self.seen().due(self.now())
    }

    pub fn has_looked(&self) -> bool {
        self.seen().looked.is_some()
    }

    /// Whether leases were not looked at lately.
    pub fn is_out_of_date(&self) -> bool {
        let now = self.now();
        self.seen().looked.is_none_or(|looked| now.since(looked) >= LOOK_AGAIN)
    }

    pub async fn grant(&self, asked: Duration) -> Result<(LeaseId, Duration), StoreError> {
        let (ttl, lease) = (rules::ttl(asked)?, new_lease());
        let (id, nanos) = (lease_sql(lease), nanos(ttl));
        let rows = self
            .write(&format!(
                "UPDATE fencron.meta SET longest_ttl = {nanos} WHERE longest_ttl < {nanos}; \
                 INSERT INTO fencron.leases (id, ttl, beat) SELECT {id}, {nanos}, 0 \
                 FROM fencron.meta, (SELECT {LINEAGE}) l WHERE sysid = system AND timeline = wal_timeline RETURNING ttl"
            ))
            .await?;
        if rows.is_empty() {
            return Err(another_lineage(&self.link.place.name));
        }
        let now = self.now();
        self.seen().saw(id, 0, ttl, now);
        Ok((lease, ttl))
    }

    /// A beat is taken whichever server is the primary: what is not ended goes on.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        let id = lease_sql(lease);
        let beat = format!("UPDATE fencron.leases SET beat = beat + 1 WHERE id = {id} RETURNING ttl, beat");
        let rows = self.write(&beat).await?;
        let Some([ttl, beat]) = rows.first().and_then(|row| row.first_chunk()).copied() else {
            self.seen().forget(id);
            return Err(StoreError::LeaseEnded(lease));
        };
        let (ttl, now) = (Duration::from_nanos(ttl.unsigned_abs()), self.now());
        self.seen().saw(id, beat, ttl, now);
        Ok(ttl)
    }

    /// Makes a transaction of statements of numbers, which are sent as one message. Answers with the rows.
    async fn write(&self, statements: &str) -> Result<Vec<Vec<i64>>, StoreError> {
        let connected = self.link.connected().await?;
        let message = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; \
             SET LOCAL lock_timeout = '5s'; {statements}; COMMIT"
        );
        let answer = timeout(ASK_WITHIN, connected.client.simple_query(&message)).await;
        let answer = match self.link.judge(&connected, answer).await {
            Ok(answer) => answer,
            Err(error) => {
                // A transaction that failed is open still: it must not meet the next message.
                self.link.give_up(&connected).await;
                return Err(error.of_a_write(&self.link.place));
            }
        };
        let rows = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).filter_map(|column| row.get(column)?.parse().ok()).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Looks at all leases.
    pub async fn look(&self, reader: &Reader) -> Result<(), StoreError> {
        let is_first = self.seen().looked.is_none();
        let asked = self.now();
        let found = leases(reader, "SELECT id, beat, ttl FROM fencron.leases", &[]).await?;
        let now = self.now();
        {
            let mut seen = self.seen();
            // What was granted in the meantime may not have been there yet.
            seen.leases.retain(|id, sighting| found.iter().any(|(lease, ..)| lease == id) || sighting.since >= asked);
            for (lease, beat, ttl) in &found {
                seen.saw(*lease, *beat, Duration::from_nanos(ttl.unsigned_abs()), now);
            }
            seen.looked = Some(now);
        }
        if is_first && !found.is_empty() {
            self.share(reader, &found, now).await?;
        }
        Ok(())
    }

    /// Records what was seen for the processes after this one, and takes what those before it have seen.
    async fn share(&self, reader: &Reader, found: &[(i64, i64, i64)], now: Boot) -> Result<(), StoreError> {
        // Without it, each process has to look for a TTL itself.
        let Ok(boot) = boot::identity() else { return Ok(()) };
        let earlier =
            leases(reader, "SELECT lease, beat, at FROM fencron.sightings WHERE boot = $1", &[(&boot, Type::TEXT)])
                .await?;
        {
            let mut seen = self.seen();
            for (lease, beat, at) in &earlier {
                seen.was_seen(*lease, *beat, Boot::from_duration(Duration::from_nanos(at.unsigned_abs())));
            }
        }
        let is_new = |lease: i64, beat: i64| !earlier.iter().any(|(id, seen, _)| (*id, *seen) == (lease, beat));
        let (ids, beats): (Vec<i64>, Vec<i64>) =
            found.iter().map(|(lease, beat, _)| (*lease, *beat)).filter(|(lease, beat)| is_new(*lease, *beat)).unzip();
        if ids.is_empty() {
            return Ok(());
        }
        // Of two processes that have seen the same beat, the first counts. (A lease that has ended has no row to refer to.)
        let record = "INSERT INTO fencron.sightings AS s (lease, boot, beat, at)
            SELECT l.id, $1, n.beat, $4 FROM unnest($2::bigint[], $3::bigint[]) AS n (id, beat)
            JOIN fencron.leases l ON l.id = n.id
            ON CONFLICT (lease, boot) DO UPDATE SET beat = excluded.beat, at = excluded.at WHERE s.beat <> excluded.beat";
        let at = nanos(now.since_boot());
        let params: Params<'_> =
            &[(&boot, Type::TEXT), (&ids, Type::INT8_ARRAY), (&beats, Type::INT8_ARRAY), (&at, Type::INT8)];
        reader.ask(record, params).await.map(drop)
    }

    /// Looks regularly while a watch is open, and once whenever that is asked for; has `expire` end what is due.
    pub async fn observe(self: Arc<Self>, reader: Arc<Reader>, expire: impl Fn() + Send + Sync) {
        let mut watched = self.watched.subscribe();
        loop {
            if *watched.borrow_and_update() == 0 {
                tokio::select! {
                    _ = watched.changed() => {}
                    () = self.wanted.notified() => {}
                }
            } else {
                let pause = {
                    let now = self.now();
                    self.seen().pause(now)
                };
                tokio::select! {
                    _ = watched.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
            if let Err(error) = self.look(&reader).await {
                tracing::debug!(%error, "leases could not be looked at");
                tokio::time::sleep(LOOK_MOST).await;
            }
            if !self.due().is_empty() {
                expire();
            }
        }
    }
}

/// Three numbers a row.
async fn leases(reader: &Reader, query: &str, params: Params<'_>) -> Result<Vec<(i64, i64, i64)>, StoreError> {
    let rows = reader.ask(query, params).await?;
    let read = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
    read.collect::<Result<_, tokio_postgres::Error>>().map_err(|error| reader.link.place.not_applied(&error))
}

/// Ours are far below 2^63 nanoseconds, which are 292 years.
fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The id of a lease in a row.
pub(super) fn lease_in(id: i64) -> LeaseId {
    lease_of(id).unwrap_or(LeaseId(NonZeroU64::MAX))
}

/// A server that took the place of the one that the tables were written by may lack its last commits, and would count its
/// revisions, and so its fences, again.
pub(super) fn another_lineage(store: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{store} takes no writes until `fencron store adopt`: another server wrote it last, or there was a failover or a \
         restore (its system identifier or timeline has changed), and commits may be missing. See that this is the \
         server that is meant, and that no old primary goes on, before you adopt it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boot {
        Boot::from_duration(Duration::from_millis(millis))
    }

    const TTL: Duration = Duration::from_millis(100);

    #[test]
    fn a_beat_that_stays_is_due_after_the_ttl_and_one_that_goes_on_is_not() {
        let mut seen = Sightings::default();
        seen.saw(1, 7, TTL, at(0));
        seen.saw(2, 0, TTL, at(10));
        seen.saw(1, 7, TTL, at(90));
        assert_eq!(seen.due(at(99)), []);
        assert_eq!(seen.due(at(100)), [(1, 7)]);
        seen.saw(1, 8, TTL, at(105));
        assert_eq!(seen.due(at(204)), [(2, 0)]);
        assert_eq!(seen.due(at(205)), [(2, 0), (1, 8)]);
    }

    #[test]
    fn what_an_earlier_process_saw_counts_for_the_same_beat_only() {
        let mut seen = Sightings::default();
        seen.saw(1, 7, TTL, at(500));
        seen.was_seen(1, 6, at(0));
        assert_eq!(seen.due(at(599)), []);
        seen.was_seen(1, 7, at(450));
        assert_eq!(seen.due(at(550)), [(1, 7)]);
    }
}
