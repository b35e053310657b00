//! The life of an open run: begun, retried, cancelled, ended, or left behind by a lost leader.

use std::sync::Arc;

use super::run::{Claimant, Done, End, Open, OpenState, Predecessor, Source};
use super::work::{Attempt, By, Flight};
use super::{Action, Scheduler, To, Transition, Transitioned};
use crate::job::{
    AlertKind, AttemptResult, Attempted, Code, Guarantee, Judgement, On, OnLostLeadership, Reason, RunId, StopReason,
    Verdict, cancelled, judge_lost, lost,
};
use crate::time::Wall;

impl Scheduler {
    /// Starts a run whose claim is acknowledged; where that may no longer be, gives it back.
    pub(super) fn start_claimed(&mut self, run: &RunId, now: Wall) {
        let Some(open) = self.view.open.get(run).map(|known| known.open.clone()) else { return };
        let Some(attempt) = Attempt::of(&open).filter(|attempt| !self.work.has_started(run, attempt)) else { return };
        let ours = self.authority.is_present(&attempt.claimant);
        let job = self.configuration.job(&open.job).cloned();
        let (true, true, Some(job)) = (ours, self.authority.may_act(), job) else {
            return self.give_back(run, now);
        };
        if let Some(why) = self.view.cancelled_by(&open).map(|by| cancelled(Some(by))) {
            return self.conclude(&open, Verdict::Cancelled, Code::Cancelled.because(why), now);
        }
        self.work.start(run.clone(), Arc::clone(&job), attempt);
        self.act(Action::Start { open, job });
    }

    /// An attempt has ended here: it is retried, given back, or it is the run's verdict.
    pub(super) fn ended(&mut self, run: RunId, attempt: u32, ended: AttemptResult, now: Wall) {
        let Some(active) = self.work.ended(&run, attempt) else { return };
        let Some(open) = self.view.open.get(&run).map(|known| known.open.clone()) else {
            return self.run_gone(&run, now);
        };
        if Attempt::of(&open).as_ref() != Some(&active.attempt) {
            return self.reconsider(&run, now);
        }
        let lateness = open.lateness.or_else(|| ended.started_at.map(|at| at.since(open.starts)));
        let began = ended.started_at.is_some();
        let attempted = Attempted {
            outcome: &ended.outcome,
            number: attempt,
            began,
            doubt: open.doubt.as_deref(),
            asked_by: self.view.stopped_by(&run),
            is_last: self.configuration.job(&open.job).is_none(),
        };
        let (judgement, doubt) = (active.job.judge(attempted), active.job.doubt_after(attempted));
        let open = Open { started_at: ended.started_at, lateness, doubt, ..open };
        let to = match judgement {
            Judgement::HandOver => {
                if !began {
                    self.work.never_began(&run);
                }
                To::Open(given_back(open, began, now))
            }
            Judgement::Repeat { pause } => {
                self.work.keep_output(&run, attempt, &ended);
                To::Open(Open { state: OpenState::Retrying { not_before: now.plus(pause) }, ..open })
            }
            Judgement::End(end) => {
                let output = self.work.output_of(&run, attempt, &ended);
                let End { verdict, reason, exit_code, code } = end;
                let (finished_at, done) = (ended.finished_at, Done::of(&open, verdict, reason, now));
                self.done(Done { finished_at, exit_code, code, output, ..done }, open.has_begun(), now)
            }
        };
        self.change(&run, to, By::Attempt(active.attempt));
    }

    /// A verdict, with the runs that follow it. `began`: an attempt had begun.
    fn done(&self, done: Done, began: bool, now: Wall) -> To {
        let follow = self.followers_of(&Predecessor::of(&done), |on| on.takes(done.verdict, began), now);
        To::Done { done, follow }
    }

