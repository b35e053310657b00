//! The table of routes: one row says everything about a route.
//!
//! From the rows come the router, the checks before a handler (role, parameters, `Accept`), and the description of the
//! API, [`super::openapi`]. A test goes through all rows with every kind of caller.

use std::sync::{Arc, OnceLock};

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{RequestExt as _, Router};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;

use super::access::{By, Caller, Need, Role, check_origin, new_token};
use super::metrics::{self, OPEN_METRICS};
use super::problem::{Kind, Problem};
use super::{Api, acts, login, looker, openapi, rows, screens};
use crate::job::{JobName, RunId, Word as _};
use crate::node::Status;
use crate::store::Store;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
pub(super) const HTML: &str = "text/html";

/// The problems that everything may have that acts.
const OF_ACTS: &[Kind] = &[
    Kind::BadParameter,
    Kind::NotJson,
    Kind::TooLarge,
    Kind::ForeignOrigin,
    Kind::KeyReused,
    Kind::TooManyActs,
    Kind::StoreAway,
    Kind::StoreRefuses,
    Kind::OutcomeUnknown,
];

/// All routes of a node.
pub(super) fn routes<S: Store>() -> Vec<Route<S>> {
    use Need::{Health, Nothing};
    use Role::Viewer;
    let mut all = vec![
        Route::get("/healthz", "health", Health, super::healthy::<S>)
            .about("Whether the loop of the node turns")
            .text()
            .may(&[Kind::Hangs]),
        Route::get("/readyz", "ready", Health, super::ready::<S>)
            .about("Whether the node can take part, and why not")
            .json::<Status>()
            .answer_json::<Status>(503, "The node cannot take part; `reasons` says why."),
        Route::get("/metrics", "metrics", Role::Metrics, metrics::metrics::<S>)
            .about("What the node counts, for Prometheus")
            .text()
            .media(OPEN_METRICS),
        Route::get("/api/v1/openapi.json", "openapi", Viewer, openapi::answer::<S>)
            .about("This description")
            .narrowed()
            .json_of(|_| json_schema!({"type": "object"})),
        Route::get("/problems/{name}", "problem", Nothing, super::problem_page)
            .about("What a kind of problem means, and what to do")
            .param(Param::path::<String>("name", "The end of the problem's `type`."))
            .narrowed()
            .html(),
        Route::get("/login", "login_page", Nothing, login::page)
            .about("A form for a token")
            .param(Param::query::<String>("next", "The page to show then."))
            .narrowed()
            .html(),
        Route::post("/login", "login", Nothing, login::login::<S>)
            .about("Takes a token for a cookie")
            .narrowed()
            .html(),
        Route::post("/logout", "logout", Nothing, login::logout::<S>).about("Takes the cookie away").narrowed().html(),
        Route::post("/settings", "settings", Nothing, looker::settings)
            .about("Keeps how a person wants the page")
            .narrowed()
            .html(),
    ];
    all.extend(rows::of_cluster());
    all.extend(rows::of_jobs());
    all.extend(rows::of_runs());
    all.extend(acts::of_acts());
    all.extend(screens::of_page());
    all
}

/// A route: what is said about it, and what answers it.
pub(super) struct Route<S> {
    pub row: Row,
    handler: MethodRouter<Api<S>>,
}

/// All that is known of a route but its handler.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub method: Method,
    /// As axum and OpenAPI both write it: `/api/v1/runs/{run}`.
    pub path: &'static str,
    /// The name of the operation, unique.
    pub id: &'static str,
    pub need: Need,
    /// What it answers, in a few words without a full stop.
    pub summary: &'static str,
    pub params: Vec<Param>,
    pub answers: Vec<Answer>,
    /// The problems of its own, beside those that every route may have.
    pub problems: Vec<Kind>,
    /// What its body may be, as JSON; `None`: it takes none.
    pub body: Option<SchemaOf>,
    /// It answers 304 where the client has the answer already.
    pub tagged: bool,
    /// Its answers keep to the jobs of the caller: see [`Route::narrowed`].
    pub narrowed: bool,
}

/// A parameter of a route.
#[derive(Clone, Debug)]
pub(super) struct Param {
    pub name: &'static str,
    pub place: Place,
    pub about: &'static str,
    pub schema: SchemaOf,
    /// Of a number: the least and the most.
    pub bounds: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
}

