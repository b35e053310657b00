//! The jobs of a file: each read on its own, then compared with each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::bounds;
use super::draft::{Draft, warn_of_idle};
use super::fill::Filled;
use super::http::read_url;
use super::keys::{self, Goes, Key, Needs};
use super::problem::quoted;
use super::tables::MAX_JOBS;
use super::timing::{Schedules, read_within};
use super::tree::NodeId;
use super::walk::{Entry, Fields, Path, Spot, Walk};
use crate::job::{About, Bounds, Job, JobName, MAX_FOLLOWERS, Notify, Task, Text, Trigger, WholeOutput};

/// What `shell: …` is run by.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// An `after` that names another job, to be looked up once all are known.
struct Link {
    job: JobName,
    target: JobName,
    /// Where the other job is named.
    node: NodeId,
    /// Its name came from outside of the file.
    secret: bool,
}

/// Reads `jobs`. What is wrong with one of them is noted, and it is left out.
/// Each of `spots` is the `jobs` of a file.
pub fn read(
    walk: &mut Walk,
    spots: &[Spot],
    defaults: &Draft,
    schedules: &mut Schedules,
) -> BTreeMap<JobName, Arc<Job>> {
    let Some(spot) = spots.first().copied() else { return BTreeMap::new() };
    let entries = match spots {
        [_] => walk.entries(spot).unwrap_or_default(),
        _ => entries_of_all(walk, spots),
    };
    let mut reader = Reader {
        defaults,
        schedules,
        links: Vec::new(),
        notify: None,
        about: Arc::default(),
        bounds: Arc::default(),
        output: None,
    };
    let mut jobs = BTreeMap::new();
    for entry in &entries {
        let body = spot.value_of(entry);
        match JobName::new(entry.name) {
            Ok(name) => {
                let job = reader.job(walk, &name, body, entry.key);
                jobs.extend(job.map(|job| (name, Arc::new(job))));
            }
            Err(error) => walk.wrong(Spot { node: entry.key, ..body }, error.to_string()),
        }
    }
    let links = reader.links;
    check_links(walk, spot, &entries, &links);
    jobs
}

/// The jobs of several files, of which none has another's name.
fn entries_of_all<'t>(walk: &mut Walk<'t>, spots: &[Spot]) -> Vec<Entry<'t>> {
    let (mut entries, mut first): (Vec<Entry>, HashMap<&str, NodeId>) = Default::default();
    for spot in spots {
        for entry in walk.entries(*spot).unwrap_or_default() {
            match first.get(entry.name).copied() {
                Some(other) => {
                    let place = walk.place_of(other);
                    let message =
                        format!("the job {} is in {place} as well: give one another name", quoted(entry.name));
                    walk.wrong_at(entry.key, Path::Key(&spot.path, entry.name), message);
                }
                None => {
                    first.insert(entry.name, entry.key);
                    entries.push(entry);
                }
            }
        }
    }
    if let (Some(spot), true) = (spots.first(), entries.len() > MAX_JOBS) {
        walk.wrong(*spot, format!("{} jobs are too many: at most {MAX_JOBS}", entries.len()));
        entries.clear();
    }
    entries
}

struct Reader<'r> {
    defaults: &'r Draft,
    schedules: &'r mut Schedules,
    links: Vec<Link>,
    /// What the job before wants to be notified of.
    notify: Option<Arc<Notify>>,
    /// Whose the job before is.
    about: Arc<About>,
    /// Where the outputs of the job before are kept.
    output: Option<Arc<WholeOutput>>,
    /// The bounds of the job before.
    bounds: Arc<Bounds>,
}