    /// The runs that follow the one before, of the jobs that wait for such an end.
    fn followers_of(&self, before: &Predecessor, takes: impl Fn(On) -> bool, now: Wall) -> Vec<Open> {
        let run = &before.run;
        self.configuration
            .followers(&run.job())
            .iter()
            .filter(|(_, on)| takes(*on))
            .map(|(job, _)| Open {
                id: run.followed_by(job),
                job: job.clone(),
                at: run.at(),
                starts: now,
                source: Source::After(Box::new(before.clone())),
                state: OpenState::Waiting { not_before: now },
                attempt: 0,
                claimant: None,
                claimed_at: now,
                started_at: None,
                lateness: None,
                doubt: None,
                catch_up: None,
            })
            .collect()
    }

    /// A person said that this run, which was in doubt, has succeeded. What waits for its failure or its end has
    /// followed the doubt.
    pub(super) fn follow_resolved(&mut self, run: &RunId, now: Wall) {
        let Some(fence) = self.authority.term() else { return };
        let end = End {
            verdict: Verdict::Succeeded,
            reason: "resolved by a person".to_owned(),
            exit_code: None,
            code: Some(Code::Resolved),
        };
        let before = Predecessor { run: run.clone(), end: Some(end) };
        let follow = self.followers_of(&before, |on| on == On::Success, now);
        self.act(Action::Follow { fence, run: run.clone(), follow });
    }

    pub(super) fn follow_all_resolved(&mut self, now: Wall) {
        let resolved: Vec<RunId> = self.view.resolved.iter().cloned().collect();
        resolved.iter().for_each(|run| self.follow_resolved(run, now));
    }

    /// Ends an open run on the leader's authority, unstarted or unheard of.
    pub(super) fn conclude(&mut self, open: &Open, verdict: Verdict, why: Reason, now: Wall) {
        let Some(fence) = self.authority.term() else { return };
        let end = End { verdict, reason: why.text, exit_code: None, code: Some(why.code) };
        let End { verdict, reason, code, .. } = end.after(open.doubt.as_deref());
        let done = Done { code, ..Done::of(open, verdict, reason, now) };
        let to = self.done(done, open.has_begun(), now);
        self.change(&open.id, to, By::Term(fence));
    }

    /// Sends a transition, or keeps it until the one under way is answered. A verdict that is kept is kept for good.
    /// The node that executed an attempt may only report on it while it owns the run: what a successor decided stands.
    pub(super) fn change(&mut self, run: &RunId, to: To, by: By) {
        if self.work.is_in_flight(run) {
            if let By::Attempt(attempt) = by {
                self.work.send_later(run, to, attempt);
            }
            return;
        }
        let Some(known) = self.view.open.get(run) else { return };
        let fence = match &by {
            By::Term(fence) => Some(*fence),
            By::Attempt(attempt) if Attempt::of(&known.open).as_ref() == Some(attempt) => None,
            By::Attempt(_) => return,
        };
        let job = self.configuration.job(&known.open.job);
        let bad = to.verdict().filter(|done| AlertKind::of(done.verdict).is_some_and(AlertKind::is_bad));
        let is_muted = bad.is_some_and(|done| {
            // What is in doubt waits for a person, whatever is paused.
            done.verdict != Verdict::Unknown && self.view.paused_at(&done.job, done.finished_at).is_some()
        });
        let job = job.filter(|_| !is_muted);
        let notify = job.and_then(|job| if bad.is_some() { job.notify_of_run() } else { job.notify.clone() });
        let sent = Transition { run: run.clone(), expect: known.version, fence, to, notify };
        self.work.send(sent.clone(), by);
        self.act(Action::Transition(sent));
    }

