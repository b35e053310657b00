//! A job as far as it has been read, one layer over the other: the defaults of the tables, those of the file, and what
//! the job itself says.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use chrono_tz::Tz;

use super::fill::Sources;
use super::keys::{self, Goes, Key, Shape, Tables};
use super::migrations::MIGRATION;
use super::notify::Wanted;
use super::output;
use super::tables::JOB;
use super::timing::{Except, Rules};
use super::tree::{NodeId, Tree};
use super::walk::{Fields, Path, Spot, Walk};
use crate::job::{About, Bounds, Guarantee, Http, Job, JobName, MissedRun, On, Overlap, Task, Text, Word};
use crate::schedule::{Fold, Gap};

/// A layer of settings: each is laid over those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The defaults of the tables.
    Table,
    /// The `defaults` of the file.
    Defaults,
    Job,
}

/// A setting, and the value's place in the file.
#[derive(Clone, Copy, Debug)]
pub struct Placed<T> {
    pub value: T,
    /// `None`: it is the default of the table.
    pub given: Option<Given>,
}

/// A value's place in the file, and the layer that it stands in.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    pub node: NodeId,
    pub layer: Layer,
}

impl Given {
    /// The map that the value stands in: `job`, or the `defaults` of the file.
    pub fn map<'p>(self, job: &Path<'p>) -> Path<'p> {
        if self.layer == Layer::Defaults { Path::Key(&Path::Root, "defaults") } else { *job }
    }
}

impl<T> Placed<T> {
    fn blank(value: T) -> Placed<T> {
        Placed { value, given: None }
    }
}

/// What the keys of the tables are read into.
#[derive(Clone)]
pub struct Draft {
    /// The settings that need no more than to be read. Its name, its trigger and its task are set last.
    pub job: Job,
    pub about: About,
    pub bounds: Bounds,
    pub enabled: bool,
    pub rules: Rules,
    pub jitter: Placed<Duration>,
    /// The `env` of the layer that is being read. It wins over the `env_file` of that layer.
    pub env: BTreeMap<String, Text>,
    pub max_running: u32,
    pub longest_pause: Placed<Duration>,
    pub guarantee: Placed<Guarantee>,
    /// Which ends of the other job's run count, for a job with `after`.
    pub on: On,
    pub http: Http,
    /// Whether statements run in one transaction.
    pub transaction: Placed<bool>,
    pub idempotent: bool,
    pub notify: Wanted,
    pub output: output::Wanted,
}

static DOCUMENTED: LazyLock<Draft> = LazyLock::new(|| {
    let mut draft = Draft::blank();
    draft.lay_defaults(JOB);
    draft.lay_defaults(MIGRATION);
    draft
});

impl Draft {
    /// The layer beneath all others: the defaults of the tables.
    pub fn documented() -> Draft {
        DOCUMENTED.clone()
    }

    /// Before any default has been read.
    fn blank() -> Draft {
        Draft {
            job: Job::new(JobName::new("unnamed").expect("it is a name"), Task::Command(Vec::new())),
            about: About::default(),
            bounds: Bounds::default(),
            enabled: true,
            rules: Rules { zone: Tz::UTC, gap: Gap::Shift, fold: Fold::First, except: Except::default() },
            jitter: Placed::blank(Duration::ZERO),
            env: BTreeMap::new(),
            max_running: 1,
            longest_pause: Placed::blank(Duration::ZERO),
            guarantee: Placed::blank(Guarantee::AtMostOnce),
            on: On::Success,
            http: Http::new("GET", Text::plain("")),
            transaction: Placed::blank(true),
            idempotent: false,
            notify: Wanted::blank(),
            output: output::Wanted::blank(),
        }
    }

    fn lay_defaults(&mut self, tables: Tables) {
        for key in keys::all(tables) {
            let read = key.default.is_none_or(|text| self.take(key, text));
            debug_assert!(read, "the default of `{}` cannot be read", key.name);
            if let Shape::Map(of) | Shape::MapOr { of, .. } = key.shape {
                self.lay_defaults(of);
            }
        }
    }