impl Place {
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Path => "path",
            Place::Query => "query",
        }
    }
}

pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// An answer that is not a problem.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub media: &'static str,
    pub about: &'static str,
    pub schema: SchemaOf,
}

impl Param {
    /// A part of the path.
    pub fn path<T: JsonSchema>(name: &'static str, about: &'static str) -> Param {
        Param { name, place: Place::Path, about, schema: SchemaGenerator::subschema_for::<T>, bounds: None }
    }

    /// A parameter of the query, which may be left out.
    pub fn query<T: JsonSchema>(name: &'static str, about: &'static str) -> Param {
        Param { name, place: Place::Query, about, schema: SchemaGenerator::subschema_for::<T>, bounds: None }
    }

    /// A number in the query, which may be left out, and is from the one to the other.
    pub fn number(name: &'static str, about: &'static str, bounds: (usize, usize)) -> Param {
        Param { bounds: Some(bounds), ..Param::query::<u64>(name, about) }
    }
}

impl From<Role> for Need {
    fn from(role: Role) -> Need {
        Need::Role(role)
    }
}

impl<S: Store> Route<S> {
    /// A route that reads. `HEAD` is answered as well.
    pub fn get<H, T>(path: &'static str, id: &'static str, need: impl Into<Need>, handler: H) -> Route<S>
    where
        H: Handler<T, Api<S>>,
        T: 'static,
    {
        Route::new(Method::GET, path, id, need.into(), on(MethodFilter::GET, handler))
    }

    /// A route that changes something, and so is only taken from pages of this node and from bearers of tokens.
    pub fn post<H, T>(path: &'static str, id: &'static str, need: impl Into<Need>, handler: H) -> Route<S>
    where
        H: Handler<T, Api<S>>,
        T: 'static,
    {
        Route::new(Method::POST, path, id, need.into(), on(MethodFilter::POST, handler))
    }

    /// As [`Route::post`], for what is the same however often it is asked for.
    pub fn put<H, T>(path: &'static str, id: &'static str, need: impl Into<Need>, handler: H) -> Route<S>
    where
        H: Handler<T, Api<S>>,
        T: 'static,
    {
        Route::new(Method::PUT, path, id, need.into(), on(MethodFilter::PUT, handler))
    }

    /// As [`Route::post`], for what takes something away.
    pub fn delete<H, T>(path: &'static str, id: &'static str, need: impl Into<Need>, handler: H) -> Route<S>
    where
        H: Handler<T, Api<S>>,
        T: 'static,
    {
        Route::new(Method::DELETE, path, id, need.into(), on(MethodFilter::DELETE, handler))
    }

    fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        need: Need,
        handler: MethodRouter<Api<S>>,
    ) -> Route<S> {
        let (params, answers, problems) = (Vec::new(), Vec::new(), Vec::new());
        let (tagged, narrowed) = (false, false);
        let row = Row { method, path, id, need, summary: "", params, answers, problems, body: None, tagged, narrowed };
        Route { row, handler }
    }

    /// What it answers, in a few words without a full stop.
    pub fn about(mut self, summary: &'static str) -> Route<S> {
        self.row.summary = summary;
        self
    }

    pub fn param(mut self, param: Param) -> Route<S> {
        self.row.params.push(param);
        self
    }

    pub fn params(self, params: Vec<Param>) -> Route<S> {
        params.into_iter().fold(self, Route::param)
    }

    /// Its answer has a tag: a client that shows the tag gets the answer only where that has changed.
    pub fn tagged(mut self) -> Route<S> {
        self.row.tagged = true;
        self
    }

    /// It answers with JSON of this type.
    pub fn json<T: JsonSchema>(self) -> Route<S> {
        self.json_of(SchemaGenerator::subschema_for::<T>)
    }

    /// It answers with JSON of this schema.
    pub fn json_of(self, schema: SchemaOf) -> Route<S> {
        self.answer(Answer { status: 200, media: JSON, about: "The answer.", schema })
    }

    /// It acts, as a body of this type says, once for each `Idempotency-Key`.
    pub fn acts<T: JsonSchema>(mut self) -> Route<S> {
        self.row.body = Some(SchemaGenerator::subschema_for::<T>);
        self.may(OF_ACTS)
    }

    /// It answers with this status, and JSON of this type.
    pub fn answer_json<T: JsonSchema>(self, status: u16, about: &'static str) -> Route<S> {
        self.answer(Answer { status, media: JSON, about, schema: SchemaGenerator::subschema_for::<T> })
    }

    /// It answers with plain text.
    pub fn text(self) -> Route<S> {
        self.media(TEXT)
    }

    /// It answers with a page. Pages are not part of the description of the API.
    pub fn html(self) -> Route<S> {
        self.media(HTML)
    }

    /// It answers with a text of this media type. Where several are named, the handler finds the one that the client
    /// prefers in the extension [`Chosen`].
    pub fn media(self, media: &'static str) -> Route<S> {
        let schema = |_: &mut SchemaGenerator| json_schema!({"type": "string"});
        self.answer(Answer { status: 200, media, about: "The answer.", schema })
    }

    /// Its handler keeps to the jobs that [`Caller::sees`]. A route that does not say so refuses callers that are narrowed
    /// to some jobs, unless its path has a `{job}` or a `{run}`: those are checked before the handler.
    pub fn narrowed(mut self) -> Route<S> {
        self.row.narrowed = true;
        self
    }

    fn answer(mut self, answer: Answer) -> Route<S> {
        self.row.answers.push(answer);
        self
    }

    /// The problems of its own.
    pub fn may(mut self, problems: &[Kind]) -> Route<S> {
        self.row.problems.extend_from_slice(problems);
        self
    }
}