    pub(super) fn transitioned(&mut self, run: RunId, result: Transitioned, now: Wall) {
        let Some(Flight { sent, by, then }) = self.work.answered(&run) else { return };
        match (result, sent.to) {
            (Transitioned::Applied { version }, To::Open(open)) => {
                let begun = sent.fence.is_some() && open.state == OpenState::Claimed;
                self.view.put_open(run.clone(), open, version);
                if begun {
                    self.start_claimed(&run, now);
                }
                self.go_on(&run, then, now);
            }
            (Transitioned::Applied { version }, To::Done { done, follow }) => {
                let ended = self.view.open.get(&run).map(|known| known.open.clone());
                self.view.drop_open(&run, version);
                for open in follow {
                    let next = open.id.clone();
                    // One that exists was not made again: it is as it was.
                    if !self.view.open.contains_key(&next) {
                        self.view.put_open(next.clone(), open, version);
                    }
                    self.look_again(&next, now);
                }
                if let Some(ended) = ended.filter(|_| self.authority.may_act()) {
                    self.skip_overlapped(&ended, &done, now);
                }
                self.run_gone(&run, now);
            }
            // The present term is over, and its end will be reported: to repeat it before that would be useless.
            (Transitioned::Fenced, _) if then.is_none() && sent.fence == self.authority.term() => {}
            (Transitioned::Fenced, _) => self.go_on(&run, then, now),
            (Transitioned::Refused { now: stands, version }, to) => {
                match stands {
                    Some(open) => self.view.found_open(run.clone(), *open, version, sent.expect),
                    None => drop(self.view.drop_open(&run, version)),
                }
                let own = match by {
                    By::Attempt(attempt) => Some((to, attempt)),
                    By::Term(_) => None,
                };
                self.go_on(&run, then.or(own), now);
            }
        }
    }

    /// A transition is answered: what was kept until then follows, if it still may.
    fn go_on(&mut self, run: &RunId, then: Option<(To, Attempt)>, now: Wall) {
        if let Some((to, attempt)) = then {
            self.change(run, to, By::Attempt(attempt));
        }
        self.run_changed(run, now);
    }

    /// The ledger shows a run other than before.
    pub(super) fn run_changed(&mut self, run: &RunId, now: Wall) {
        let stands = self.view.open.get(run).and_then(|known| Attempt::of(&known.open));
        let lost = self.work.active_of(run).is_some_and(|active| {
            Some(&active.attempt) != stands.as_ref() && active.job.on_lost_leadership == OnLostLeadership::Cancel
        });
        if lost {
            self.stop(run, StopReason::LostLeadership);
        }
        self.reconsider(run, now);
    }

    /// Decides what happens next to a run, as it stands.
    fn reconsider(&mut self, run: &RunId, now: Wall) {
        let Some(open) = self.view.open.get(run).map(|known| known.open.clone()) else {
            return self.run_gone(run, now);
        };
        self.give_back(run, now);
        if self.authority.leads() && self.is_in_dead_hands(&open) {
            self.decide_lost(&open, now);
        }
        if self.view.cancels.contains_key(run) {
            self.cancel_asked(run, now);
        }
        self.look_again(run, now);
    }

    /// Whether no living session is left that could report on the attempt under way.
    fn is_in_dead_hands(&self, open: &Open) -> bool {
        let lease = Attempt::of(open).map(|attempt| attempt.claimant.lease);
        lease.is_some_and(|lease| !self.authority.holds(lease) && !self.view.sessions.contains(&lease))
    }

    fn run_gone(&mut self, run: &RunId, now: Wall) {
        self.work.forget(run);
        if self.authority.leads() && self.view.cancels.contains_key(run) {
            self.act(Action::ForgetCancel(run.clone()));
        }
        self.advance(&run.job(), now);
    }

    pub(super) fn cancel_asked(&mut self, run: &RunId, now: Wall) {
        if self.work.is_active(run) {
            if self.view.stopped_by(run).is_some() {
                self.stop(run, StopReason::Asked);
            }
            return;
        }
        let Some(open) = self.view.open.get(run).map(|known| known.open.clone()) else {
            return self.run_gone(run, now);
        };
        let Some(why) = self.view.cancelled_by(&open).map(|by| cancelled(Some(by))) else { return };
        if self.authority.leads() && open.state != OpenState::Claimed && !self.work.is_in_flight(run) {
            self.conclude(&open, Verdict::Cancelled, Code::Cancelled.because(why), now);
        }
    }