    /// Reads a text of the table into the place of a key; `false`: it is no value of that.
    fn take(&mut self, key: &'static Key, text: &str) -> bool {
        let Goes::To(place) = key.goes else { return true };
        let (tree, sources) = (Tree::of_text(text), Sources::none());
        let mut walk = Walk::new(&tree, &sources);
        walk.layer = Layer::Table;
        place(self).take(&mut walk, Spot { node: tree.root(), path: Path::Root, shape: &key.shape });
        walk.wrong.is_empty()
    }

    /// Lays what a map gives over what is there.
    pub fn lay(&mut self, walk: &mut Walk, fields: &Fields) {
        fields.read_into(self, walk);
        self.job.env.append(&mut self.env);
    }

    /// `overlap` and `max_running`, which the job itself may only give where it counts.
    pub fn settle_overlap(&mut self, walk: &mut Walk, own: &Fields) {
        if let Overlap::Allow { max_running } = &mut self.job.overlap {
            *max_running = self.max_running;
        } else if let Some(spot) = own.get("max_running") {
            let needs = "`max_running` needs `overlap: allow`, and this job has";
            walk.wrong(spot, format!("{needs} `overlap: {}`", self.job.overlap.word()));
        }
    }

    /// `retry`, whose pauses must fit each other.
    pub fn settle_retry(&mut self, walk: &mut Walk, job: &Path) {
        let (Placed { value: longest, given }, initial) = (self.longest_pause, self.job.retry.initial);
        // A longer first pause moves the default of the longest with it; the two given must fit.
        self.job.retry.max = longest.max(initial);
        if let Some(given) = given.filter(|_| longest < initial) {
            let [initial, max] = [initial, longest].map(crate::time::written);
            let map = given.map(job);
            let retry = Path::Key(&map, "retry");
            let backoff = Path::Key(&retry, "backoff");
            let message = format!("the longest pause ({max}) is shorter than the first ({initial})");
            walk.wrong_at(given.node, Path::Key(&backoff, "max"), message);
        }
    }

    /// `guarantee`, where the task can keep it; the strongest that it can keep without being asked.
    pub fn settle_guarantee(&mut self, walk: &mut Walk, job: &Path, task: Option<&Task>) {
        let Some(task) = task else { return };
        let why_not = match task {
            Task::Command(_) => Some(
                "`exactly_once` cannot be kept for a command: when its node is lost, it is unknown how much of its \
                 work was done. Use `at_most_once` (it is not run again, and ends as `unknown`) or `at_least_once` (it \
                 is run again, with the same FENCRON_RUN_ID, by which the command can recognize it)",
            ),
            Task::Http(_) => Some(
                "`exactly_once` cannot be kept by the sender of a request: when its answer is lost, only the receiver \
                 knows. Use `at_least_once`, and let the receiver turn repetitions away by their `Idempotency-Key` \
                 (`fencron guard proxy` does that for any service)",
            ),
            Task::Sql(sql) => super::sql::why_not_exactly_once(sql),
            Task::Call => Some(
                "`exactly_once` cannot be kept for a closure: when its process is lost, it is unknown how much of its \
                 work was done. Use `at_most_once` (it is not run again, and ends as `unknown`) or `at_least_once` (it \
                 is run again, with the same run id, by which the closure can recognize it)",
            ),
        };
        let Placed { value, given } = self.guarantee;
        self.job.guarantee = if given.is_none() && why_not.is_none() { Guarantee::ExactlyOnce } else { value };
        if let (Guarantee::ExactlyOnce, Some(given), Some(why)) = (value, given, why_not) {
            walk.wrong_at(given.node, Path::Key(&given.map(job), "guarantee"), why);
        }
    }
}

