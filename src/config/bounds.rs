//! The bounds of a command: the user that it runs as, what it is given, and how much of the machine it may take.

use std::sync::Arc;
use std::time::Duration;

use super::keys::{Key, Needs, SECOND, Shape, Tables, count, duration, key};
use super::values::{Place, Value, check_inherited};
use super::walk::{Fields, Spot, Walk};
use crate::job::{Bounds, Form, Ionice, Nice, Stdin, Umask, words};

/// How many variables a job may name that it inherits.
const MAX_INHERITED: usize = 1_000;
/// The longest name of a user or a group, in characters.
const MAX_NAME_CHARS: usize = 64;
/// The most files that a process may have open.
const MAX_OPEN_FILES: u32 = 1 << 20;
/// The longest time that a process may compute.
const MAX_CPU_TIME: Duration = Duration::from_secs(30 * 86_400);

const ACCOUNT: Shape = Shape::Line { most: MAX_NAME_CHARS, without: " :/," };
/// The largest size that a limit may say.
const MAX_BYTES: u64 = 1 << 50;
const BYTES: Shape = Shape::Bytes { least: 0, most: MAX_BYTES };

/// What a job, or `defaults` for all of them, can say of the bounds of a command.
#[rustfmt::skip]
pub static BOUNDS: &[Key] = &[
    key("user", ACCOUNT,
        "The user that the command runs as, by name or number: the node has to be root. By default the node's.")
        .also("run_as runas uid as").needs(Needs::Process).to(|d| &mut d.bounds.user),
    key("group", ACCOUNT, "Its group, by name or number; by default that of `user`.")
        .also("gid run_as_group").needs(Needs::Process).to(|d| &mut d.bounds.group),
    key("limits", Shape::Map(LIMITS), "How much of the machine the command may take.")
        .also("limit resources ulimit rlimits").needs(Needs::Process).in_parts(),
    key("nice", Shape::Form { pattern: Nice::PATTERN }, "How much it yields the processors to others: -20 to 19.")
        .also("niceness priority").needs(Needs::Process).to(|d| &mut d.bounds.nice),
    key("ionice", Shape::Form { pattern: Ionice::PATTERN },
        "How much it yields the disks to others: `idle`, `best-effort/7`, `realtime/0`.")
        .also("io_class ioprio").needs(Needs::Process).to(|d| &mut d.bounds.ionice),
    key("umask", Shape::Form { pattern: Umask::PATTERN }, "Which rights new files do not get, like \"027\".")
        .needs(Needs::Process).to(|d| &mut d.bounds.umask),
    key("inherit", Shape::Texts { most: MAX_INHERITED },
        "The variables of the node that the command gets; by default all but the node's own settings.")
        .also("pass_env env_passthrough keep_env").needs(Needs::Process).to(|d| &mut d.bounds.inherit),
    key("no_new_privileges", Shape::Word(words::<bool>),
        "`true`: nothing that the command executes gets more rights than it has (sudo, set-user-ID programs).")
        .default("false").also("no_new_privs nonewprivileges").needs(Needs::Process)
        .to(|d| &mut d.bounds.no_new_privileges),
];

/// What the command reads. Only a job can say that.
pub const STDIN: Key =
    key("stdin", Shape::MapOr { key: "text", of: STDINS }, "What the command reads: a text; by default nothing.")
        .also("input standard_input")
        .needs(Needs::Process);

static STDINS: Tables =
    &[&[key("text", Shape::Text, "This text."), key("file", Shape::Text, "A file, by its path.").also("path from")]];

#[rustfmt::skip]
static LIMITS: Tables = &[&[
    key("open_files", count(8, MAX_OPEN_FILES), "How many files each of its processes may have open.")
        .also("nofile").to(|d| &mut d.bounds.limits.open_files),
    key("core", BYTES, "The largest dump of a process that crashes; `0B`: none is written.")
        .to(|d| &mut d.bounds.limits.core),
    key("file_size", BYTES, "The largest file that it may write.").also("fsize").to(|d| &mut d.bounds.limits.file_size),
    key("stack", BYTES, "The largest stack of a process.").to(|d| &mut d.bounds.limits.stack),
    key("cpu_time", duration(SECOND, MAX_CPU_TIME),
        "How long each of its processes may compute, in whole seconds: then it gets XCPU, and KILL a second later.")
        .also("cpu_seconds").to(|d| &mut d.bounds.limits.cpu_time),
]];

