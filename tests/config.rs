//! What is wrong with a configuration, as people see it, and what a sound one becomes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fencron::config::{self, Config, Problems, Sources, from_bytes, from_files, parse};
use fencron::job::{Guarantee, Job, JobName, MAX_FOLLOWERS, MissedRun, On, Overlap, Task, Trigger};
use fencron::time::{Boot, Clock};

#[path = "config/words.rs"]
mod words;

const EXAMPLE: &str = include_str!("../jobs.example.yaml");

fn read(text: &str) -> Result<Config, Problems> {
    parse(text, &Sources::none())
}

fn job(text: &str) -> Job {
    let config = read(&format!("version: 1\njobs:\n  x:\n{text}")).unwrap_or_else(|problems| panic!("{problems}"));
    Job::clone(&config.jobs[&JobName::new("x").unwrap()])
}

fn elapsed(started: Boot) -> Duration {
    Clock::system().boot().since(started)
}

fn words(job: &Job) -> Vec<String> {
    let Task::Command(words) = &job.task else { panic!("no command") };
    words.iter().map(|word| word.expose().to_owned()).collect()
}

#[test]
fn jobs_that_a_new_text_leaves_as_they_are_stay_the_same_objects() {
    let text = "version: 1\njobs:\n  a: {schedule: '@daily', command: [x]}\n  b: {schedule: '@daily', command: [x]}\n";
    let before = read(text).unwrap();
    let mut after = read(&text.replace("b: {schedule: '@daily'", "b: {schedule: '@hourly'")).unwrap();
    after.keep_unchanged(&before.jobs);
    let name = |text| JobName::new(text).unwrap();
    let same = |text| Arc::ptr_eq(&before.jobs[&name(text)], &after.jobs[&name(text)]);
    assert!(same("a") && !same("b"));
}

#[test]
fn what_is_wrong_with_a_job_is_told_at_once_whatever_it_is() {
    let job = "schedule: '61 * * * *', timezone: Europe/Berln, command: [x], guarantee: exactly_once, max_running: 3";
    let problems = read(&format!("version: 1\njobs:\n  a: {{{job}}}\n")).unwrap_err();
    let paths: Vec<String> = problems.list().iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!(paths, ["jobs.a.schedule", "jobs.a.timezone", "jobs.a.guarantee", "jobs.a.max_running"]);
}

#[test]
fn what_defaults_say_of_owners_labels_and_expectations_holds_for_jobs_that_say_nothing_else() {
    let text = "version: 1
defaults: {owner: ops, labels: {team: a, tier: 1}, runbook: 'https://x/#y', expect: {start_within: 1m, end_within: 1h}}
jobs:
  a: {schedule: '@daily', command: [x]}
  b: {schedule: '@daily', command: [x]}
  c: {schedule: '@daily', command: [x], owner: dev, labels: {team: b}, expect: {end_within: none}}
";
    let config = read(text).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let about = |job: &str| Arc::clone(&config.jobs[&JobName::new(job).unwrap()].about);
    assert!(Arc::ptr_eq(&about("a"), &about("b")), "what is the same is there once");
    let labels =
        |job: &str| about(job).labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    assert_eq!(
        (labels("a").join(","), labels("c").join(",")),
        ("team=a,tier=1".to_owned(), "team=b,tier=1".to_owned())
    );
    let (a, c) = (about("a"), about("c"));
    assert_eq!([&a, &c].map(|about| about.owner.as_ref().unwrap().to_string()), ["ops", "dev"]);
    let minute = Some(Duration::from_secs(60));
    assert_eq!((a.expect.start_within, a.expect.end_within), (minute, Some(Duration::from_secs(3_600))));
    assert_eq!((c.expect.start_within, c.expect.end_within), (minute, None));
    let config = read(&text.replace("end_within: none", "start_within: 2h")).unwrap();
    assert_eq!(config.warnings.list()[0].path.to_string(), "jobs.c.expect.start_within");
}

