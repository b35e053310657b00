//! Fences, the scope within which they can be compared, and the stamp that a side effect carries.
//!
//! The only place that knows the names under which a stamp travels: environment variables, HTTP headers and SQL
//! parameters.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::time::Wall;

/// The namespace of a jobs file, a client or a command that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The fencing token of one hold of one lock: strictly greater for every later hold of the same lock.
///
/// A fence is compared and shown, never computed with. It stays below 2^53, so that JSON readers keep it exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(NonZeroU64);

impl Fence {
    /// The fence with this number; `None` for 0, which is no fence.
    pub fn new(number: u64) -> Option<Fence> {
        NonZeroU64::new(number).map(Fence)
    }

    /// The number to stamp on an effect.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What fences are comparable within: `<namespace>/leader` or `<namespace>/lock/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(String);

impl Scope {
    /// The scope of a namespace's leadership.
    pub fn leader(namespace: &str) -> Scope {
        Scope(format!("{namespace}/leader"))
    }

    /// The scope of a named lock. The lock named `leader` is the leadership itself.
    pub fn lock(namespace: &str, name: &str) -> Scope {
        if name == "leader" { Scope::leader(namespace) } else { Scope(format!("{namespace}/lock/{name}")) }
    }

    /// The scope of a namespace's migrations.
    pub fn migrations(namespace: &str) -> Scope {
        Scope(format!("{namespace}/migrations"))
    }

    /// The scope of what `fencron once` does under a key.
    pub fn once(namespace: &str, key: &str) -> Scope {
        Scope(format!("{namespace}/once/{key}"))
    }

    /// The scope as it is written on an effect.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the names of all environment variables begin with that are ours: the stamp's, and the settings of a node,
/// among which are passwords.
pub const OUR_VARIABLES: &str = "FENCRON_";

/// What the name of the variable begins with that holds a parameter of the run; its own name follows, in capitals.
pub const PARAM_VARIABLES: &str = "FENCRON_PARAM_";

/// What a side effect carries, so that its target can turn away a stale leader or a repeated occurrence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The namespace of the job.
    pub namespace: String,
    /// What the fence is comparable within.
    pub scope: Scope,
    /// The fence of the term that makes the effect.
    pub fence: Fence,
    /// The job's name.
    pub job: String,
    /// The occurrence, the same for every attempt and every leader.
    pub run_id: String,
    /// The instant for which the run was scheduled.
    pub scheduled_at: Wall,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The node that makes the effect.
    pub node: String,
    /// For a run that follows another: that one.
    pub after: Option<After>,
}

/// The run that another follows (`after:`), and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    pub run_id: String,
    pub job: String,
    /// `None` where a node of an older version, which does not pass it on, had a hand in it.
    pub end: Option<AfterEnd>,
}

/// How the run ended that another follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfterEnd {
    pub verdict: String,
    /// Why, for a person; may be empty, and only the beginning of it where it is long.
    pub reason: String,
    pub exit_code: Option<i32>,
}

/// The names under which a run learns which run it follows: those of SQL parameters. The variables and the headers are
/// made of them.
pub const AFTER_NAMES: [&str; 5] = ["after_run_id", "after_job", "after_verdict", "after_reason", "after_exit_code"];

impl After {
    /// The values, in the order of [`AFTER_NAMES`].
    pub fn values(&self) -> [Option<String>; 5] {
        let end = self.end.as_ref();
        [
            Some(self.run_id.clone()),
            Some(self.job.clone()),
            end.map(|end| end.verdict.clone()),
            end.map(|end| end.reason.clone()),
            end.and_then(|end| end.exit_code).map(|code| code.to_string()),
        ]
    }
}

