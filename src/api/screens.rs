//! The rows of the operator's page: its screens, and the files beside them.

use super::access::{Need, Role};
use super::acts;
use super::routes::{Param, Route};
use crate::job::RunId;
use crate::page as screens;
use crate::store::Store;

/// The screens of the operator's page, and the files beside them.
pub(super) fn of_page<S: Store>() -> Vec<Route<S>> {
    use Role::Viewer;
    let mut all = of_previews();
    all.extend([
        Route::get("/", "page_now", Viewer, screens::now::<S>)
            .narrowed()
            .about("Whether it fires, and what needs a person")
            .html(),
        Route::get("/jobs", "page_jobs", Viewer, screens::jobs::<S>)
            .narrowed()
            .about("The jobs")
            .param(Param::query::<String>("q", "A part of a name or description, `owner:…`, `label:…`."))
            .param(Param::query::<String>("state", "Only jobs in this state."))
            .param(Param::query::<String>("sort", "The order."))
            .param(Param::query::<String>("after", "From behind this row on."))
            .html(),
        Route::get("/jobs/{job}", "page_job", Viewer, screens::job::<S>)
            .about("A job")
            .param(Param::path::<String>("job", "The job's name."))
            .html(),
        Route::get("/runs/{run}", "page_run", Viewer, screens::run::<S>)
            .about("A run")
            .param(Param::path::<RunId>("run", "The run."))
            .param(Param::query::<u64>("from", "The byte of its output from which on it is shown."))
            .param(Param::query::<u64>("whole", "From this byte of the file with all of it."))
            .html(),
        Route::get("/week", "page_week", Viewer, screens::week::<S>)
            .narrowed()
            .about("What fires when")
            .param(Param::query::<String>("zone", "The time zone of the days and hours."))
            .param(Param::query::<String>("day", "The day whose fires are listed."))
            .html(),
        Route::get("/trouble", "page_trouble", Viewer, screens::trouble::<S>)
            .narrowed()
            .about("What went wrong")
            .html(),
        Route::get("/leadership", "page_leadership", Viewer, screens::leadership::<S>).about("Who leads").html(),
        Route::get("/locks", "page_locks", Viewer, screens::locks::<S>).about("What is held").html(),
        Route::get("/migrations", "page_migrations", Viewer, screens::migrations::<S>)
            .about("What was made once")
            .html(),
        Route::get("/store", "page_store", Viewer, screens::store::<S>).about("The store").html(),
        Route::get("/audit", "page_audit", Role::Operator, screens::audit::<S>)
            .narrowed()
            .about("What people did")
            .html(),
        Route::post("/operate", "operate", Role::Operator, acts::operate::<S>)
            .narrowed()
            .about("Takes a form of the page: what an operator does")
            .html(),
        Route::post("/administer", "administer", Role::Admin, acts::administer::<S>)
            .about("Takes a form of the page: what an administrator does")
            .html(),
        // The login page needs them too, and there is nothing in them that is not in the source.
        Route::get("/assets/{file}", "page_asset", Need::Nothing, screens::asset)
            .about("A file beside the page")
            .narrowed()
            .param(Param::path::<String>("file", "Its name, as the page has it."))
            .html(),
    ]);
    all
}

/// The screens of what is looked at before it is asked for, and followed afterwards.
fn of_previews<S: Store>() -> Vec<Route<S>> {
    use Role::Viewer;
    vec![
        Route::get("/backfill", "page_backfill", Role::Operator, screens::backfill::preview::<S>)
            .narrowed()
            .about("What a backfill would ask for")
            .param(Param::query::<String>("job", "The job."))
            .param(Param::query::<String>("from", "The first instant."))
            .param(Param::query::<String>("to", "The end, not included."))
            .param(Param::query::<String>("again", "Not empty: all of it."))
            .html(),
        Route::get("/backfills/{backfill}", "page_backfill_progress", Viewer, screens::backfill::progress::<S>)
            .narrowed()
            .about("How far a backfill has come")
            .param(Param::path::<String>("backfill", "The backfill."))
            .html(),
        Route::get("/rewind", "page_rewind", Role::Admin, screens::rewind::preview::<S>)
            .about("What a rewind would bring back")
            .param(Param::query::<String>("to", "The instant; empty: now."))
            .html(),
    ]
}