/// Warns of settings in `own` that do nothing beside the others of the job.
pub fn warn_of_idle(walk: &mut Walk, own: &Fields, job: &Job) {
    let (missed, retry, expect) = (&job.missed, &job.retry, &job.about.expect);
    if let Some(spot) = own.get("expect")
        && let Some(fields) = walk.fields(&spot)
        && let Some(spot) = fields.get("start_within")
        && let (Some(start), Some(end)) = (expect.start_within, expect.end_within)
        && start >= end
    {
        walk.odd(spot, "this does nothing: a run has to end before that (`end_within`)");
    }
    if let Some(spot) = own.get("missed")
        && let Some(fields) = walk.fields(&spot)
    {
        let idle: &[&'static str] = match missed.run {
            MissedRun::All => &[],
            MissedRun::Latest => &["limit", "rate"],
            MissedRun::Skip => &["within", "limit", "rate"],
        };
        if let Some(spot) = fields.first_of(idle) {
            walk.odd(spot, "this does nothing: it counts with `missed: {run: all}`");
        }
    }
    if let Some(spot) = own.get("retry")
        && let Some(fields) = walk.fields(&spot)
        && let Some(spot) = fields.get("backoff").filter(|_| retry.attempts == 1)
    {
        walk.odd(spot, "this does nothing: there is one attempt; say how many with `attempts`".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::written;

    fn each(tables: Tables, look: &mut impl FnMut(&'static Key)) {
        for key in keys::all(tables) {
            look(key);
            if let Shape::Map(of) | Shape::MapOr { of, .. } = key.shape {
                each(of, look);
            }
        }
    }

    /// The default of each key, by its path.
    fn defaults(tables: Tables, around: &str, found: &mut BTreeMap<String, Option<&'static str>>) {
        for key in keys::all(tables) {
            let path = format!("{around}.{}", key.name);
            if let Shape::Map(of) | Shape::MapOr { of, .. } = key.shape {
                defaults(of, &path, found);
            }
            found.insert(path, key.default);
        }
    }

    #[test]
    fn what_a_migration_shares_with_a_job_has_one_default() {
        let (mut of_jobs, mut of_migrations) = (BTreeMap::new(), BTreeMap::new());
        defaults(JOB, "", &mut of_jobs);
        defaults(MIGRATION, "", &mut of_migrations);
        let shared: Vec<_> = of_migrations.keys().filter(|path| of_jobs.contains_key(*path)).collect();
        assert!(shared.len() > 10, "{shared:?}");
        for path in shared {
            assert_eq!(of_migrations[path], of_jobs[path], "{path}");
        }
    }

    #[test]
    fn the_place_of_a_key_takes_the_values_of_its_shape_and_no_others() {
        let (mut draft, mut looked_at) = (Draft::documented(), 0);
        for tables in [JOB, MIGRATION] {
            each(tables, &mut |key| {
                let (good, bad) = match key.shape {
                    Shape::Word(words) => {
                        (words().into_iter().map(str::to_owned).collect(), vec!["no word".to_owned()])
                    }
                    Shape::Count { least, most } => {
                        let beyond = least.checked_sub(1).into_iter().chain([most + 1]);
                        (vec![least.to_string(), most.to_string()], beyond.map(|count| count.to_string()).collect())
                    }
                    Shape::Duration { least, most, or_none } => {
                        let none = "none".to_owned();
                        let (mut good, mut bad) = (vec![written(least), written(most)], vec![written(most * 2)]);
                        (if or_none { &mut good } else { &mut bad }).push(none);
                        (good, bad)
                    }
                    Shape::Bytes { least, most } => {
                        let beyond = least.checked_sub(1).into_iter().chain([most + 1]);
                        let written = |bytes: u64| format!("{bytes}B");
                        (vec![written(least), written(most)], beyond.map(written).collect())
                    }
                    Shape::Rate => (vec!["1/h".to_owned()], vec!["1".to_owned()]),
                    _ => return,
                };
                looked_at += 1;
                for (texts, takes) in [(good, true), (bad, false)] {
                    for text in texts {
                        assert_eq!(draft.take(key, &text), takes, "{}: {text}", key.name);
                    }
                }
            });
        }
        assert!(looked_at > 30, "{looked_at} keys");
    }
}