impl<T: Form> Value for Option<T> {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Option<T>> {
        walk.read(T::WHAT, spot, T::parse).map(Some)
    }
}

/// The names of variables; those of `defaults` are replaced.
impl Place for Option<Vec<String>> {
    fn take(&mut self, walk: &mut Walk, spot: Spot) {
        let Some(items) = walk.items("the name of a variable, or a list of names", &spot) else { return };
        let count = items.len();
        let names: Vec<String> = items
            .iter()
            .filter_map(|item| {
                walk.read("the name of a variable", *item, |name| check_inherited(name).map(|()| name.to_owned()))
            })
            .collect();
        if names.len() == count {
            *self = Some(names);
        }
    }
}

/// Reads `stdin` of a job.
pub fn read_stdin(walk: &mut Walk, job: &Fields) -> Option<Stdin> {
    let spot = job.get("stdin")?;
    let fields = walk.fields(&spot)?;
    match (fields.get("text"), fields.get("file")) {
        (Some(text), None) => walk.text(text).map(Stdin::Text),
        (None, Some(file)) => {
            let path = walk.text(file)?;
            if path.expose().is_empty() {
                return walk.refuse(file, "expected the path of a file, found an empty text");
            }
            Some(Stdin::File(path))
        }
        (Some(_), Some(file)) => walk.refuse(file, "`text` and `file` cannot be given together: keep one of them"),
        (None, None) if fields.meant(&["text", "file"]) => None,
        (None, None) => walk.refuse(spot, "this is no input: give it a `text` or a `file`"),
    }
}

/// The bounds of a job, shared with the job before where they are alike.
pub fn shared(bounds: Bounds, before: &mut Arc<Bounds>) -> Arc<Bounds> {
    if **before != bounds {
        *before = Arc::new(bounds);
    }
    Arc::clone(before)
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, parse};
    use crate::job::{Stdin, Text};

    fn bounds(job: &str, defaults: &str) -> Result<crate::job::Bounds, String> {
        let text = format!("version: 1\ndefaults: {{{defaults}}}\njobs:\n  j: {{schedule: '@daily', {job}}}\n");
        let config = parse(&text, &Sources::none()).map_err(|problems| problems.to_string())?;
        Ok((*config.jobs.values().next().unwrap().bounds).clone())
    }

    #[test]
    fn bounds_of_defaults_hold_unless_a_job_has_its_own() {
        let defaults = "user: app, nice: 5, limits: {open_files: 64, core: 0B}, inherit: [PATH, LANG]";
        let of =
            bounds("command: [a], nice: -3, limits: {stack: 8MiB}, inherit: PATH, stdin: hello", defaults).unwrap();
        assert_eq!(of.user, Some(Text::plain("app")));
        assert_eq!((of.nice.unwrap().0, of.limits.open_files), (-3, Some(64)));
        assert_eq!((of.limits.core, of.limits.stack), (Some(0), Some(8 << 20)));
        assert_eq!(of.inherit, Some(vec!["PATH".to_owned()]));
        assert_eq!(of.stdin, Some(Stdin::Text(Text::plain("hello"))));
        assert!(!of.no_new_privileges && of.umask.is_none());
    }

    #[test]
    fn all_that_is_wrong_with_bounds_is_said_at_once() {
        let job = "command: [a], user: 'a b', nice: 20, umask: 9, ionice: slow, inherit: [FENCRON_STORE], \
                   limits: {core: big, open_files: 3, cpu_time: 1ms, memroy: 1GiB}, stdin: {text: a, file: b}";
        let problems = bounds(job, "").unwrap_err();
        for path in [
            "user",
            "nice",
            "umask",
            "ionice",
            "inherit[0]",
            "limits.core",
            "limits.open_files",
            "limits.cpu_time",
            "limits.memroy",
            "stdin.file",
        ] {
            assert!(problems.contains(&format!("jobs.j.{path}")), "{path}: {problems}");
        }
    }

    #[test]
    fn what_starts_no_process_has_no_bounds() {
        let problems = bounds("http: {url: 'http://a'}, nice: 3", "").unwrap_err();
        assert!(problems.contains("no process is started"), "{problems}");
        assert!(bounds("http: {url: 'http://a'}", "nice: 3").is_ok());
        let problems = bounds("command: [a]", "stdin: x").unwrap_err();
        assert!(problems.contains("cannot be given for all jobs at once"), "{problems}");
    }
}
