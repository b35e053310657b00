//! The rows of the table of routes that read the cluster, its jobs and its runs.

use super::access::Role;
use super::cluster::{self, LeadershipView, MeView, StatusView, StoreNow, TermView};
use super::fires::{self, FireView, NextView};
use super::held::{self, LockView, MigrationView};
use super::jobs::{self, JobDetail, JobView};
use super::listing::Listing;
use super::output;
use super::problem::Kind;
use super::routes::{Param, Route};
use super::runs;
use super::stats::{self, HourView};
use super::view::{NodeView, RunState, RunView};
use crate::board::{Filter, Order, PAGE_MOST};
use crate::job::{JobName, RunId};
use crate::store::Store;
use crate::time::Wall;

/// What is answered about the cluster.
pub(super) fn of_cluster<S: Store>() -> Vec<Route<S>> {
    use Role::Viewer;
    vec![
        Route::get("/api/v1/status", "status", Viewer, cluster::status::<S>)
            .about("The cluster at a glance, as this node knows it")
            .json::<StatusView>()
            .tagged(),
        Route::get("/api/v1/nodes", "nodes", Viewer, cluster::list_nodes::<S>)
            .about("The nodes that are there")
            .json::<Listing<NodeView>>()
            .tagged(),
        Route::get("/api/v1/store", "store", Viewer, cluster::store::<S>)
            .about("What the store says of itself")
            .json::<StoreNow>()
            .may(&[Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/leadership", "leadership", Viewer, cluster::leadership::<S>)
            .about("Which node leads, and which wait to")
            .json::<LeadershipView>()
            .tagged(),
        Route::get("/api/v1/terms", "terms", Viewer, cluster::terms::<S>)
            .about("The terms of leaders, the last one first")
            .param(limited())
            .param(behind())
            .json::<Listing<TermView>>()
            .may(&[Kind::BadParameter, Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/stats", "stats", Viewer, stats::hours::<S>)
            .about("What ended in each hour, and how late it was started")
            .param(Param::query::<Wall>(
                "since",
                "From the hour of this instant on; 24 hours before `until` by default.",
            ))
            .param(Param::query::<Wall>("until", "Up to the hour of this instant; now by default."))
            .json::<Listing<HourView>>()
            .may(&[Kind::BadParameter, Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/locks", "locks", Viewer, held::locks::<S>)
            .about("Locks and semaphores that are held or waited for")
            .param(Param::query::<String>("prefix", "Only those whose names begin so."))
            .param(Param::query::<u8>("all", "1: also semaphores that are not used now."))
            .json::<Listing<LockView>>()
            .may(&[Kind::BadParameter, Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/migrations", "migrations", Viewer, held::migrations::<S>)
            .about("Migrations: those that the ledger knows, as they were made, and then those that were not begun")
            .json::<Listing<MigrationView>>()
            .may(&[Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/me", "me", Viewer, cluster::me)
            .narrowed()
            .about("The name and the role of the caller")
            .json::<MeView>()
            .tagged(),
    ]
}

/// What is answered about jobs.
pub(super) fn of_jobs<S: Store>() -> Vec<Route<S>> {
    use Role::Viewer;
    vec![
        Route::get("/api/v1/jobs", "jobs", Viewer, jobs::list::<S>)
            .narrowed()
            .about("Jobs, in pages")
            .param(Param::query::<String>(
                "q",
                "Only jobs with this text in what is said of them; `owner:…` and `label:…` in it are those.",
            ))
            .param(Param::query::<String>("owner", "Only jobs of this owner."))
            .param(Param::query::<String>("label", "Only jobs with these labels: `NAME=VALUE` or `NAME`, with commas."))
            .param(Param::query::<Filter>("state", "Only jobs in this state."))
            .param(Param::query::<Order>("sort", "The order; `attention` by default."))
            .param(limited())
            .param(behind())
            .json::<Listing<JobView>>()
            .may(&[Kind::BadParameter])
            .tagged(),
        Route::get("/api/v1/jobs/{job}", "job", Viewer, jobs::one::<S>)
            .about("One job, with its definition")
            .param(job())
            .json::<JobDetail>()
            .may(&[Kind::BadParameter, Kind::NoSuchJob])
            .tagged(),
        Route::get("/api/v1/jobs/{job}/next", "job_next", Viewer, fires::next::<S>)
            .about("When a job fires next")
            .param(job())
            .param(Param::number("count", "How many fires; 5 by default.", (1, fires::NEXT_MOST)))
            .param(Param::query::<Wall>("from", "After this instant; now by default."))
            .json::<NextView>()
            .may(&[Kind::BadParameter, Kind::NoSuchJob])
            .tagged(),
        Route::get("/api/v1/jobs/{job}/runs", "job_runs", Viewer, runs::of_job::<S>)
            .about("The runs of a job, in pages")
            .param(job())
            .params(filters())
            .json::<Listing<RunView>>()
            .may(&[Kind::BadParameter, Kind::NoSuchJob, Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/fires", "fires", Viewer, fires::fires::<S>)
            .narrowed()
            .about("When jobs fire in a stretch of time, by their definitions")
            .param(Param::query::<JobName>("job", "Only this job."))
            .param(Param::query::<Wall>("from", "From this instant on; now by default."))
            .param(Param::query::<Wall>("until", "Up to this instant: 7 days later by default, 32 at most."))
            .param(Param::number("limit", "How many fires; 500 by default.", (1, fires::FIRES_MOST)))
            .json::<Listing<FireView>>()
            .may(&[Kind::BadParameter])
            .tagged(),
    ]
}

/// What is answered about runs.
pub(super) fn of_runs<S: Store>() -> Vec<Route<S>> {
    use Role::{Reader, Viewer};
    vec![
        Route::get("/api/v1/runs", "runs", Viewer, runs::list::<S>)
            .narrowed()
            .about("Runs, in pages: the open ones first, then the last that have ended")
            .param(Param::query::<JobName>("job", "Only runs of this job."))
            .params(filters())
            .json::<Listing<RunView>>()
            .may(&[Kind::BadParameter, Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/runs/{run}", "run", Viewer, runs::one::<S>)
            .about("One run")
            .param(run())
            .json::<RunView>()
            .may(&[Kind::BadParameter, Kind::NoSuchRun, Kind::StoreAway])
            .tagged(),
        Route::get("/api/v1/runs/{run}/output", "run_output", Reader, output::output::<S>)
            .about("What a run has written")
            .param(run())
            .param(Param::query::<u8>("follow", "1: go on until the run ends."))
            .param(Param::query::<u64>("offset", "From this byte of what the attempt has written; of what was kept."))
            .param(Param::query::<u8>("whole", "1: from the file in which all of it is kept, as its bytes are."))
            .param(Param::query::<u32>("attempt", "Of the file: that of this attempt; the last one by default."))
            .param(Param::query::<u64>("limit", "Of the file: at most so many bytes."))
            .text()
            .media(super::EVENTS)
            .may(&[Kind::BadParameter, Kind::NoSuchRun, Kind::NoSuchOutput, Kind::NotHere, Kind::StoreAway])
            .may(&[Kind::TooManyStreams]),
    ]
}

pub(super) fn job() -> Param {
    Param::path::<JobName>("job", "The job, as `/api/v1/jobs` lists it.")
}

pub(super) fn run() -> Param {
    Param::path::<RunId>("run", "The run, as `/api/v1/runs` lists it.")
}

pub(super) fn limited() -> Param {
    Param::number("limit", "How many rows a page has; 50 by default.", (1, PAGE_MOST))
}

pub(super) fn behind() -> Param {
    Param::query::<String>("after", "From behind the page before: its `next`.")
}

/// What lists of runs are filtered by.
fn filters() -> Vec<Param> {
    vec![
        Param::query::<RunState>("state", "Only runs in this state."),
        Param::query::<Wall>("since", "Only runs of instants from here on."),
        Param::query::<Wall>("until", "Only runs of instants up to here, which is included."),
        limited(),
        behind(),
    ]
}