impl Row {
    /// The media types of its answers, the preferred one first.
    pub fn offers(&self) -> Vec<&'static str> {
        self.answers.iter().filter(|answer| answer.status < 300).map(|answer| answer.media).collect()
    }

    /// The names of the parameters of its query.
    pub fn names_of_query(&self) -> Vec<&'static str> {
        self.params.iter().filter(|param| param.place == Place::Query).map(|param| param.name).collect()
    }

    /// Whether a caller who is narrowed to some jobs may have its answers: they are about one job or run, which is checked
    /// before the handler, or the handler keeps to the jobs of the caller.
    pub fn keeps_to_jobs(&self) -> bool {
        self.narrowed
            || self.params.iter().any(|param| param.place == Place::Path && ["job", "run"].contains(&param.name))
    }

    /// Whether it is a page for people, and not a part of the API.
    pub fn is_page(&self) -> bool {
        self.offers().iter().all(|media| *media == HTML)
    }
}

/// A router of those of the routes that `is_in` lets pass, with their checks.
pub(super) fn router<S: Store>(is_in: impl Fn(&Row) -> bool) -> Router<Api<S>> {
    let mut router = Router::new();
    for Route { row, handler } in routes::<S>() {
        if is_in(&row) {
            router = router.route(row.path, handler.route_layer(from_fn_with_state(Arc::new(row), pass)));
        }
    }
    router.method_not_allowed_fallback(async |method: Method| {
        Problem::new(Kind::MethodNotAllowed, format!("{method} is not for this address: see the header Allow"))
    })
}

/// The paths of all routes.
pub(super) fn paths<S: Store>() -> &'static [&'static str] {
    static PATHS: OnceLock<Vec<&str>> = OnceLock::new();
    PATHS.get_or_init(|| routes::<S>().iter().map(|route| route.row.path).collect())
}

/// Whether the route of this path is answered to everyone.
pub(super) fn is_health<S: Store>(path: &str) -> bool {
    static PATHS: OnceLock<Vec<&str>> = OnceLock::new();
    let health =
        || routes::<S>().iter().map(|route| &route.row).filter(|r| r.need == Need::Health).map(|r| r.path).collect();
    PATHS.get_or_init(health).contains(&path)
}

/// The paths of the pages that are refused to callers who are narrowed to some jobs.
pub(super) fn about_all_jobs<S: Store>() -> &'static [&'static str] {
    static PATHS: OnceLock<Vec<&str>> = OnceLock::new();
    let is_refused = |row: &&Row| row.is_page() && !row.keeps_to_jobs();
    let refused = || routes::<S>().iter().map(|route| &route.row).filter(is_refused).map(|row| row.path).collect();
    PATHS.get_or_init(refused)
}