impl Stamp {
    fn after_under<N>(&self, names: [N; 5]) -> impl Iterator<Item = (N, String)> {
        let values = self.after.as_ref().map(After::values).unwrap_or_default();
        names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)))
    }

    /// The environment variables that a command gets.
    ///
    /// ```
    /// use fencron::fence::{Fence, Scope, Stamp};
    /// let stamp = Stamp {
    ///     namespace: "shop".into(),
    ///     scope: Scope::leader("shop"),
    ///     fence: Fence::new(7).unwrap(),
    ///     job: "report".into(),
    ///     run_id: "report@2026-11-21T02:00:00Z".into(),
    ///     scheduled_at: "2026-11-21T02:00:00Z".parse().unwrap(),
    ///     attempt: 1,
    ///     node: "a".into(),
    ///     after: None,
    /// };
    /// let variables: Vec<_> = stamp.variables().collect();
    /// assert!(variables.contains(&("FENCRON_FENCE", "7".to_owned())));
    /// ```
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("FENCRON_FENCE", self.fence.to_string()),
            ("FENCRON_SCOPE", self.scope.to_string()),
            ("FENCRON_NAMESPACE", self.namespace.clone()),
            ("FENCRON_JOB", self.job.clone()),
            ("FENCRON_RUN_ID", self.run_id.clone()),
            ("FENCRON_SCHEDULED_AT", self.scheduled_at.to_string()),
            ("FENCRON_ATTEMPT", self.attempt.to_string()),
            ("FENCRON_NODE", self.node.clone()),
            ("TRACEPARENT", self.traceparent()),
        ]
        .into_iter()
        // What a target answered may have a NUL in it, which no variable can hold.
        .chain(self.after_under(AFTER_VARIABLES).map(|(name, value)| (name, value.replace('\0', " "))))
    }

    /// The headers that a request gets.
    ///
    /// ```
    /// # use fencron::fence::{Fence, Scope, Stamp, header};
    /// # let stamp = Stamp {
    /// #     namespace: "shop".into(),
    /// #     scope: Scope::leader("shop"),
    /// #     fence: Fence::new(7).unwrap(),
    /// #     job: "report".into(),
    /// #     run_id: "report@2026-11-21T02:00:00Z".into(),
    /// #     scheduled_at: "2026-11-21T02:00:00Z".parse().unwrap(),
    /// #     attempt: 1,
    /// #     node: "a".into(),
    /// #     after: None,
    /// # };
    /// let headers: Vec<_> = stamp.headers().collect();
    /// assert!(headers.contains(&(header::FENCING_TOKEN, "7".to_owned())));
    /// assert!(headers.contains(&(header::IDEMPOTENCY_KEY, "report@2026-11-21T02:00:00Z".to_owned())));
    /// ```
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            (header::FENCING_TOKEN, self.fence.to_string()),
            (header::FENCING_SCOPE, self.scope.to_string()),
            (header::IDEMPOTENCY_KEY, self.run_id.clone()),
            (header::SCHEDULED_AT, self.scheduled_at.to_string()),
            (header::ATTEMPT, self.attempt.to_string()),
            (header::TRACEPARENT, self.traceparent()),
        ]
        .into_iter()
        .chain(self.after_under(header::AFTER).map(|(name, value)| (name, in_header(&value))))
    }

    /// A W3C trace context whose trace is the occurrence (the same for every attempt and leader) and whose span is
    /// the attempt. <https://www.w3.org/TR/trace-context/#traceparent-header>
    pub fn traceparent(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("00-{}-{}-01", hex(&self.trace_id()), hex(&self.span_id()))
    }

    /// The id of the trace of the occurrence: nothing has to be passed on for attempts under different leaders to have the
    /// same one. The first 16 bytes of the SHA-256 of the namespace, a NUL, and the run id.
    pub fn trace_id(&self) -> [u8; 16] {
        digest_of(&format!("{}\0{}", self.namespace, self.run_id))
    }

    /// The id of the span of the attempt.
    pub fn span_id(&self) -> [u8; 8] {
        digest_of(&format!("{}\0{}\0{}\0{}", self.namespace, self.run_id, self.fence, self.attempt))
    }
}

/// The beginning of the SHA-256 of a text.
fn digest_of<const N: usize>(text: &str) -> [u8; N] {
    use sha2::{Digest, Sha256};
    let digest: [u8; 32] = Sha256::digest(text).into();
    std::array::from_fn(|at| digest[at])
}

const AFTER_VARIABLES: [&str; 5] = [
    "FENCRON_AFTER_RUN_ID",
    "FENCRON_AFTER_JOB",
    "FENCRON_AFTER_VERDICT",
    "FENCRON_AFTER_REASON",
    "FENCRON_AFTER_EXIT_CODE",
];

/// A text as the value of a header: what is not printable ASCII, and `%`, is percent-encoded.
fn in_header(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.trim().bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => value.push(char::from(byte)),
            _ => value.push_str(&format!("%{byte:02X}")),
        }
    }
    value
}

/// The environment variables of which a command has one that runs under a hold, or as a job.
pub const UNDER_ANOTHER: [&str; 3] = ["FENCRON_LOCK", "FENCRON_SEMAPHORE", "FENCRON_JOB"];

/// What a command finds in its environment that runs while something is held by name.
///
/// Permits have no fence, and nothing of a stamp: what is inherited of one, from a lock around them, stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldEnvironment {
    pub namespace: String,
    /// The node that holds it.
    pub node: String,
    /// What is held.
    pub name: String,
    /// The hold of a lock; `None`: permits of a semaphore.
    pub hold: Option<(Scope, Fence)>,
}

impl HoldEnvironment {
    /// The environment variables that the command gets.
    ///
    /// ```
    /// use fencron::fence::{Fence, HoldEnvironment, Scope};
    /// let hold = Some((Scope::lock("shop", "deploy"), Fence::new(7).unwrap()));
    /// let holding = HoldEnvironment { namespace: "shop".into(), node: "a".into(), name: "deploy".into(), hold };
    /// assert!(holding.variables().contains(&("FENCRON_FENCE", "7".to_owned())));
    /// ```
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![("FENCRON_NAMESPACE", self.namespace.clone()), ("FENCRON_NODE", self.node.clone())];
        match &self.hold {
            Some((scope, fence)) => variables.extend([
                ("FENCRON_LOCK", self.name.clone()),
                ("FENCRON_SCOPE", scope.to_string()),
                ("FENCRON_FENCE", fence.to_string()),
            ]),
            None => variables.push(("FENCRON_SEMAPHORE", self.name.clone())),
        }
        variables
    }
}

