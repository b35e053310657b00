//! Every end of an attempt, under every guarantee of every kind of task, for the tables that show how each is judged.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::ATTEMPTS_LOST_MOST;
use crate::fence::Fence;
use crate::job::{
    Again, Database, Guarantee, Http, Job, JobName, Outcome, Retry, Script, Sql, Statuses, StopReason, Target, Task,
    Text,
};

/// The attempts that the job of every case has.
const ATTEMPTS: u32 = 3;

/// An attempt beside its job and its outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub number: u32,
    pub began: bool,
    pub in_doubt: bool,
}

/// Answers, with the names of the cells that have them.
type Cells = Vec<(String, Vec<String>)>;

/// What `judge` says of each end of an attempt. A cell is named like `B2?`: the attempt had begun (`U`: it had not), it
/// was the second of three, and the attempt before it is in doubt.
pub(crate) fn table(judge: impl Fn(&Job, &Outcome, Case) -> String) -> String {
    let mut table = String::new();
    for outcome in outcomes() {
        writeln!(table, "{outcome:?}").unwrap();
        let mut judged: Vec<(Cells, Vec<String>)> = Vec::new();
        for (kind, job) in jobs() {
            let mut cells = Cells::new();
            for case in all() {
                let answer = judge(&job, &outcome, case);
                match cells.iter_mut().find(|(known, _)| *known == answer) {
                    Some((_, names)) => names.push(name(case)),
                    None => cells.push((answer, vec![name(case)])),
                }
            }
            match judged.iter_mut().find(|(known, _)| *known == cells) {
                Some((_, kinds)) => kinds.push(kind),
                None => judged.push((cells, vec![kind])),
            }
        }
        for (cells, kinds) in judged {
            writeln!(table, "  {}", kinds.join(", ")).unwrap();
            for (answer, names) in cells {
                let names = if names.len() == all().count() { "always".to_owned() } else { names.join(" ") };
                writeln!(table, "    {names}: {answer}").unwrap();
            }
        }
    }
    table
}

fn all() -> impl Iterator<Item = Case> {
    [true, false].into_iter().flat_map(|began| {
        [false, true].into_iter().flat_map(move |in_doubt| {
            [ATTEMPTS - 1, ATTEMPTS, ATTEMPTS_LOST_MOST].map(|number| Case { number, began, in_doubt })
        })
    })
}

fn name(case: Case) -> String {
    let Case { number, began, in_doubt } = case;
    format!("{}{number}{}", if began { 'B' } else { 'U' }, if in_doubt { "?" } else { "" })
}

fn outcomes() -> Vec<Outcome> {
    let failed = |again| Outcome::Failed { why: "503".to_owned(), again };
    let stopped = [
        StopReason::Asked,
        StopReason::Replaced,
        StopReason::Shutdown,
        StopReason::StepDown,
        StopReason::LostLeadership,
    ];
    let mut outcomes = vec![Outcome::Exited(0), Outcome::Exited(3), Outcome::Signalled(9), Outcome::TimedOut];
    outcomes.extend(stopped.map(Outcome::Stopped));
    outcomes.extend([
        Outcome::NotStarted("no such program".to_owned()),
        Outcome::Done,
        Outcome::AlreadyApplied,
        Outcome::Fenced { seen: Fence::new(9) },
        Outcome::Fenced { seen: None },
        failed(Again::Never),
        failed(Again::AsConfigured),
        failed(Again::After(Duration::from_secs(30))),
        Outcome::InDoubt("no answer".to_owned()),
        Outcome::Partial("a half".to_owned()),
    ]);
    outcomes
}

/// A job of every kind of task under every guarantee that it can have.
fn jobs() -> Vec<(String, Job)> {
    let sql = |transaction| {
        Task::Sql(Box::new(Sql {
            kind: Database::Sqlite,
            target: Target::File(Text::plain("shop.db")),
            script: Script::read("DELETE FROM orders", Database::Sqlite).unwrap(),
            params: BTreeMap::new(),
            transaction,
            checksum: None,
            checksums_before: Vec::new(),
        }))
    };
    let may_repeat_or_not = [Guarantee::AtMostOnce, Guarantee::AtLeastOnce].as_slice();
    let all = [Guarantee::AtMostOnce, Guarantee::AtLeastOnce, Guarantee::ExactlyOnce].as_slice();
    let tasks = [
        ("command", Task::Command(vec![Text::plain("true")]), may_repeat_or_not),
        ("request", request(), may_repeat_or_not),
        ("transaction", sql(true), all),
        ("statements", sql(false), may_repeat_or_not),
    ];
    let of_task = |(kind, task, guarantees): (&str, Task, &[Guarantee])| {
        let of_guarantee = |guarantee: &Guarantee| (format!("{kind} {guarantee:?}"), job(task.clone(), *guarantee));
        guarantees.iter().map(of_guarantee).collect::<Vec<_>>()
    };
    tasks.into_iter().flat_map(of_task).collect()
}

fn request() -> Task {
    Task::Http(Box::new(Http {
        method: "POST".to_owned(),
        url: Text::plain("http://127.0.0.1:9/"),
        headers: Vec::new(),
        body: None,
        expect: Statuses::default(),
        retry_on: None,
        redirects: 0,
        ca: None,
        identity: None,
        connect_timeout: Duration::from_secs(1),
    }))
}

fn job(task: Task, guarantee: Guarantee) -> Job {
    let retry = Retry { attempts: ATTEMPTS, initial: Duration::from_secs(5), max: Duration::from_secs(60) };
    Job { retry, guarantee, ..Job::new(JobName::new("a").unwrap(), task) }
}