impl Reader<'_> {
    fn job(&mut self, walk: &mut Walk, name: &JobName, spot: Spot, key: NodeId) -> Option<Job> {
        let wrong_before = walk.wrong.count();
        let fields = walk.fields(&spot)?;
        let mut draft = self.defaults.clone();
        draft.lay(walk, &fields);
        let at_key = Spot { node: key, ..spot };
        let left_open = walk.left_open;
        let task = if walk.of_program { Some(Task::Call) } else { read_task(walk, &fields, at_key, &mut draft) };
        // What would be done is left open, and when it would be is not.
        let unknown = (task.is_none() && walk.left_open > left_open && walk.wrong.count() == wrong_before)
            .then(|| Task::Command(vec![Text::secret("")]));
        let trigger = self.trigger(walk, &fields, &mut draft, (name, at_key));
        // All of these are checked, also when others are wrong.
        draft.settle_overlap(walk, &fields);
        draft.settle_retry(walk, &spot.path);
        draft.settle_guarantee(walk, &spot.path, task.as_ref());
        check_process(walk, &fields, task.as_ref());
        draft.bounds.stdin = bounds::read_stdin(walk, &fields);
        let ping = fields.get("ping").and_then(|spot| read_url(walk, spot));
        let trigger = if draft.enabled { trigger? } else { trigger.and(Some(Trigger::Disabled))? };
        let notify = draft.notify.settle(&walk.channels, &draft.about, &mut self.notify);
        if *self.about != draft.about {
            self.about = Arc::new(draft.about);
        }
        let (about, output) = (Arc::clone(&self.about), draft.output.settle(&mut self.output));
        let bounds = bounds::shared(draft.bounds, &mut self.bounds);
        let task = task.or(unknown)?;
        let job = Job { name: name.clone(), about, bounds, trigger, task, notify, ping, output, ..draft.job };
        warn_of_idle(walk, &fields, &job);
        (walk.wrong.count() == wrong_before).then_some(job)
    }

    fn trigger(
        &mut self,
        walk: &mut Walk,
        fields: &Fields,
        draft: &mut Draft,
        (name, at_key): (&JobName, Spot),
    ) -> Option<Trigger> {
        let within = read_within(walk, fields);
        match (fields.get("schedule"), fields.get("after")) {
            (Some(_), None) => {
                let schedule = self.schedules.read(walk, fields, (&draft.rules, within), name.as_str())?;
                let jitter = self.schedules.jitter(walk, draft.jitter, &schedule, (name.as_str(), &at_key.path));
                Some(Trigger::Schedule { schedule, jitter })
            }
            (None, Some(spot)) => self.after(walk, fields, spot, (name, draft)),
            (Some(_), Some(after)) => {
                walk.refuse(after, "a job has a `schedule` or an `after`, not both: remove one of them")
            }
            (None, None) if fields.meant(&["schedule", "after"]) => None,
            (None, None) => {
                let message = "this job is never due: give it a `schedule`, or an `after` that names another job";
                walk.refuse(at_key, message)
            }
        }
    }

    fn after(
        &mut self,
        walk: &mut Walk,
        job: &Fields,
        spot: Spot,
        (name, draft): (&JobName, &mut Draft),
    ) -> Option<Trigger> {
        for (key, spot) in job.needing(Needs::Schedule) {
            walk.wrong(spot, format!("`{}` needs a `schedule`: this job runs after another one", key.name));
        }
        let fields = walk.fields(&spot)?;
        draft.lay(walk, &fields);
        let spot = fields.need(walk, "job", spot, "`after` names no job: write `after: {job: NAME}`")?;
        let filled = walk.known("the name of a job", spot)?;
        let Ok(target) = JobName::new(&filled.text) else {
            return walk.refuse(spot, format!("{} is not the name of a job", filled.shown()));
        };
        self.links.push(Link { job: name.clone(), target: target.clone(), node: spot.node, secret: filled.secret });
        Some(Trigger::After { job: target, on: draft.on })
    }
}

/// Reads what is done: the one key of a task that is given.
pub fn read_task(walk: &mut Walk, fields: &Fields, at_key: Spot, draft: &mut Draft) -> Option<Task> {
    let given: Vec<(&Key, Spot)> = fields.tasks();
    match given.as_slice() {
        [(Key { goes: Goes::Task(read), .. }, spot)] => read(walk, *spot, draft),
        [_, (_, second), ..] => {
            let names = keys::list(given.iter().map(|(key, _)| key.name));
            walk.refuse(*second, format!("{names} cannot be given together: keep one of them"))
        }
        _ => {
            if !fields.meant(&fields.known_tasks()) {
                let message = "nothing is done here: give it a `command` (a list), a `shell` (a text), `http` or `sql`";
                walk.wrong(at_key, message);
            }
            None
        }
    }
}

/// Notes what has no meaning for a task that starts no process. A closure is given time to end as a command is.
pub fn check_process(walk: &mut Walk, fields: &Fields, task: Option<&Task>) {
    if task.is_none_or(|task| matches!(task, Task::Command(_) | Task::Call)) {
        return;
    }
    if let Some((_, spot)) = fields.needing(Needs::Process).into_iter().next() {
        walk.wrong(spot, "this needs a `command` or a `shell`: no process is started");
    }
}

pub fn read_shell(walk: &mut Walk, spot: Spot, _: &mut Draft) -> Option<Task> {
    let text = walk.text(spot)?;
    if text.expose().trim().is_empty() {
        return walk.refuse(spot, "expected a text for the shell, found an empty one");
    }
    Some(Task::Command(SHELL.into_iter().map(Text::plain).chain([text]).collect()))
}