/// The names of the HTTP headers that a stamp travels under, and of those that a guard answers with.
pub mod header {
    /// The fence, as a decimal number.
    pub const FENCING_TOKEN: &str = "fencing-token";
    /// What the fence is comparable within.
    pub const FENCING_SCOPE: &str = "fencing-scope";
    /// The occurrence: the same for every attempt and every leader.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// The instant for which the run was scheduled, in RFC 3339.
    pub const SCHEDULED_AT: &str = "fencron-scheduled-at";
    /// The attempt, from 1.
    pub const ATTEMPT: &str = "fencron-attempt";
    /// The W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// What the run follows (`after:`): the run, its job, how it ended, why, and its exit code.
    pub const AFTER: [&str; 5] = [
        "fencron-after-run-id",
        "fencron-after-job",
        "fencron-after-verdict",
        "fencron-after-reason",
        "fencron-after-exit-code",
    ];
    /// In a guard's answer to a stale fence (412): the greatest that it has seen in the scope.
    pub const FENCING_TOKEN_SEEN: &str = "fencing-token-seen";
    /// In a guard's own answer, where it is not the service's: why, in a word (`in-doubt`).
    pub const GUARD: &str = "fencron-guard";
    /// In a guard's answer that was stored before, and not made by this request.
    pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_fence() {
        assert_eq!(Fence::new(0), None);
        assert!(Fence::new(1) < Fence::new(2));
    }

    #[test]
    fn what_a_run_follows_is_told_under_a_name_each_and_what_is_not_known_under_none() {
        let stamp = |end| Stamp {
            namespace: "shop".into(),
            scope: Scope::leader("shop"),
            fence: Fence::new(7).unwrap(),
            job: "b".into(),
            run_id: "b@2026-11-21T02:00:00Z".into(),
            scheduled_at: Wall::EPOCH,
            attempt: 1,
            node: "n".into(),
            after: Some(After { run_id: "a@2026-11-21T02:00:00Z".into(), job: "a".into(), end }),
        };
        let reason = "100 % of\n\0 für nichts ".to_owned();
        let known = stamp(Some(AfterEnd { verdict: "failed".into(), reason, exit_code: Some(3) }));
        let variables: Vec<_> = known.variables().filter(|(name, _)| name.contains("AFTER")).collect();
        let expected = [
            ("FENCRON_AFTER_RUN_ID", "a@2026-11-21T02:00:00Z"),
            ("FENCRON_AFTER_JOB", "a"),
            ("FENCRON_AFTER_VERDICT", "failed"),
            ("FENCRON_AFTER_REASON", "100 % of\n  für nichts "),
            ("FENCRON_AFTER_EXIT_CODE", "3"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name, value.to_owned())));
        let headers: Vec<_> = known.headers().filter(|(name, _)| name.contains("after")).collect();
        assert_eq!(headers[3], (header::AFTER[3], "100 %25 of%0A%00 f%C3%BCr nichts".to_owned()));
        let unknown: Vec<_> = stamp(None).variables().filter(|(name, _)| name.contains("AFTER")).collect();
        assert_eq!(unknown.len(), 2, "{unknown:?}");
    }

    #[test]
    fn attempts_under_different_leaders_are_spans_of_one_trace() {
        let stamp = |fence, attempt| Stamp {
            namespace: "shop".into(),
            scope: Scope::leader("shop"),
            fence: Fence::new(fence).unwrap(),
            job: "b".into(),
            run_id: "b@2026-11-21T02:00:00Z".into(),
            scheduled_at: Wall::EPOCH,
            attempt,
            node: "n".into(),
            after: None,
        };
        let (first, second) = (stamp(7, 1), stamp(8, 2));
        assert_eq!(first.trace_id(), second.trace_id());
        assert_ne!(first.span_id(), second.span_id());
        assert_ne!(stamp(7, 1).span_id(), stamp(8, 1).span_id());
        let other = Stamp { namespace: "shopb".into(), run_id: "@2026-11-21T02:00:00Z".into(), ..stamp(7, 1) };
        assert_ne!(other.trace_id(), first.trace_id());
        // printf 'shop\0b@2026-11-21T02:00:00Z' | sha256sum
        assert!(first.traceparent().starts_with("00-b46399fa32df2a5d53e143474d3c237e-"), "{}", first.traceparent());
    }

    #[test]
    fn the_lock_named_leader_is_the_leadership() {
        assert_eq!(Scope::lock("shop", "leader"), Scope::leader("shop"));
        assert_eq!(Scope::lock("shop", "deploy").as_str(), "shop/lock/deploy");
    }
}