/// Who sends a request, as far as that is known: an extension of each request but those about health.
#[derive(Clone, Debug)]
pub(super) struct Identified(pub Result<Caller, Problem>);

/// The media type that the client prefers of those that the route has: an extension of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen(pub &'static str);

/// The route that was taken, as the table has it: an extension of each answer that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Routed(pub &'static str);

/// What stands before the handler of a route, and marks its answer.
async fn pass(State(row): State<Arc<Row>>, request: Request, next: Next) -> Response {
    let route = Routed(row.path);
    let mut answer = checked_by(&row, request, next).await;
    answer.extensions_mut().insert(route);
    answer
}

async fn checked_by(row: &Row, mut request: Request, next: Next) -> Response {
    // What asks about health is not refused for how it asks.
    if row.need == Need::Health {
        return next.run(request).await;
    }
    let caller = match request.extensions_mut().remove() {
        Some(Identified(caller)) => caller,
        None => return Problem::new(Kind::Unauthenticated, "the caller is not known").into_response(),
    };
    let params = request.extract_parts::<RawPathParams>().await.ok();
    let params: Vec<(&str, &str)> = params.as_ref().map(|params| params.iter().collect()).unwrap_or_default();
    let allowed = match (&caller, row.need) {
        // What comes without a name is asked for one, wherever it comes from.
        (Err(problem), Need::Role(role)) if problem.kind == Kind::Unauthenticated => {
            Err(problem.clone().try_command(new_token(role)))
        }
        (Err(problem), Need::Role(_)) => Err(problem.clone()),
        (known, _) => check_origin(request.method(), request.headers(), known.as_ref().ok()),
    };
    let allowed = allowed.and_then(|()| allowed_to(row, caller, &params));
    let caller = match allowed {
        Ok(caller) => caller,
        Err(problem) if problem.kind == Kind::Unauthenticated && row.is_page() && request.method().is_safe() => {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            return login::to_login(path);
        }
        Err(problem) => return problem.into_response(),
    };
    match checked(row, &request) {
        Ok(chosen) => drop(request.extensions_mut().insert(chosen)),
        Err(problem) => return problem.into_response(),
    }
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

/// That this caller may have the answer of the route. A route that needs nothing may have a caller all the same.
fn allowed_to(row: &Row, caller: Result<Caller, Problem>, params: &[(&str, &str)]) -> Result<Option<Caller>, Problem> {
    let Need::Role(role) = row.need else { return Ok(caller.ok()) };
    let caller = caller?;
    if let By::Ticket(run) = &caller.by
        && !params.contains(&("run", run.as_str()))
    {
        return Err(Problem::new(Kind::RoleTooLow, format!("this ticket is for the output of {run} alone")));
    }
    if caller.role < role {
        let (has, name) = (caller.role.word(), caller.name.as_deref().unwrap_or("the caller"));
        let detail = format!("{} takes the role {}, and {name} has {has}", row.path, role.word());
        if caller.by != By::Place {
            return Err(Problem::new(Kind::RoleTooLow, detail));
        }
        // Without rules nothing can be done over HTTP, from wherever.
        let detail = format!("{detail}: start the node with --auth FILE, and send a token of that file");
        return Err(Problem::new(Kind::RoleTooLow, detail).try_command(new_token(role)));
    }
    for (name, value) in params {
        match *name {
            // What is no name is for the handler to refuse.
            "job" => {
                if let Ok(job) = JobName::new(value)
                    && !caller.sees(&job)
                {
                    return Err(Problem::no_such_job(&job));
                }
            }
            "run" => {
                if let Ok(run) = value.parse::<RunId>()
                    && !caller.sees(&run.job())
                {
                    return Err(Problem::no_such_run(&run));
                }
            }
            _ => {}
        }
    }
    if caller.jobs.is_some() && !row.keeps_to_jobs() {
        let detail = format!("{} answers about all jobs, and this token only covers some", row.path);
        return Err(Problem::new(Kind::OtherJobs, detail));
    }
    Ok(Some(caller))
}

fn checked(row: &Row, request: &Request) -> Result<Chosen, Problem> {
    let known = row.names_of_query();
    let query = request.uri().query().unwrap_or_default();
    if let Some((name, _)) = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| !known.contains(&&**name)) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let name: String = name.chars().take(100).collect();
        let detail = format!("{name}: there is no such parameter at {}: it takes {known}", row.path);
        return Err(Problem::new(Kind::UnknownParameter, detail));
    }
    let offers = row.offers();
    accepted(request.headers(), &offers).map(Chosen).ok_or_else(|| {
        let detail = format!("{} has only {}: leave Accept out, or name one of them", row.path, offers.join(", "));
        Problem::new(Kind::NotAcceptable, detail)
    })
}

