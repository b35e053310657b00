//! The forms of the page: the same acts, for people. What became of one is said on the screen that it leads back to.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

use super::backfills::Asking;
use super::bulk::{Bulk, BulkAct};
use super::care::{As, Kinds, Unlocking};
use super::sending::Sender;
use super::{Done, How};
use crate::api::Api;
use crate::api::access::{Caller, Peer};
use crate::api::login::{form, moved, onward};
use crate::api::problem::{Kind, Problem};
use crate::job::{JobName, Param, Params, RunId, Word as _};
use crate::ledger::Via;
use crate::store::Store;
use crate::time::{Wall, parse_duration};

/// The longest key of a form, in bytes.
const KEY_MOST: usize = 100;

/// What a form says, as names and values.
struct Said(Vec<(String, String)>);

impl Said {
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(of, _)| of == name).map_or("", |(_, value)| value.trim())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(of, _)| of == name).map(|(_, value)| value.clone()).collect()
    }

    fn job(&self) -> Result<JobName, Problem> {
        Ok(JobName::new(self.get("on"))?)
    }

    fn run(&self) -> Result<RunId, Problem> {
        Ok(self.get("on").parse()?)
    }

    fn params(&self) -> Result<Params, Problem> {
        let lines = self.get("params").lines().map(str::trim).filter(|line| !line.is_empty());
        let params: Result<Vec<Param>, _> = lines.map(str::parse).collect();
        let params = params.and_then(|params| Params::new(params.into_iter().map(|param| (param.name, param.value))));
        params.map_err(|error| Problem::parameter("params", error))
    }

    /// That the person has typed what it is about.
    fn confirmed(&self) -> Result<(), Problem> {
        self.confirms(self.get("on"))
    }

    /// That the person has typed this.
    fn confirms(&self, name: &str) -> Result<(), Problem> {
        if self.get("confirm") == name {
            return Ok(());
        }
        Err(Problem::parameter("confirm", format!("type `{name}` to confirm: nothing was done")))
    }

    fn instant(&self, name: &'static str) -> Result<Wall, Problem> {
        self.get(name).parse().map_err(|error| Problem::parameter(name, error))
    }
}

/// Takes a form of an operator.
pub(in crate::api) async fn operate<S: Store>(
    State(api): State<Api<S>>,
    Extension(peer): Extension<Peer>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (said, sender) = read(&api, (&peer, caller), request).await?;
    let done = match said.get("act") {
        "bulk" => bulk(&api, &said, &sender).await.map(|text| (text, None)),
        _ => one(&api, &said, &sender).await.map(|done| said_of(&done)),
    };
    answer(&said, &peer, done)
}

/// Takes a form of an administrator.
pub(in crate::api) async fn administer<S: Store>(
    State(api): State<Api<S>>,
    Extension(peer): Extension<Peer>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (said, sender) = read(&api, (&peer, caller), request).await?;
    let done = care(&api, &said, &sender).await.map(|done| said_of(&done));
    answer(&said, &peer, done)
}

async fn read<S: Store>(
    api: &Api<S>,
    (peer, caller): (&Peer, Caller),
    request: Request,
) -> Result<(Said, Sender), Problem> {
    let sender = Sender::new(caller, peer, Via::Page, api.clock.wall());
    api.access.may_act(sender.name(), api.clock.boot())?;
    let said = Said(form(request).await?);
    if said.get("key").len() > KEY_MOST {
        return Err(Problem::parameter("key", format!("at most {KEY_MOST} bytes")));
    }
    let key = Some(said.get("key")).filter(|key| !key.is_empty());
    // The forms of one screen share a key: what is done to another thing is another act.
    let key = key.map(|key| format!("form {key} {} {} {}", said.get("act"), said.get("do"), said.get("on")));
    let content: String = said.0.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
    let sender = sender.once(key.as_deref(), content.as_bytes());
    Ok((said, sender))
}

fn not_known(said: &Said) -> Problem {
    Problem::parameter("act", format!("there is no `{}`", said.get("act").chars().take(50).collect::<String>()))
}

async fn one<S: Store>(api: &Api<S>, said: &Said, sender: &Sender) -> Result<Done, Problem> {
    let acting = sender.acting(Some(said.get("reason").to_owned()))?;
    let sees = |job: JobName| {
        if sender.caller.sees(&job) { Ok(job) } else { Err(Problem::no_such_job(&job)) }
    };
    let sees_run = |run: RunId| {
        if sender.caller.sees(&run.job()) { Ok(run) } else { Err(Problem::no_such_run(&run)) }
    };
    match said.get("act") {
        "trigger" => api.trigger(&sees(said.job()?)?, said.params()?, &acting).await,
        "pause" => api.pause(Some(&sees(said.job()?)?), until(api, said)?, &acting).await,
        "resume" => api.resume(Some(&sees(said.job()?)?), &acting).await,
        "cancel" => {
            let run = sees_run(said.run()?)?;
            said.confirms(run.job().as_str())?;
            api.cancel(&run, &acting).await
        }
        "backfill" => {
            let stretch = (said.instant("from")?, said.instant("to")?);
            let asked = Asking { job: sees(said.job()?)?, stretch, again: !said.get("again").is_empty() };
            match api.backfilled_before(&acting).await? {
                Some(done) => Ok(done),
                None => api.backfill(&asked, &acting).await,
            }
        }
        "stop_backfill" => {
            let job = api.backfill_of(said.get("on"), &sender.caller).await?.backfill.job;
            said.confirms(job.as_str())?;
            api.stop_backfill(said.get("on"), &acting).await
        }
        "resolve" => {
            let how = match said.get("as") {
                "succeeded" => How::Succeeded,
                "failed" => How::Failed,
                "retry" => How::Retry,
                _ => return Err(Problem::parameter("as", "succeeded, failed or retry")),
            };
            api.resolve(&sees_run(said.run()?)?, how.into(), &acting).await
        }
        _ => Err(not_known(said)),
    }
}