    /// What an earlier leader left open is decided now, or goes on.
    pub(super) fn adopt_open_runs(&mut self, now: Wall) {
        self.give_back_unstarted(now);
        let claimed: Vec<Open> = self.claimed_opens(|_| true);
        for open in claimed.iter().filter(|open| self.is_in_dead_hands(open)).collect::<Vec<_>>() {
            self.decide_lost(open, now);
        }
        self.advance_all(now);
    }

    pub(super) fn session_ended(&mut self, lease: u64, now: Wall) {
        if self.authority.leads() && !self.authority.holds(lease) {
            let lost = self.claimed_opens(|claimant| claimant.lease == lease);
            lost.iter().for_each(|open| self.decide_lost(open, now));
        }
    }

    fn claimed_opens(&self, by: impl Fn(&Claimant) -> bool) -> Vec<Open> {
        let claimed = |open: &&Open| open.state == OpenState::Claimed && open.claimant.as_ref().is_some_and(&by);
        self.view.open.values().map(|known| &known.open).filter(claimed).cloned().collect()
    }

    /// The claimant of this run is gone and did not report how it ended.
    fn decide_lost(&mut self, open: &Open, now: Wall) {
        if self.work.is_active(&open.id) || self.work.is_in_flight(&open.id) {
            return;
        }
        let lost = lost("leader", open.claimant.as_ref().map(|claimant| (claimant.node.as_str(), claimant.fence)));
        let guarantee = self.configuration.job(&open.job).map_or(Guarantee::AtMostOnce, |job| job.guarantee);
        match judge_lost(guarantee, open.attempt, &lost) {
            Judgement::End(end) => {
                let code = end.code.unwrap_or(Code::LeaderLost);
                self.conclude(open, end.verdict, code.because(end.reason), now);
            }
            Judgement::Repeat { pause } => {
                // It keeps its place before other runs of its job, as what is repeated does.
                let state = OpenState::Retrying { not_before: now.plus(pause) };
                self.give_up_claim(Open { state, ..open.clone() }, lost);
            }
            Judgement::HandOver => self.give_up_claim(given_back(open.clone(), true, now), lost),
        }
    }

    /// Opens a run again that its claimant has lost.
    fn give_up_claim(&mut self, open: Open, lost: String) {
        let Some(fence) = self.authority.term() else { return };
        let open = Open { claimant: None, started_at: None, doubt: Some(lost.into()), ..open };
        self.change(&open.id.clone(), To::Open(open), By::Term(fence));
    }

    /// Runs that this node claimed but never started go back, for the next leader.
    pub(super) fn give_back_unstarted(&mut self, now: Wall) {
        let ours: Vec<Open> = self.claimed_opens(|claimant| self.authority.is_own(claimant.lease));
        ours.iter().for_each(|open| self.give_back(&open.id, now));
    }

    fn give_back(&mut self, run: &RunId, now: Wall) {
        let Some(open) = self.view.open.get(run).map(|known| &known.open) else { return };
        let Some(attempt) = Attempt::of(open).filter(|attempt| self.authority.is_own(attempt.claimant.lease)) else {
            return;
        };
        let started = self.work.has_started(run, &attempt);
        let under_way = self.work.is_in_flight(run) || self.claims.opening().any(|claimed| claimed.id == *run);
        if !started && !under_way {
            let to = To::Open(given_back(open.clone(), false, now));
            self.change(run, to, By::Attempt(attempt));
        }
    }
}

/// The run as it waits for its next leader; an attempt that was never started does not count.
fn given_back(open: Open, was_started: bool, now: Wall) -> Open {
    let attempt = if was_started { open.attempt } else { open.attempt.saturating_sub(1) };
    Open { state: OpenState::Waiting { not_before: now }, attempt, claimant: None, started_at: None, ..open }
}