/// The first of the best of `offers` by the header `Accept`; `None`: none is accepted.
pub(super) fn accepted(headers: &HeaderMap, offers: &[&'static str]) -> Option<&'static str> {
    let ranges: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .collect();
    if ranges.is_empty() {
        return offers.first().copied();
    }
    let best = offers.iter().map(|offer| (quality(offer, &ranges), *offer)).rev().max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(quality, _)| *quality > 0.0).map(|(_, offer)| offer)
}

/// How much `offer` is wanted, from 0 to 1, by the range that names it most exactly.
fn quality(offer: &str, ranges: &[&str]) -> f32 {
    let (kind, _) = offer.split_once('/').unwrap_or((offer, ""));
    let matching = ranges.iter().filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let exactness = match media.split_once('/') {
            Some(("*", "*")) => 0,
            Some((of, "*")) if of == kind => 1,
            _ if media == offer => 2,
            _ => return None,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.trim().parse().ok());
        Some((exactness, quality.unwrap_or(0.0)))
    });
    matching.max_by_key(|(exactness, _)| *exactness).map_or(0.0, |(_, quality)| quality)
}

/// The parameters of the query, as a handler takes them; a wrong value is a [`Problem`] that names it.
#[derive(Debug)]
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, State: Sync> FromRequestParts<State> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Query<T>, Problem> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Query(query)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                // It begins with the name of the parameter, where one is meant.
                let text = error.body_text();
                let why = text.rsplit_once("query string: ").map_or(&*text, |(_, why)| why);
                let twice = why.strip_prefix("duplicate field `").and_then(|rest| rest.split_once('`'));
                let why = twice.map_or(why.to_owned(), |(name, _)| format!("{name}: it is given more than once"));
                let has_plus = parts.uri.query().is_some_and(|query| query.contains('+'));
                let hint = if has_plus { ". A `+` in an address is a space: write it as %2B" } else { "" };
                Err(Problem::new(Kind::BadParameter, format!("{why}{hint}")))
            }
            Err(error) => Err(Problem::new(Kind::BadParameter, error)),
        }
    }
}

/// The one part of the path that varies, as text; one that is no text is a [`Problem`].
#[derive(Debug)]
pub(super) struct Named(pub String);

impl<State: Send + Sync> FromRequestParts<State> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Named, Problem> {
        match axum::extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(name)) => Ok(Named(name)),
            Err(error) => Err(Problem::new(Kind::BadParameter, error.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn rows_are_whole_and_their_names_are_unique() {
        let mut ids = BTreeSet::new();
        for Route { row, .. } in routes::<MemoryStore>() {
            assert!(ids.insert(row.id), "two routes are named {}", row.id);
            assert!(!row.summary.is_empty() && !row.summary.ends_with('.'), "{}: a summary", row.id);
            assert!(!row.offers().is_empty(), "{}: an answer", row.id);
            let in_path: BTreeSet<&str> = row.path.split(['{', '}']).skip(1).step_by(2).collect();
            let named = row.params.iter().filter(|param| param.place == Place::Path).map(|param| param.name);
            assert_eq!(in_path, named.collect(), "{}: the parameters of the path", row.id);
        }
    }

    #[test]
    fn the_most_exact_range_decides_what_is_accepted() {
        let offers = ["application/json", "text/plain"];
        for (accept, chosen) in [
            ("", Some("application/json")),
            ("*/*", Some("application/json")),
            ("text/*", Some("text/plain")),
            ("text/plain, application/json", Some("application/json")),
            ("text/plain, application/json;q=0.9", Some("text/plain")),
            ("*/*;q=0.1, application/json;q=0", Some("text/plain")),
            ("Application/JSON", Some("application/json")),
            ("image/png", None),
            ("application/json;q=0", None),
            ("application/json;q=x", None),
            ("garbage", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(accepted(&headers, &offers), chosen, "{accept}");
        }
    }
}
