//! The news of the ledger, as the board takes them: a node shows what it follows anyway, and a command what it follows for
//! this alone.

use super::{Board, Leader, Paused};
use crate::ledger::{Asked, Followed, News, Pause};
use crate::scheduler::view::Change;
use crate::time::Wall;

impl Board {
    /// Takes what the ledger says at `now`. `owner_key`: the key of the owner of the leadership.
    pub fn take(&mut self, news: &News, owner_key: &str, now: Wall) {
        let (all, before) = match news {
            News::Changed(changes, _) => (changes, None),
            News::Reread(all, _) => (all, Some(self.forget_ledger())),
        };
        for one in all {
            self.take_one(one, owner_key, now);
        }
        for (_, record) in
            before.into_iter().flatten().filter(|(lease, _)| !self.nodes.contains_key(lease)).collect::<Vec<_>>()
        {
            self.is_gone(record, now);
        }
        self.is_current(now);
    }

    fn take_one(&mut self, one: &Followed, owner_key: &str, now: Wall) {
        match one {
            Followed::Ledger(Change::Watermark(mark), _) => self.decided(mark.clone()),
            Followed::Ledger(Change::Job(name, known), _) => self.known(name, known.as_ref()),
            Followed::Paused { job, paused, pause, .. } => {
                // What a newer version wrote pauses the jobs all the same.
                let unread = || Pause { asked: Asked::new("", now), until: None };
                let paused = paused.then(|| Paused::from(pause.clone().unwrap_or_else(unread)));
                match job {
                    Some(job) => self.paused(job, paused),
                    None => self.all_paused(paused),
                }
            }
            Followed::Last { job, last, version } => self.last(job, last.clone(), *version),
            Followed::Ledger(Change::Open(run, open), _) => self.open(run, open.clone()),
            Followed::Node { lease, alive, record, .. } => self.node(*lease, record.clone().filter(|_| *alive), now),
            Followed::Other { key, created, since, .. } if key == owner_key => {
                let leader = created.and_then(|(created, lease)| {
                    Some(Leader { lease: lease?, created: created.0, since: since.unwrap_or(now) })
                });
                self.led_by(leader);
            }
            Followed::Mark { base, .. } => self.base(*base),
            // Each node says of itself whether it is drained.
            Followed::Drained { .. } => {}
            Followed::Ledger(..) | Followed::Lineage | Followed::Damaged(_) | Followed::Other { .. } => {}
        }
    }
}