fn files(texts: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    texts.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn read_files(texts: &[(&str, &str)]) -> Result<Config, Problems> {
    from_files(&files(texts), &Sources::none())
}

const BASE: &str =
    "version: 1\nnamespace: shop\ndefaults: {timeout: 5m, env: {A: é}}\ncalendars: {closed: {dates: [12-25]}}";
const PAY: &str =
    "version: 1\nx-daily: &d {schedule: '@daily'}\njobs:\n  pay: {<<: *d, command: [x], except: closed}\n";
const LOG: &str = "version: 1
x-daily: &d {schedule: '@hourly'}
jobs:
  log: {<<: *d, command: [\"a\\tb\"]}
  next: {after: pay, shell: \"x\"}";

#[test]
fn several_files_are_one_configuration() {
    let config = read_files(&[("d/a.yaml", BASE), ("d/b.yaml", PAY), ("d/c.yml", LOG)]).unwrap();
    assert_eq!(config.namespace, "shop");
    let names: Vec<&str> = config.jobs.keys().map(JobName::as_str).collect();
    assert_eq!(names, ["log", "next", "pay"]);
    let job = |name: &str| Arc::clone(&config.jobs[&JobName::new(name).unwrap()]);
    assert!(config.jobs.values().all(|job| job.timeout == Some(Duration::from_secs(300))), "defaults are of all files");
    assert_eq!(words(&job("log")), ["a\tb"]);
    let Trigger::Schedule { schedule, .. } = &job("log").trigger else { panic!("no schedule") };
    assert_eq!(schedule.text(), "@hourly", "an anchor is of its own file");
    assert_eq!(job("pay").env["A"].expose(), "é");

    // The digest is over the names and what is in them, wherever the directory is.
    let digest = |texts: &[(&str, &str)]| read_files(texts).unwrap().digest;
    let all = [("d/a.yaml", BASE), ("d/b.yaml", PAY), ("d/c.yml", LOG)];
    assert_eq!(digest(&all), digest(&[("/etc/a.yaml", BASE), ("/etc/b.yaml", PAY), ("/etc/c.yml", LOG)]));
    assert_ne!(digest(&all), digest(&[("d/a.yaml", BASE), ("d/b.yaml", PAY), ("d/d.yml", LOG)]));
    assert_ne!(digest(&all), digest(&[("d/a.yaml", BASE), ("d/c.yml", LOG), ("d/b.yaml", PAY)]));
}

#[test]
fn what_is_wrong_in_several_files_is_told_with_the_file_and_what_is_there_twice_with_both() {
    let again = "# a comment\nversion: 1\ndefaults: {}\njobs:\n  é: {}\n  pay: {schedule: '@daily', command: [x]}\n  \
                 log: {schedule: '@daily', comand: [x]}\n";
    let problems = read_files(&[("d/a.yaml", BASE), ("d/b.yaml", PAY), ("d/c.yaml", again)]).unwrap_err();
    let shown = problems.to_string();
    for words in [
        "d/c.yaml:3:11: `defaults` is given in d/a.yaml:3 as well: keep it in one of the files\n 3 | defaults: {}\n",
        "d/c.yaml:5:3: `é` is not a name",
        "d/c.yaml:6:3: the job `pay` is in d/b.yaml:4 as well: give one another name\n 6 |   pay:",
        "d/c.yaml:7:29: unknown key `comand`: did you mean `command`?\n 7 |   log:",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let json = serde_json::to_value(&problems).unwrap();
    assert_eq!((json[0]["file"].as_str(), json[0]["line"].as_u64()), (Some("d/c.yaml"), Some(3)));

    // What cannot be read at all, in any of them.
    let message = |texts: &[(&str, &str)]| read_files(texts).unwrap_err().to_string();
    let broken = message(&[("a.yaml", PAY), ("b.yaml", "version: 1\njobs: {a: ["), ("c.yaml", LOG)]);
    assert!(broken.starts_with("b.yaml:2:"), "{broken}");
    assert!(message(&[("a.yaml", PAY), ("b.yaml", "a\0")]).starts_with("b.yaml:1:2: the file is not text"));
    assert!(message(&[("a.yaml", ""), ("b.yaml", PAY)]).starts_with("a.yaml:1:1: the file is empty"));
    assert!(
        message(&[("a.yaml", "version: 2\njobs:"), ("b.yaml", PAY)]).starts_with("a.yaml:1:10: `2` is not a version")
    );
    assert!(message(&[("a.yaml", "version: 1"), ("b.yaml", "version: 1\n")]).contains("has no `jobs`"));
    let other = message(&[("a.yaml", LOG), ("b.yaml", &PAY.replace("pay:", "bay:"))]);
    assert!(other.contains("there is no job `pay`: did you mean `bay`?"), "{other}");
    // A place at the end of a file is in that file.
    let ends =
        message(&[("a.yaml", "version: 1\njobs:\n  a: {schedule: '@daily', command: [x]}\n  b:"), ("b.yaml", PAY)]);
    assert!(ends.starts_with("a.yaml:4:3: "), "{ends}");
}

#[test]
fn several_files_have_the_bounds_of_one() {
    let most = config::MAX_FILE_BYTES / 2 + 1;
    let large = format!("version: 1\n# {}\n", "x".repeat(most));
    let problems = read_files(&[("a.yaml", &large), ("b.yaml", &large)]).unwrap_err().to_string();
    assert!(problems.contains("the files are too large"), "{problems}");
    let text = "x".repeat(1 << 20);
    let bomb = format!("version: 1\nx-a: &a {text}\nx-b: [{}]\n", ["*a"; 40].join(", "));
    let problems = read_files(&[("a.yaml", &bomb), ("b.yaml", &bomb)]).unwrap_err().to_string();
    assert!(problems.contains("b.yaml:1:1: the files' texts have more than 64 MiB"), "{problems}");
}

/// The messages about every file of `tests/config`, one snapshot each.
#[test]
fn every_class_of_problem_is_told_well() {
    let sources = Sources {
        env: &|name| (name == "SECRET").then(|| "hunter2".to_owned()),
        file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        ..Sources::none()
    };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut files: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() > 20, "the fixtures are there");
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let shown = match from_bytes(&std::fs::read(&file).unwrap(), &sources) {
            Err(problems) => problems.of_file("jobs.yaml").to_string(),
            Ok(config) => {
                assert!(name.starts_with("odd-"), "{name} is sound");
                format!("warnings:\n{}", config.warnings.of_file("jobs.yaml"))
            }
        };
        assert!(!shown.contains("hunter2"), "{name} shows a secret");
        settings.bind(|| insta::assert_snapshot!(name, shown));
    }
}

#[test]
fn whole_outputs_are_kept_as_defaults_and_jobs_say() {
    let text = "version: 1
defaults: {output: {dir: /o, max_bytes: 5MiB, keep: {runs: 7}}}
jobs:
  a: {schedule: '@daily', command: [x]}
  b: {schedule: '@daily', command: [x]}
  c: {schedule: '@daily', command: [x], output: none}
  d: {schedule: '@daily', http: {url: 'http://x/'}, output: {keep: {for: 2h}}}
  e: {schedule: '@daily', command: [x], output: /p}
";
    let config = read(text).unwrap_or_else(|problems| panic!("{problems}"));
    let output = |job: &str| config.jobs[&JobName::new(job).unwrap()].output.clone();
    let (a, d) = (output("a").unwrap(), output("d").unwrap());
    assert_eq!((a.dir.expose(), a.max_bytes, a.keep.runs, a.keep.bytes), ("/o", 5 << 20, 7, 10 << 30));
    assert!(Arc::ptr_eq(&a, &output("b").unwrap()), "what is the same is there once");
    assert_eq!(output("c"), None);
    assert_eq!((d.max_bytes, d.keep.runs, d.keep.age), (5 << 20, 7, Duration::from_secs(7_200)));
    assert_eq!(output("e").unwrap().dir.expose(), "/p");
    assert_eq!(job("    schedule: '@daily'\n    command: [x]\n").output, None);
}

#[test]
fn a_job_is_followed_by_so_many_others_and_no_more() {
    let followed_by = |count: usize| {
        let mut text = "version: 1\njobs:\n  first: {schedule: '@daily', command: [x]}\n".to_owned();
        for number in 1..=count {
            text.push_str(&format!("  f{number}: {{after: {{job: first}}, command: [x]}}\n"));
        }
        read(&text)
    };
    assert!(followed_by(MAX_FOLLOWERS).is_ok());
    let told = followed_by(MAX_FOLLOWERS + 1).unwrap_err().to_string();
    assert!(told.contains("51 jobs run after `first`: at most 50 may"), "{told}");
}

#[test]
fn problems_are_a_list_for_programs() {
    let problems = read("version: 1\njobs:\n  x: {schedule: '@daily', command: [a], timeout: 5, jiter: 5s}\n");
    insta::assert_json_snapshot!(problems.unwrap_err(), @r#"
    [
      {
        "line": 3,
        "column": 50,
        "path": "jobs.x.timeout",
        "message": "`5` is a number without a unit: write it like `30s`, `10m` or `2h` (or `none`)"
      },
      {
        "line": 3,
        "column": 53,
        "path": "jobs.x.jiter",
        "message": "unknown key `jiter`: did you mean `jitter`?"
      }
    ]
    "#);
}

#[test]
fn the_example_is_sound_and_shows_every_key() {
    let config = read(EXAMPLE).unwrap_or_else(|problems| panic!("{}", problems.of_file("jobs.example.yaml")));
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    let mut keys = Vec::new();
    collect_keys(&config::schema(), &mut keys);
    for key in keys {
        assert!(EXAMPLE.contains(&format!("{key}:")), "the example does not show `{key}`");
    }
}

fn collect_keys(schema: &serde_json::Value, keys: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
        for (key, inner) in properties {
            keys.push(key.clone());
            collect_keys(inner, keys);
        }
    }
    for inner in schema.get("$defs").and_then(|defs| defs.as_object()).into_iter().flatten() {
        collect_keys(inner.1, keys);
    }
    if let Some(inner) = schema.get("additionalProperties") {
        collect_keys(inner, keys);
    }
}

#[test]
fn a_job_that_says_little_has_the_documented_defaults() {
    let job = job("    {schedule: '@daily', command: [echo, hello]}\n");
    assert_eq!((job.timeout, job.kill_after), (None, Duration::from_secs(10)));
    assert_eq!(job.overlap, Overlap::Skip);
    assert_eq!((job.missed.run, job.missed.within), (MissedRun::Latest, Some(Duration::from_secs(3600))));
    assert_eq!((job.missed.limit, job.missed.every), (10, Duration::from_millis(200)));
    assert_eq!((job.retry.attempts, job.retry.initial), (1, Duration::from_secs(5)));
    assert_eq!(job.retry.max, Duration::from_secs(300));
    assert_eq!(job.guarantee, Guarantee::AtMostOnce);
    assert_eq!((job.history.keep, job.history.age), (100, Duration::from_secs(30 * 86_400)));
    assert!(job.env.is_empty() && job.dir.is_none());
}

#[test]
fn the_defaults_of_a_request_in_the_schema_are_those_of_the_decoder() {
    let schema = config::schema();
    let mut http = default_of(&schema["$defs"]["job"]["properties"]["http"]).unwrap();
    http["url"] = serde_json::json!("http://localhost/");
    let given = read(&format!("version: 1\njobs: {{x: {{schedule: '@daily', http: {http}}}}}\n")).unwrap();
    let plain = "version: 1\njobs: {x: {schedule: '@daily', http: {url: 'http://localhost/'}}}\n";
    assert_eq!(given.jobs, read(plain).unwrap().jobs);
}

/// The defaults of the schema, given in full, change nothing: what editors show is what is done.
#[test]
fn the_defaults_of_the_schema_are_those_of_the_decoder() {
    let schema = config::schema();
    let mut given = serde_json::json!({ "schedule": "@daily", "command": ["echo"] });
    for (key, inner) in schema["$defs"]["job"]["properties"].as_object().unwrap() {
        if let Some(default) = default_of(inner)
            && key != "max_running"
            && !["after", "http", "sql"].contains(&key.as_str())
        {
            given[key] = default;
        }
    }
    let given = format!("version: 1\njobs: {{x: {given}}}\n");
    let plain = "version: 1\njobs: {x: {schedule: '@daily', command: [echo]}}\n";
    let given = read(&given).unwrap_or_else(|problems| panic!("{problems}\n{given}"));
    assert_eq!(given.jobs, read(plain).unwrap().jobs);
}

fn default_of(schema: &serde_json::Value) -> Option<serde_json::Value> {
    let inner = schema.get("properties").and_then(|properties| properties.as_object());
    match inner {
        None => schema.get("default").cloned(),
        Some(inner) => Some(inner.iter().filter_map(|(key, inner)| Some((key.clone(), default_of(inner)?))).collect()),
    }
}

#[test]
fn serde_yaml_reads_the_same_from_the_example() {
    let value: serde_json::Value = serde_yaml::from_str(EXAMPLE).unwrap();
    assert_eq!(read(&value.to_string()).unwrap().jobs, read(EXAMPLE).unwrap().jobs);
}

#[test]
fn the_example_is_valid_by_the_schema() {
    let value: serde_json::Value = serde_yaml::from_str(EXAMPLE).unwrap();
    let schema = config::schema();
    let faults = |value: &serde_json::Value| {
        let mut faults = Vec::new();
        validate(&schema, &schema, value, "", &mut faults);
        faults
    };
    assert_eq!(faults(&value), [] as [String; 0]);
    for (path, wrong) in [
        ("/jobs/tick/colour", serde_json::json!("red")),
        ("/jobs/sync/overlap", serde_json::json!("forbid")),
        ("/jobs/sync/missed/limit", serde_json::json!(0)),
        ("/jobs/tick/command", serde_json::json!([])),
        ("/jobs/tick/shell", serde_json::json!("date")),
        ("/version", serde_json::json!(2)),
    ] {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let mut value = value.clone();
        value.pointer_mut(parent).unwrap()[key] = wrong;
        assert!(!faults(&value).is_empty(), "{path}");
    }
}

/// The part of JSON Schema that the schema uses, patterns aside; a keyword that is not known here is a fault.
#[expect(clippy::too_many_lines, reason = "one arm for each keyword of the schema's language")]
fn validate(
    root: &serde_json::Value,
    schema: &serde_json::Value,
    value: &serde_json::Value,
    at: &str,
    faults: &mut Vec<String>,
) {
    use serde_json::Value;
    let Value::Object(schema) = schema else {
        faults.extend((schema == &Value::Bool(false)).then(|| format!("{at}: unknown")));
        return;
    };
    let sound = |schema: &Value| {
        let mut inner = Vec::new();
        validate(root, schema, value, at, &mut inner);
        inner.is_empty()
    };
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let length = value.as_array().map(Vec::len).or(value.as_object().map(serde_json::Map::len)).unwrap_or(0) as u64;
    for (keyword, wanted) in schema {
        let holds = match keyword.as_str() {
            "$ref" => sound(root.pointer(&wanted.as_str().unwrap()[1..]).unwrap()),
            "type" => list(wanted).iter().any(|name| is(name.as_str().unwrap())),
            "const" => value == wanted,
            "enum" => list(wanted).contains(value),
            "anyOf" => list(wanted).iter().any(sound),
            "oneOf" => list(wanted).iter().filter(|schema| sound(schema)).count() == 1,
            "allOf" => list(wanted).iter().all(sound),
            "required" => list(wanted).iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
            "minimum" => value.as_u64().is_none_or(|number| number >= wanted.as_u64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|number| number <= wanted.as_u64().unwrap()),
            "minItems" => !value.is_array() || length >= wanted.as_u64().unwrap(),
            "maxItems" | "maxProperties" => length <= wanted.as_u64().unwrap(),
            "pattern" => {
                !wanted.as_str().unwrap().contains("\\$\\{") || value.as_str().is_some_and(|text| text.contains("${"))
            }
            "items" => {
                value.as_array().into_iter().flatten().for_each(|item| validate(root, wanted, item, at, faults));
                true
            }
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    let unknown = schema.get("additionalProperties").unwrap_or(&Value::Bool(true));
                    validate(root, wanted.get(key).unwrap_or(unknown), inner, &format!("{at}.{key}"), faults);
                }
                true
            }
            "additionalProperties" if !schema.contains_key("properties") => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    validate(root, wanted, inner, &format!("{at}.{key}"), faults);
                }
                true
            }
            "additionalProperties"
            | "patternProperties"
            | "propertyNames"
            | "maxLength"
            | "$schema"
            | "$defs"
            | "title"
            | "description"
            | "default"
            | "examples" => true,
            _ => false,
        };
        if !holds {
            faults.push(format!("{at}: {keyword}"));
        }
    }
}

