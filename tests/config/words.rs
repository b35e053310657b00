//! Keys that people look for, and what they come to.

use std::collections::BTreeMap;
use std::time::Duration;

use fencron::config::{Config, Problems, Sources, parse};
use fencron::job::{Job, JobName, MissedRun, On, Target, Task, Trigger};
use fencron::schedule::Schedule;
use fencron::time::Wall;

use super::{job, read};

const HOUR: Duration = Duration::from_secs(3_600);

fn files(name: &str) -> std::io::Result<String> {
    match name {
        "shared.env" => Ok("HOST=db\nMODE=shared\n".into()),
        "own.env" => Ok("# of the job\nMODE=own\nTOKEN=s3cret\n".into()),
        "password" => Ok("p@ss/w:rd#%\n".into()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}

fn with_files(text: &str) -> Result<Config, Problems> {
    let sources = Sources { file: &|path| files(path.to_str().unwrap()), ..Sources::none() };
    parse(text, &sources)
}

fn refused(keys: &str) -> String {
    let text = format!("version: 1\njobs:\n  x: {{command: [x], {keys}}}\n");
    let problems = with_files(&text).unwrap_err();
    problems.list().iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n")
}

fn only_job(config: &Config) -> Job {
    Job::clone(config.jobs.values().next().unwrap())
}

fn schedule(job: &Job) -> &Schedule {
    let Trigger::Schedule { schedule, .. } = &job.trigger else { panic!("{:?}", job.trigger) };
    schedule
}

fn fires(schedule: &str, from: &str, count: usize) -> Vec<String> {
    let job = job(&format!("    schedule: {schedule}\n    command: [x]\n    timezone: Europe/Berlin\n"));
    let from: Wall = from.parse().unwrap();
    let schedule = self::schedule(&job);
    schedule.between(from, Wall::MAX).take(count).map(|at| schedule.explain(at).local).collect()
}

#[test]
fn a_job_that_is_not_enabled_is_checked_and_never_due() {
    assert_eq!(job("    schedule: '@daily'\n    command: [x]\n    enabled: false\n").trigger, Trigger::Disabled);
    assert!(matches!(
        job("    schedule: '@daily'\n    command: [x]\n    enabled: true\n").trigger,
        Trigger::Schedule { .. }
    ));
    assert!(refused("enabled: false, schedule: 'x y'").contains("has 2 fields"));
    assert!(refused("enabled: no, schedule: '@daily'").contains("expected one of `true` or `false`"));
}

#[test]
fn a_schedule_counts_from_its_start_to_its_end() {
    let keys = "    command: [x]\n    timezone: Europe/Berlin\n    start: 2026-12-01\n    end: 2026-12-03\n";
    let job = job(&format!("    schedule: '0 0,23 * * *'\n{keys}"));
    let fires: Vec<String> = schedule(&job).between(Wall::EPOCH, Wall::MAX).map(|at| at.to_string()).collect();
    let [first, .., last] = fires.as_slice() else { panic!("{fires:?}") };
    assert_eq!((first.as_str(), last.as_str()), ("2026-11-30T23:00:00Z", "2026-12-03T22:00:00Z"));
    assert_eq!(fires.len(), 6);
    // Backwards, as what was missed is looked for.
    assert_eq!(schedule(&job).previous_before(Wall::MAX).unwrap().to_string(), *last);
    assert_eq!(schedule(&job).previous_before(first.parse().unwrap()), None);
}

#[test]
fn what_starts_or_ends_at_no_time_is_refused() {
    assert!(refused("schedule: '@daily', start: tomorrow").contains("the start is no time: write it like 2026-12-01"));
    assert!(refused("schedule: '@daily', start: 2026-12-02, end: 2026-12-01").contains("lies before the start"));
    assert!(refused("schedule: '0 0 29 2 *', start: 2026-01-01, end: 2026-12-31").contains("leaves no instant"));
    assert!(refused("after: {job: y}, start: 2026-01-01").contains("`start` needs a `schedule`"));
}

#[test]
fn a_start_makes_another_rule_of_a_schedule_and_none_leaves_it_as_it_was() {
    let of = |keys: &str| schedule(&job(&format!("    schedule: '@daily'\n    command: [x]\n{keys}"))).fingerprint();
    assert_ne!(of(""), of("    start: 2026-12-01\n"));
    assert_ne!(of("    end: 2026-12-01\n"), of("    start: 2026-12-01\n"));
    assert_eq!(of("    description: other\n"), of(""));
}

#[test]
fn every_second_monday_is_the_same_time_of_day_all_year() {
    // Clocks go forward on 2026-03-29 and back on 2026-10-25.
    let fires = fires("'@every 14d from 2026-03-16T09:00'", "2026-03-01T00:00:00Z", 17);
    assert_eq!(&fires[..3], ["2026-03-16T09:00:00+01:00", "2026-03-30T09:00:00+02:00", "2026-04-13T09:00:00+02:00"]);
    assert_eq!(fires[16], "2026-10-26T09:00:00+01:00");
}

#[test]
fn from_an_instant_lengths_are_those_of_real_time() {
    let every = fires("'@every 5h from 2026-03-28T20:00:00+01:00'", "2026-01-01T00:00:00Z", 3);
    assert_eq!(every, ["2026-03-28T20:00:00+01:00", "2026-03-29T01:00:00+01:00", "2026-03-29T07:00:00+02:00"]);
    for (wrong, why) in [
        ("@every 5h from 2026-03-28", "only whole days are counted"),
        ("@every 14d from soon", "it is no time"),
        ("@every 14d from 1960-01-01", "from 1970 on"),
    ] {
        assert!(
            refused(&format!("schedule: '{wrong}'")).contains(why),
            "{wrong}: {}",
            refused(&format!("schedule: '{wrong}'"))
        );
    }
}

#[test]
fn short_forms_mean_their_first_key() {
    let all = job("    schedule: '@daily'\n    command: [x]\n    missed: all\n");
    assert_eq!((all.missed.run, all.missed.limit), (MissedRun::All, 10));
    assert!(refused("schedule: '@daily', missed: everything").contains("expected one of `skip`, `latest` or `all`"));
    let text = "version: 1\njobs:\n  a: {schedule: '@daily', command: [a]}\n  b: {after: a, command: [b]}\n";
    let b = &read(text).unwrap().jobs[&JobName::new("b").unwrap()];
    assert_eq!(b.trigger, Trigger::After { job: JobName::new("a").unwrap(), on: On::Success });
}

#[test]
fn what_a_job_gives_in_part_lies_over_the_defaults_of_the_file_and_these_over_those_of_the_table() {
    let text = "version: 1\ndefaults: {missed: {run: skip, limit: 3}, history: {for: 7d}}\njobs:\n  \
                x: {schedule: '@daily', command: [x], missed: all, history: {keep: 5}}\n";
    let job = only_job(&read(text).unwrap());
    assert_eq!((job.missed.run, job.missed.limit, job.missed.within), (MissedRun::All, 3, Some(HOUR)));
    assert_eq!((job.history.keep, job.history.age), (5, 168 * HOUR));
}

#[test]
fn what_is_wrong_in_the_defaults_is_told_once_and_there() {
    let defaults = "defaults: {retry: {backoff: {initial: 1m, max: 5s}}, guarantee: exactly_once, timeout: 5}";
    let text = format!(
        "version: 1\n{defaults}\njobs:\n  a: {{schedule: '@daily', command: [x]}}\n  b: {{after: a, shell: x}}\n"
    );
    let problems = read(&text).unwrap_err();
    let told: Vec<_> = problems.list().iter().map(|problem| (problem.line, problem.path.as_str())).collect();
    let keys = ["defaults.retry.backoff.max", "defaults.guarantee", "defaults.timeout"];
    assert_eq!(told, keys.map(|key| (2, key)));
}

#[test]
fn keys_for_anchors_are_left_alone_wherever_keys_are_known() {
    let text = "version: 1\njobs:\n  a:\n    x-owner: team\n    schedule: '@daily'\n    command: [a]\n    \
                retry: {x-why: flaky, attempts: 2}\n";
    assert_eq!(only_job(&read(text).unwrap()).retry.attempts, 2);
    // In a map of the user's own names it is a name.
    let env = job("    schedule: '@daily'\n    command: [a]\n    env: {x-a: b}\n").env;
    assert_eq!(env.keys().collect::<Vec<_>>(), ["x-a"]);
}

#[test]
fn variables_come_from_files_and_what_is_nearer_wins() {
    let text = "version: 1\ndefaults: {env_file: shared.env, env: {MODE: default, A: a}}\n\
                jobs:\n  x: {schedule: '@daily', command: [x], env_file: [own.env], env: {A: b}}\n";
    let env = only_job(&with_files(text).unwrap()).env;
    let shown: BTreeMap<&str, &str> = env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(shown, BTreeMap::from([("A", "b"), ("HOST", "db"), ("MODE", "own"), ("TOKEN", "s3cret")]));
    assert!(env["TOKEN"].is_secret() && !env["A"].is_secret());
    assert!(refused("schedule: '@daily', env_file: none.env").contains("the file `none.env` cannot be read"));
}

#[test]
fn a_password_that_is_given_apart_is_taken_as_it_is() {
    let sql = |database: &str| {
        format!("version: 1\njobs:\n  x: {{schedule: '@daily', sql: {{database: {database}, statement: SELECT 1}}}}\n")
    };
    let config = with_files(&sql("{url: 'postgres://app@db/shop', password: '${file:password}'}")).unwrap();
    let Task::Sql(task) = only_job(&config).task else { panic!("statements") };
    let Target::Server(server) = task.target else { panic!("a server") };
    assert_eq!(server.password.unwrap().expose(), "p@ss/w:rd#%");
    for (database, why) in [
        ("{url: 'postgres://app:pw@db/shop', password: x}", "given twice"),
        ("{url: 'sqlite:a.db', password: x}", "has no password"),
        ("{password: x}", "has no `url`"),
    ] {
        let message = with_files(&sql(database)).unwrap_err().list()[0].message.clone();
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn a_file_is_checked_where_its_secrets_are_not_to_be_had() {
    let text = "version: 1\nnamespace: ${NAMESPACE}\n\
                defaults: {timezone: \"${ZONE}\", timeout: \"${LIMIT:-5m}\"}\njobs:\n  \
                a: {schedule: '@daily', http: {url: \"${URL}\", headers: {A: \"${file:/none}\"}, ca: /none.pem}}\n  \
                b: {schedule: '@daily', sql: {database: \"${DATABASE}\", statement: SELECT 1}}\n  \
                c: {schedule: \"${CRON}\", command: [x, \"${ARGUMENT}\"], env_file: none.env}\n  \
                d: {schedule: '@daily', comand: [x]}\n";
    let open = Sources { env: &|name| panic!("{name} is looked up"), open: true, ..Sources::none() };
    let problems = parse(text, &open).unwrap_err();
    assert_eq!(problems.count(), 1, "{problems}");
    assert!(problems.to_string().contains("did you mean `command`?"), "{problems}");
    let config = parse(&text.replace("comand", "command"), &open).unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<&str> = config.jobs.keys().map(JobName::as_str).collect();
    // When `c` is due is left open, and what `b` does, which is nothing to its schedule.
    assert_eq!(names, ["a", "b", "d"]);
    assert!(config.left_open >= 6, "{}", config.left_open);
}

#[test]
fn an_unset_variable_is_told_in_its_own_line_of_a_block() {
    let text = "version: 1\njobs:\n  a:\n    schedule: '@daily'\n    shell: |\n      echo one\n      echo ${MISSING}\n";
    let problems = read(text).unwrap_err();
    let problem = &problems.list()[0];
    assert_eq!((problem.line, problem.column), (7, 12));
}
