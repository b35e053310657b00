//! How the node stops, or steps down: what it waits for, and for how long.

use std::time::Duration;

use super::Running;
use crate::execute::Execute;
use crate::job::StopReason;
use crate::ledger::{HandOver, TermEnd};
use crate::lock::Hold;
use crate::scheduler::Event;
use crate::store::Store;
use crate::time::{Boot, Wall};

/// After the grace, how long stopped runs are waited for beyond the longest `kill_after`, and how long the last writes
/// may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a node that is drained waits for its counts to be in the store: its successor is not to wait for them.
const COUNTS_WITHIN: Duration = Duration::from_millis(500);

/// How far the node is with going.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopping {
    /// When runs that go on are asked to stop.
    patience_until: Boot,
    /// The same for people.
    asks_at: Wall,
    /// How many runs the node has last published that it waits for.
    shown: usize,
    /// When the node gives up waiting for it.
    give_up_at: Boot,
    asked: bool,
    drained: bool,
    /// Until when it waits for its counts to be in the store, once it is drained; `None`: it is not yet.
    counts_until: Option<Boot>,
    /// The node ends; otherwise it steps down and goes on as a follower.
    leave: bool,
}

impl Stopping {
    /// The node ends now, without waiting for anything.
    pub fn now(now: Boot) -> Stopping {
        let (asks_at, shown) = (Wall::default(), 0);
        Stopping {
            patience_until: now,
            asks_at,
            shown,
            give_up_at: now,
            asked: true,
            drained: false,
            counts_until: None,
            leave: true,
        }
    }

    /// When there is something to do, where nothing happens before.
    pub fn next(&self) -> Boot {
        match self.counts_until {
            // Nothing runs any more, so the end of the patience with runs is nothing to wake for.
            Some(until) => until.min(self.give_up_at),
            None if self.asked => self.give_up_at,
            None => self.patience_until,
        }
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    /// Whether the node ends, and does not only step down.
    pub(super) fn is_leaving(&self) -> bool {
        self.stopping.is_some_and(|stopping| stopping.leave)
    }

    /// Starts nothing new; what runs may end within the grace. Then the node leaves, or steps down.
    pub(super) fn drain(&mut self, leave: bool) {
        let now = self.node.options.clock.boot();
        let patience_until = now.plus(self.node.options.shutdown_grace);
        let give_up_at = patience_until.plus(self.longest_kill()).plus(LAST_WORDS);
        let asks_at = self.node.options.clock.wall().plus(self.node.options.shutdown_grace);
        let stopping = Stopping { patience_until, asks_at, give_up_at, asked: false, leave, ..Stopping::now(now) };
        self.stopping = Some(stopping);
        // What waits for its turn in the executor does not start any more; it is given back.
        self.leadership.start_nothing();
        if leave {
            self.gate.leave();
        }
        self.feed(Event::Drain { wait_for_finish: leave });
    }

    /// What the node waits for before it hands over; `None`: nothing.
    pub(super) fn hand_over(&self) -> Option<HandOver> {
        let Stopping { asks_at, leave, .. } = self.stopping?;
        let runs = self.scheduler.waited_for();
        (runs > 0).then_some(HandOver { runs, until: asks_at, leaves: leave })
    }

    /// Publishes what the node waits for, where that has changed.
    fn show_hand_over(&mut self) {
        let runs = self.scheduler.waited_for();
        if let Some(stopping) = self.stopping.as_mut().filter(|stopping| stopping.shown != runs) {
            stopping.shown = runs;
            self.publishing.soon();
        }
    }

    fn longest_kill(&self) -> Duration {
        let jobs = self.scheduler.active().filter_map(|run| self.scheduler.jobs().get(&run.job()));
        jobs.map(|job| job.kill_after).max().unwrap_or_default()
    }

    pub(super) fn drained(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.drained = true;
        }
    }

    /// Goes on with stopping or stepping down, as time passes.
    pub(super) fn push_on_stopping(&mut self) {
        self.show_hand_over();
        let Some(mut stopping) = self.stopping else { return };
        let now = self.node.options.clock.boot();
        let runs = !stopping.drained || self.gate.is_making();
        if runs && !stopping.asked && now >= stopping.patience_until {
            stopping.asked = true;
            self.stopping = Some(stopping);
            tracing::warn!(running = self.work.running(), "the grace is over: stopping what still runs");
            let reason = if stopping.leave { StopReason::Shutdown } else { StopReason::StepDown };
            self.gate.stop(reason);
            self.feed(Event::StopAll(reason));
        }
        let Some(mut stopping) = self.stopping else { return };
        let is_over = stopping.drained && !(stopping.leave && self.gate.is_making());
        if is_over && stopping.counts_until.is_none() {
            stopping.counts_until = Some(now.plus(COUNTS_WITHIN));
            self.stopping = Some(stopping);
            self.add_counts();
        }
        if !stopping.leave && (self.has_settled(stopping) || now >= stopping.give_up_at) {
            self.stopping = None;
            self.step_down_now();
        }
    }

    /// Whether nothing runs and nothing waits to be recorded.
    fn has_settled(&mut self, stopping: Stopping) -> bool {
        let now = self.node.options.clock.boot();
        stopping.counts_until.is_some_and(|until| now >= until || !self.work.tally().is_under_way())
    }

    fn step_down_now(&mut self) {
        if let Some(hold) = self.leadership.end_term() {
            tracing::info!(fence = %hold.fence(), "stepping down");
            self.record_end_of_term(hold.fence(), TermEnd::SteppedDown);
            self.feed(Event::Deposed);
        }
        self.feed(Event::Undrain);
    }

    /// Whether everything that had to end has ended, or has had its time.
    pub(super) fn may_leave(&mut self) -> bool {
        let Some(stopping) = self.stopping.filter(|stopping| stopping.leave) else { return false };
        self.has_settled(stopping) || self.node.options.clock.boot() >= stopping.give_up_at
    }

    /// The last acts: resigns, and closes the session.
    pub(super) async fn leave(self) {
        self.leadership.start_nothing();
        let led = self.leadership.hold().map(Hold::fence);
        self.work.end().await;
        let (ledger, now) = (self.node.ledger.clone(), self.node.options.clock.wall());
        let record = async move {
            match led {
                Some(fence) => ledger.end_term(fence, now, TermEnd::Resigned).await,
                None => Ok(()),
            }
        };
        let leave = async { tokio::join!(self.leadership.leave(), record) };
        let (left, recorded) = match tokio::time::timeout(LAST_WORDS, leave).await {
            Ok((left, recorded)) => (Some(left), recorded),
            Err(_) => (None, Ok(())),
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "could not record how the term ended");
        }
        match left {
            Some(Ok(())) if led.is_some() => tracing::info!("resigned"),
            Some(Ok(())) => {}
            Some(Err(_)) | None => {
                tracing::warn!("the store does not answer: leadership and session end by themselves");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_waits_for_its_counts_only_is_not_kept_awake_by_a_grace_that_is_over() {
        let at = |seconds| Boot::from_duration(Duration::from_secs(seconds));
        let stopping = Stopping { asked: false, drained: true, ..Stopping::now(at(9)) };
        let stopping = Stopping { patience_until: at(1), ..stopping };
        assert_eq!(stopping.next(), at(1));
        assert_eq!(Stopping { counts_until: Some(at(3)), ..stopping }.next(), at(3));
        assert_eq!(Stopping { counts_until: Some(at(30)), ..stopping }.next(), at(9));
    }
}
