//! The rows of the table of routes that act.

use super::backfills::{self, BackfillView, PlanView};
use super::bulk::{self, Bulk, BulkView};
use super::care::{self, RewindAnswer, RewindingTo, SettlingMigration, SteppingDown, Unlocking};
use super::{AuditView, DeedView, Pausing, Reasoned, Resolving, Trigger};
use crate::api::access::Role;
use crate::api::listing::Listing;
use crate::api::problem::Kind;
use crate::api::routes::{Param, Route};
use crate::api::rows::{behind, job, limited, run};
use crate::job::JobName;
use crate::ledger::Act;
use crate::store::Store;
use crate::time::Wall;

/// What acts, and what lists the acts.
pub(in crate::api) fn of_acts<S: Store>() -> Vec<Route<S>> {
    let mut all = of_jobs();
    all.extend(of_backfills());
    all.extend(of_care());
    all
}

fn of_jobs<S: Store>() -> Vec<Route<S>> {
    use Role::{Admin, Operator};
    let of_run = [Kind::NoSuchRun, Kind::Changed];
    vec![
        Route::post("/api/v1/jobs/{job}/runs", "trigger", Operator, super::trigger::<S>)
            .about("Runs a job now")
            .param(job())
            .acts::<Trigger>()
            .answer_json::<DeedView>(201, "The run is asked for: `Location` leads to it.")
            .may(&[Kind::NoSuchJob, Kind::NotNow]),
        Route::put("/api/v1/jobs/{job}/pause", "pause", Operator, super::pause::<S>)
            .about("Pauses a job: its occurrences are skipped")
            .param(job())
            .acts::<Pausing>()
            .json::<DeedView>()
            .may(&[Kind::NoSuchJob, Kind::Changed]),
        Route::delete("/api/v1/jobs/{job}/pause", "resume", Operator, super::resume::<S>)
            .about("Lets a paused job go on")
            .param(job())
            .acts::<Reasoned>()
            .json::<DeedView>()
            .may(&[Kind::NoSuchJob]),
        Route::put("/api/v1/pause", "pause_all", Admin, super::pause_all::<S>)
            .about("Pauses all jobs of the namespace")
            .acts::<Pausing>()
            .json::<DeedView>()
            .may(&[Kind::Changed]),
        Route::delete("/api/v1/pause", "resume_all", Admin, super::resume_all::<S>)
            .about("Ends the pause of all jobs")
            .acts::<Reasoned>()
            .json::<DeedView>(),
        Route::post("/api/v1/runs/{run}/cancel", "cancel", Operator, super::cancel::<S>)
            .about("Stops a run, or withdraws it before it starts")
            .param(run())
            .acts::<Reasoned>()
            .json::<DeedView>()
            .may(&of_run)
            .may(&[Kind::Ended]),
        Route::post("/api/v1/runs/{run}/resolve", "resolve", Operator, super::resolve::<S>)
            .about("Settles a run that ended as `unknown`")
            .param(run())
            .acts::<Resolving>()
            .json::<DeedView>()
            .may(&of_run)
            .may(&[Kind::NotInDoubt]),
        Route::post("/api/v1/bulk", "bulk", Operator, bulk::bulk::<S>)
            .narrowed()
            .about("Does the same to up to 500 jobs or runs, with a result for each")
            .acts::<Bulk>()
            .json::<BulkView>(),
        Route::get("/api/v1/audit", "audit", Operator, super::audit::<S>)
            .narrowed()
            .about("What people did, the last first")
            .param(Param::query::<JobName>("job", "Only what was done to this job, or to one of its runs."))
            .param(Param::query::<Act>("act", "Only acts of this kind."))
            .param(Param::query::<String>("by", "Only what was done by persons with this text in their names."))
            .param(Param::query::<Wall>("since", "Only from this instant on."))
            .param(limited())
            .param(behind())
            .json::<Listing<AuditView>>()
            .may(&[Kind::BadParameter, Kind::StoreAway])
            .tagged(),
    ]
}

fn of_backfills<S: Store>() -> Vec<Route<S>> {
    use Role::{Operator, Viewer};
    let backfill = || Param::path::<String>("backfill", "The backfill, as `/api/v1/backfills` lists it.");
    vec![
        Route::post("/api/v1/backfills", "backfill", Operator, backfills::ask::<S>)
            .narrowed()
            .about("Runs a job for past instants, or says which those would be")
            .acts::<backfills::Wanted>()
            .answer_json::<DeedView>(201, "The runs are asked for: `Location` leads to the backfill.")
            .answer_json::<PlanView>(200, "With `dry_run`: what would be asked for.")
            .may(&[Kind::NoSuchJob, Kind::NoSuchBackfill, Kind::Changed]),
        Route::get("/api/v1/backfills", "backfills", Viewer, backfills::list::<S>)
            .narrowed()
            .about("The backfills that were asked for, the last changed first")
            .json::<Listing<BackfillView>>()
            .may(&[Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/backfills/{backfill}", "backfill_progress", Viewer, backfills::one::<S>)
            .narrowed()
            .about("A backfill, and how far it has come")
            .param(backfill())
            .json::<BackfillView>()
            .may(&[Kind::BadParameter, Kind::NoSuchBackfill, Kind::StoreAway])
            .tagged(),
        Route::delete("/api/v1/backfills/{backfill}", "stop_backfill", Operator, backfills::stop::<S>)
            .narrowed()
            .about("Withdraws what has not begun of a backfill")
            .param(backfill())
            .acts::<Reasoned>()
            .json::<DeedView>()
            .may(&[Kind::NoSuchBackfill, Kind::Changed]),
    ]
}

fn of_care<S: Store>() -> Vec<Route<S>> {
    use Role::Admin;
    let node = || Param::path::<String>("node", "The name of the node, as `/api/v1/nodes` lists it.");
    vec![
        Route::post("/api/v1/leadership/step-down", "step_down", Admin, care::step_down::<S>)
            .about("Asks the leader to let its runs end and another node lead")
            .acts::<SteppingDown>()
            .json::<DeedView>()
            .may(&[Kind::Changed]),
        Route::put("/api/v1/nodes/{node}/drain", "drain", Admin, care::drain::<S>)
            .about("Lets a node lead no more: it hands over the leadership, and does not campaign")
            .param(node())
            .acts::<Pausing>()
            .json::<DeedView>()
            .may(&[Kind::NoSuchNode, Kind::Changed]),
        Route::delete("/api/v1/nodes/{node}/drain", "undrain", Admin, care::undrain::<S>)
            .about("Lets a drained node lead again")
            .param(node())
            .acts::<Reasoned>()
            .json::<DeedView>(),
        Route::post("/api/v1/locks/unlock", "unlock", Admin, care::unlock::<S>)
            .about("Revokes a lock, or the permits of a session")
            .acts::<Unlocking>()
            .json::<DeedView>()
            .may(&[Kind::Changed]),
        Route::post("/api/v1/migrations/resolve", "resolve_migration", Admin, care::settle_migration::<S>)
            .about("Settles a migration that is unknown, failed or lost")
            .acts::<SettlingMigration>()
            .json::<DeedView>()
            .may(&[Kind::NoSuchMigration, Kind::NotNow, Kind::Changed]),
        Route::post("/api/v1/rewind", "rewind", Admin, care::rewind::<S>)
            .about("Brings the schedules back after a clock that was ahead, or says what that would do")
            .acts::<RewindingTo>()
            .answer_json::<RewindAnswer>(200, "It was done; with `dry_run`, what would be.")
            .may(&[Kind::NotNow, Kind::Changed]),
    ]
}