/// Every key of the schema is read: a value of no sense there is a problem there.
#[test]
fn decoder_and_schema_know_the_same_keys() {
    let schema = config::schema();
    let nonsense = "[{nonsense: [1]}]";
    let mut checked = 0;
    for (defs, before, after) in [
        (&schema, "", ""),
        (&schema["$defs"]["job"], "version: 1\njobs: {x: ", "}"),
        (&schema["properties"]["defaults"], "version: 1\njobs:\ndefaults: ", ""),
    ] {
        let mut paths = Vec::new();
        leaf_paths(defs, &mut Vec::new(), &mut paths);
        // Whatever is said there is JSON.
        for path in paths.into_iter().filter(|path| path.last().is_none_or(|key| key != "json")) {
            let opened: String = path.iter().map(|key| format!("{{{key}: ")).collect();
            let text = format!("{before}{opened}{nonsense}{}{after}\n", "}".repeat(path.len()));
            let problems = read(&text).unwrap_err();
            let wanted = path.join(".");
            let told = problems.list().iter().any(|problem| problem.path.trim_end_matches("[0]").ends_with(&wanted));
            assert!(told, "{wanted} is not read: {problems}");
            assert!(!problems.to_string().contains("unknown key `{key}`"), "{problems}");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} keys");
}

fn leaf_paths(schema: &serde_json::Value, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    match schema.get("properties").and_then(|properties| properties.as_object()) {
        Some(properties) => {
            for (key, inner) in properties {
                path.push(key.clone());
                leaf_paths(inner, path, paths);
                path.pop();
            }
        }
        None => paths.push(path.clone()),
    }
}

#[test]
fn a_job_wins_over_the_defaults_key_by_key() {
    let text = "version: 1\n\
        defaults: {timeout: 1h, retry: {attempts: 3, backoff: {max: 1m}}, env: {A: default, B: default}}\n\
        jobs:\n  x:\n    schedule: '@daily'\n    command: [a]\n    timeout: none\n    \
        retry: {backoff: {initial: 1s}}\n    env: {A: own}\n";
    let config = read(text).unwrap();
    let job = config.jobs.values().next().unwrap();
    assert_eq!(job.timeout, None);
    assert_eq!((job.retry.attempts, job.retry.initial.as_secs(), job.retry.max.as_secs()), (3, 1, 60));
    let env: Vec<_> = job.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=own", "B=default"]);
}

#[test]
fn a_shell_text_is_run_by_the_shell() {
    assert_eq!(words(&job("    {schedule: '@daily', shell: echo $HOME}\n")), ["/bin/sh", "-c", "echo $HOME"]);
}

#[test]
fn numbers_and_truths_are_the_texts_they_are_written_as() {
    let job = job("    {schedule: '@daily', command: [sleep, 1.10, 007, true, no, 0x1F], env: {A: 1e3}}\n");
    assert_eq!(words(&job), ["sleep", "1.10", "007", "true", "no", "0x1F"]);
    assert_eq!(job.env["A"].expose(), "1e3");
}

#[test]
fn what_is_filled_in_is_secret() {
    let sources = Sources { env: &|_| Some("hunter2".into()), file: &|_| Ok("s3cret\n".into()), ..Sources::none() };
    let text = "version: 1\njobs:\n  x: {schedule: '@daily', command: [a, 'p=${P}', '${file:/k}', '$P $${P}']}\n";
    let config = parse(text, &sources).unwrap();
    let job = config.jobs.values().next().unwrap();
    assert_eq!(words(job), ["a", "p=hunter2", "s3cret", "$P ${P}"]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let text = "version: 1\nx-base: &base {command: [a], timeout: 5s, env: {A: base}}\njobs:\n  \
        one: {<<: *base, schedule: '@daily'}\n  two: {schedule: '@daily', <<: *base, timeout: 7s}\n  \
        three: {<<: [{timeout: 9s}, *base], schedule: '@daily'}\n";
    let config = read(text).unwrap_or_else(|problems| panic!("{problems}"));
    let timeouts: Vec<_> = config.jobs.values().map(|job| job.timeout.unwrap().as_secs()).collect();
    assert_eq!(timeouts, [5, 9, 7], "one, three, two");
}

#[test]
fn a_job_may_follow_another() {
    let config = read(
        "version: 1\njobs:\n  a: {schedule: '@daily', command: [a]}\n  \
         b: {after: {job: a, on: failure}, command: [b]}\n",
    );
    let b = &config.unwrap().jobs[&JobName::new("b").unwrap()];
    assert_eq!(b.trigger, Trigger::After { job: JobName::new("a").unwrap(), on: On::Failure });
}

#[test]
fn equal_schedules_are_one() {
    let config = read(
        "version: 1\njobs:\n  a: {schedule: '0 2 * * *', command: [a]}\n  \
         b: {schedule: ['0 2 * * *'], command: [b]}\n  \
         c: {schedule: '0 2 * * *', timezone: Europe/Berlin, command: [c]}\n  \
         d: {schedule: '0 2 * * THU', command: [d]}\n  \
         e: {schedule: '0 2 * * THU', command: [e]}\n",
    )
    .unwrap();
    let schedules: Vec<_> = config
        .jobs
        .values()
        .map(|job| match &job.trigger {
            Trigger::Schedule { schedule, .. } => schedule.clone(),
            Trigger::After { .. } | Trigger::Disabled => unreachable!(),
        })
        .collect();
    assert!(std::sync::Arc::ptr_eq(&schedules[0], &schedules[1]));
    assert!(!std::sync::Arc::ptr_eq(&schedules[0], &schedules[2]));
    assert!(std::sync::Arc::ptr_eq(&schedules[3], &schedules[4]));
}

#[test]
fn the_digest_is_that_of_the_bytes() {
    let text = "version: 1\njobs:\n";
    let digest = read(text).unwrap().digest;
    assert_eq!(digest.len(), 12);
    assert_eq!(digest, read(text).unwrap().digest);
    assert_ne!(digest, read("version: 1\njobs: \n").unwrap().digest);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine() {
    let text = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(read(&text).unwrap().jobs, read(EXAMPLE).unwrap().jobs);
}

fn refusal(bytes: &[u8]) -> String {
    let problems = from_bytes(bytes, &Sources::none()).unwrap_err();
    assert_eq!(problems.count(), 1, "{problems}");
    problems.to_string()
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    assert!(refusal(b"\x7fELF\x02\x01\x01\x00\x00").contains("jobs.yaml:1:8: the file is not text: it has a NUL byte"));
    assert!(refusal(b"version: 1\nx: \xe9\n").contains("jobs.yaml:2:4: the byte 0xe9 here is not UTF-8"));
    let utf_16: Vec<u8> = "\u{feff}version: 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(refusal(&utf_16).contains("is in UTF-16: save it as UTF-8"));
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let started = Clock::system().boot();
    assert!(refusal(&vec![b'#'; 100 << 20]).contains("too large (100 MiB): a configuration has at most 32 MiB"));
    assert!(elapsed(started) < Duration::from_secs(5));
}

#[test]
fn aliases_that_multiply_are_refused_at_once() {
    let mut text = "version: 1\nx-0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        text.push_str(&format!("x-{level}: &a{level} [{aliases}]\n"));
    }
    assert!(refusal(text.as_bytes()).contains("holds more than 8000000 values, with aliases followed"));
}

#[test]
fn aliases_that_repeat_a_long_text_are_refused_at_once() {
    let variables: String = (0..600).map(|n| format!("V{n}: *long, ")).collect();
    let text = format!(
        "version: 1\njobs:\n  a: {{schedule: '@daily', command: [a], env: {{L: &long {}, {variables}}}}}\n",
        "x".repeat(config::MAX_TEXT_BYTES)
    );
    assert!(refusal(text.as_bytes()).contains("the file's texts have more than 64 MiB, with aliases followed"));
}

#[test]
fn a_long_value_that_is_filled_in_everywhere_is_refused_at_once() {
    let variables: String = (0..900).map(|n| format!("V{n}: '${{LONG}}', ")).collect();
    let text = format!("version: 1\njobs:\n  a: {{schedule: '@daily', command: [a], env: {{{variables}}}}}\n");
    let sources = Sources { env: &|_| Some("x".repeat(config::MAX_TEXT_BYTES)), ..Sources::none() };
    let problems = config::parse(&text, &sources).unwrap_err();
    assert_eq!(problems.count(), 1);
    assert!(problems.to_string().contains("is more than 64 MiB in all"), "{problems}");
}

#[test]
fn deep_nesting_is_refused_at_once() {
    for open in ["{a: ", "[", "? ", "- "] {
        let started = Clock::system().boot();
        let shown = refusal(format!("version: 1\njobs: {}", open.repeat(20_000)).as_bytes());
        assert!(shown.contains("jobs.yaml:2:"), "{shown}");
        assert!(elapsed(started) < Duration::from_secs(2), "{open}");
    }
}

#[test]
fn a_thousand_problems_are_told_in_bounds() {
    let jobs: String = (0..5_000).map(|n| format!("  j{n}: {{schedule: '@daily', comand: [a]}}\n")).collect();
    let problems = read(&format!("version: 1\njobs:\n{jobs}")).unwrap_err();
    assert_eq!((problems.count(), problems.list().len()), (5_000, config::MAX_KEPT));
    assert!(problems.to_string().ends_with("and 4950 more"));
}

#[test]
fn a_file_on_one_line_that_is_wrong_everywhere_is_told_at_once() {
    let wrong = "after: {job: nowhere}, timezone: Europe/Berln, timeout: 5, except: [a]";
    let jobs: Vec<_> = (0..20_000).map(|n| format!("job-{n}: {{{wrong}, comand: [a]}}")).collect();
    let started = Clock::system().boot();
    let problems = read(&format!("{{version: 1, jobs: {{{}}}}}", jobs.join(", "))).unwrap_err();
    assert!(problems.count() >= 100_000, "{}", problems.count());
    assert!(!problems.to_string().is_empty());
    assert!(elapsed(started) < Duration::from_secs(300), "{:?}", elapsed(started));
}

#[test]
fn a_problem_that_many_jobs_share_is_told_once() {
    let jobs: String = (0..100).map(|n| format!("  j{n}: {{<<: *base, schedule: '@daily'}}\n")).collect();
    let text = format!("version: 1\nx-base: &base {{command: [a], timeout: 5}}\njobs:\n{jobs}");
    assert_eq!(read(&text).unwrap_err().count(), 1);
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    /// What YAML is made of, in any order.
    const YAML_LIKE: &str = "([ \\n]{0,3}|[-?:,\\[\\]{}#&*!|>'\"%@`$~<]\
        |version: 1\n|jobs:\n|  [a-c]: |<<: |&a |\\*a |\\$\\{[A-Z:-]{0,3}\\}?|[0-9a-zé]{1,3}|\t){0,60}";

    /// Reads it, shows what is wrong, and in this way finds what panics.
    fn survive(bytes: &[u8]) {
        if let Err(problems) = from_bytes(bytes, &Sources::none()) {
            assert!(!problems.is_empty(), "a refusal says why");
            assert!(problems.list().iter().all(|problem| problem.line > 0 && problem.column > 0));
            assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn every_truncation_of_the_example_is_survived() {
        let bytes = EXAMPLE.as_bytes();
        std::thread::scope(|scope| {
            for first in 0..4 {
                scope.spawn(move || (first..bytes.len()).step_by(4).for_each(|end| survive(&bytes[..end])));
            }
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            survive(&bytes);
        }

        #[test]
        fn random_yaml_like_text_is_survived(text in YAML_LIKE) {
            survive(text.as_bytes());
        }

        #[test]
        fn mutations_of_the_example_are_survived(
            at in 0..EXAMPLE.len(),
            cut in 0usize..40,
            put in "[-?:,\\[\\]{}#&*!|>'\"%@`$~<a0 \\n\t]{0,4}",
        ) {
            let bytes = EXAMPLE.as_bytes();
            let end = (at + cut).min(bytes.len());
            survive(&[&bytes[..at], put.as_bytes(), &bytes[end..]].concat());
        }

        #[test]
        fn pieces_of_the_example_in_another_order_are_survived(
            mut lines in Just(EXAMPLE.lines().collect::<Vec<_>>()).prop_shuffle(),
            keep in 0usize..80,
        ) {
            lines.truncate(keep);
            lines.insert(0, "version: 1");
            survive(lines.join("\n").as_bytes());
        }
    }
}