pub fn read_command(walk: &mut Walk, spot: Spot, _: &mut Draft) -> Option<Task> {
    read_words(walk, spot).map(Task::Command)
}

/// A program and its arguments.
pub fn read_words(walk: &mut Walk, spot: Spot) -> Option<Vec<Text>> {
    let what = "a list, the program and its arguments like [\"echo\", \"hello\"] (a text goes to `shell`)";
    let items = walk.items(what, &spot)?;
    let count = items.len();
    let texts: Vec<Text> = items.iter().filter_map(|item| walk.text(*item)).collect();
    if texts.len() < count {
        return None;
    }
    if texts[0].expose().trim().is_empty() {
        return walk.refuse(items[0], "expected a program, found an empty text");
    }
    Some(texts)
}

/// Every `after` must name a job of the file, and following them must come to an end.
fn check_links(walk: &mut Walk, jobs: Spot, entries: &[Entry], links: &[Link]) {
    let names: HashSet<&str> = entries.iter().map(|entry| entry.name).collect();
    for link in links {
        if !names.contains(link.target.as_str()) {
            let target = quoted(link.target.as_str());
            let named = Filled { text: link.target.as_str().into(), secret: link.secret, open: false };
            let message = match walk.guess(&named, names.iter().copied()) {
                _ if link.secret => "there is no job of the name that `${…}` stands for here".to_owned(),
                Some(meant) => format!("there is no job {target}: did you mean `{meant}`?"),
                None => format!("there is no job {target}: name one of {}", walk.whole()),
            };
            report_link(walk, jobs, link, message);
        }
    }
    check_followers(walk, jobs, links);
    for cycle in cycles(links) {
        let [first, ..] = cycle.as_slice() else { continue };
        let message = match cycle.as_slice() {
            [_] => "a job cannot run after itself".to_owned(),
            _ => {
                let chain: Vec<&str> =
                    cycle.iter().chain([first]).take(SHOWN_OF_CYCLE).map(|link| link.job.as_str()).collect();
                let cut = if cycle.len() >= SHOWN_OF_CYCLE { " → …" } else { "" };
                format!("these jobs wait for each other, so none is ever due: {}{cut}", chain.join(" → "))
            }
        };
        report_link(walk, jobs, first, message);
    }
}

/// What follows a job comes to be in one transaction with its verdict, which holds only so much.
fn check_followers(walk: &mut Walk, jobs: Spot, links: &[Link]) {
    let mut followers: BTreeMap<&JobName, Vec<&Link>> = BTreeMap::new();
    for link in links {
        followers.entry(&link.target).or_default().push(link);
    }
    for (target, links) in followers {
        let Some(first_too_many) = links.get(MAX_FOLLOWERS) else { continue };
        let named = if links.iter().any(|link| link.secret) { "one job".to_owned() } else { quoted(target.as_str()) };
        let message = format!(
            "{} jobs run after {named}: at most {MAX_FOLLOWERS} may; let some of them run after another of them",
            links.len()
        );
        report_link(walk, jobs, first_too_many, message);
    }
}

/// How many jobs of a cycle are named.
const SHOWN_OF_CYCLE: usize = 20;

fn report_link(walk: &mut Walk, jobs: Spot, link: &Link, message: String) {
    let job = Path::Key(&jobs.path, link.job.as_str());
    let after = Path::Key(&job, "after");
    let path = Path::Key(&after, "job");
    walk.wrong_at(link.node, path, message);
}

/// The cycles among `links`, each in the order in which its jobs wait: a job has at most one `after`.
fn cycles(links: &[Link]) -> Vec<Vec<&Link>> {
    let by_job: BTreeMap<&JobName, &Link> = links.iter().map(|link| (&link.job, link)).collect();
    let mut seen: HashSet<&JobName> = HashSet::new();
    let mut cycles = Vec::new();
    for link in links {
        let (mut walked, mut on_walk) = (Vec::new(), HashSet::new());
        let mut next = Some(link);
        while let Some(link) = next.filter(|link| seen.insert(&link.job)) {
            on_walk.insert(&link.job);
            walked.push(link);
            next = by_job.get(&link.target).copied();
        }
        if let Some(back) = next.filter(|link| on_walk.contains(&link.job)) {
            let start = walked.iter().position(|link| link.job == back.job).expect("it is on this walk");
            cycles.push(walked.split_off(start));
        }
    }
    cycles
}