/// When a pause ends by itself.
fn until<S: Store>(api: &Api<S>, said: &Said) -> Result<Option<Wall>, Problem> {
    let lasts = Some(said.get("for")).filter(|lasts| !lasts.is_empty());
    let lasts = lasts.map(parse_duration).transpose();
    let lasts = lasts.map_err(|why| Problem::parameter("for", format!("it {why}")))?;
    Ok(lasts.map(|lasts| api.clock.wall().plus(lasts)))
}

async fn bulk<S: Store>(api: &Api<S>, said: &Said, sender: &Sender) -> Result<String, Problem> {
    let act = match said.get("do") {
        "trigger" => BulkAct::Trigger,
        "pause" => BulkAct::Pause,
        "resume" => BulkAct::Resume,
        _ => return Err(not_known(said)),
    };
    let names = said.all("name");
    if names.is_empty() {
        return Err(Problem::parameter("name", "no job is ticked: nothing was done"));
    }
    let reason = Some(said.get("reason").to_owned());
    let (done, _) = api.bulk(Bulk { act, names, until: None, reason }, sender).await?;
    let failed = done.results.iter().filter_map(|result| Some((&result.name, result.detail.as_ref()?)));
    let failed: Vec<String> = failed.take(3).map(|(name, detail)| format!("{name}: {detail}")).collect();
    let failed =
        if failed.is_empty() { String::new() } else { format!("; {} not: {}", done.failed, failed.join("; ")) };
    Ok(format!("{} of {} jobs: {}{failed}", said.get("do"), done.results.len(), done.done))
}

async fn care<S: Store>(api: &Api<S>, said: &Said, sender: &Sender) -> Result<Done, Problem> {
    let acting = sender.acting(Some(said.get("reason").to_owned()))?;
    match said.get("act") {
        "pause_all" => {
            said.confirms(api.ledger.namespace().as_str())?;
            api.pause(None, until(api, said)?, &acting).await
        }
        "rewind" => {
            said.confirms(api.ledger.namespace().as_str())?;
            api.rewind(Some(said.instant("to")?), &acting).await
        }
        "resume_all" => api.resume(None, &acting).await,
        "step_down" => {
            said.confirmed()?;
            let fence = said.get("fence").parse().ok().and_then(crate::fence::Fence::new);
            let fence = fence.ok_or_else(|| Problem::parameter("fence", "the fence of the leader that is meant"))?;
            api.step_down(Some(fence), &acting).await
        }
        "drain" => {
            said.confirmed()?;
            api.drain(said.get("on"), until(api, said)?, &acting).await
        }
        "undrain" => api.undrain(said.get("on"), &acting).await,
        "unlock" => {
            said.confirmed()?;
            let kind = match said.get("kind") {
                "migrations" => Kinds::Migrations,
                "once" => Kinds::Once,
                "semaphore" => Kinds::Semaphore,
                _ => Kinds::Lock,
            };
            let fence = said.get("fence").parse().ok().and_then(crate::fence::Fence::new);
            let session = Some(said.get("session").to_owned()).filter(|session| !session.is_empty());
            let wanted = Unlocking { name: said.get("on").to_owned(), kind, fence, session, reason: None };
            api.unlock(&wanted, &acting).await
        }
        "resolve_migration" => {
            let how = match said.get("as") {
                "done" => As::Done,
                "retry" => As::Retry,
                _ => return Err(Problem::parameter("as", "done or retry")),
            };
            api.settle_migration(said.get("on"), how, &acting).await
        }
        _ => Err(not_known(said)),
    }
}

/// What is said of what was done, and the screen that shows how it goes on, where there is one.
fn said_of(done: &Done) -> (String, Option<String>) {
    let place = done.deed.backfill.as_ref().map(|id| format!("/backfills/{id}"));
    (text_of(done), place)
}

fn text_of(done: &Done) -> String {
    let deed = &done.deed;
    let detail = if deed.detail.is_empty() { String::new() } else { format!(", {}", deed.detail) };
    let already = if done.already { " (it was so already)" } else { "" };
    format!("{}: {}{detail}{already}", deed.act.word().replace('_', " "), deed.on)
}

/// Leads back to the screen, with what became of it. An outcome that is unknown stays as it is: to load that page again is
/// to send the same form again.
fn answer(said: &Said, peer: &Peer, done: Result<(String, Option<String>), Problem>) -> Result<Response, Problem> {
    let mut next = said.get("next").to_owned();
    let text = match done {
        Ok((text, place)) => {
            next = place.unwrap_or(next);
            format!("+{text}")
        }
        Err(problem) if matches!(problem.kind, Kind::OutcomeUnknown | Kind::StoreAway) => return Err(problem),
        Err(problem) => format!("-{}", problem.detail),
    };
    Ok(moved(&onward(&next), [crate::api::looker::said(&text, peer.tls.is_some())]))
}
