//! Known defects of a server: of its version, or because it is not etcd.

use std::time::Duration;

use crate::store::StoreError;

/// A defect that matters to locks, and the first version of each series that is free of it.
struct Defect {
    fixed: &'static [(u64, u64, u64)],
    what: &'static str,
}

/// From etcd's changelogs. A series that is not named never had the defect.
const DEFECTS: &[Defect] = &[
    Defect {
        fixed: &[(3, 4, 31), (3, 5, 13)],
        what: "a leader that has been replaced may revoke leases, and watches may lose events after a compaction \
               (etcd #15247, PR 17610)",
    },
    Defect {
        fixed: &[(3, 4, 32), (3, 5, 14)],
        what: "revisions, and so fences, may go backwards after a crash during compaction (etcd PR 17864)",
    },
    Defect {
        fixed: &[(3, 4, 38), (3, 5, 23), (3, 6, 5)],
        what: "a lease that has been revoked may be reported as kept alive (etcd PR 20813)",
    },
    Defect {
        fixed: &[(3, 4, 42), (3, 5, 28), (3, 6, 9)],
        what: "a member that was paused may answer with outdated data (etcd #20418)",
    },
];

/// What to run instead.
const ADVICE: &str = "run etcd 3.5.28, 3.6.9 or later";

/// What an operator ought to know of this server version.
pub(super) fn warnings(version: &str) -> Vec<String> {
    let Some(found) = parsed(version) else {
        return vec![format!("etcd says that its version is `{version}`, which cannot be read: {ADVICE}")];
    };
    if found < (3, 4, 0) {
        return vec![format!("etcd {version} is older than 3.4, and nothing is known of how it behaves: {ADVICE}")];
    }
    let mut warnings: Vec<String> = DEFECTS
        .iter()
        .filter(|defect| defect.fixed.iter().any(|fixed| (fixed.0, fixed.1) == (found.0, found.1) && found < *fixed))
        .map(|defect| format!("etcd {version} has a known defect: {}: {ADVICE}", defect.what))
        .collect();
    if found < (3, 5, 0) {
        warnings
            .push(format!("etcd {version} is of a series that is no longer repaired (3.4 ended in 2026): {ADVICE}"));
    }
    warnings
}

/// `3.5.1` or `3.6.0-rc.1` as numbers.
fn parsed(version: &str) -> Option<(u64, u64, u64)> {
    let plain = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut numbers = plain.split('.').map(|part| part.parse::<u64>().ok());
    let numbers = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some(numbers)
}

/// The error for `store`, which answers as etcd and is something else, as `sign` shows.
///
/// kine, which offers etcd's protocol over SQL databases to Kubernetes, is the one that people have: its leases are granted
/// under their TTL for an id, so that all sessions share one, and neither kept alive nor revoked.
pub(super) fn imitation(store: &str, sign: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{store} is not etcd: {sign}. kine and others offer a part of etcd's protocol, without the leases by which a lock \
         ends when its holder is lost, and fencron cannot use them: name the members of an etcd cluster (3.4 or later), or \
         on one machine a file (sqlite:PATH)"
    ))
}

/// What an answer to a status that names this cluster says against its being etcd's.
pub(super) fn status_sign(cluster: Option<u64>) -> Option<&'static str> {
    matches!(cluster, None | Some(0)).then_some("it belongs to no cluster, which every member of etcd does")
}

/// What a lease that was granted under this id for this time says against its being etcd's.
pub(super) fn lease_sign(id: i64, asked: i64, granted: Duration) -> Option<String> {
    let is_its_time = id == asked || id == i64::try_from(granted.as_secs()).unwrap_or(i64::MAX);
    is_its_time.then(|| format!("it granted a lease of {asked} s under the id {id}, and would do so for all clients"))
}

/// What an error says against its being etcd's.
pub(super) fn error_sign(text: &str, is_unimplemented: bool) -> Option<String> {
    let lacks = text.starts_with("lease ") && text.ends_with(" is not supported");
    let knows_few = text.starts_with("unsupported transaction");
    (lacks || knows_few || is_unimplemented)
        .then(|| format!("it answered `{}`", text.chars().take(200).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_looks_like_etcd_is_told_by_its_answers() {
        assert_eq!(status_sign(Some(0xcdf8_181e_3227_7a10)), None);
        assert!(status_sign(Some(0)).is_some() && status_sign(None).is_some());
        let seconds = Duration::from_secs;
        assert_eq!(lease_sign(0x694d_7172_8f6c_9d12, 10, seconds(10)), None);
        assert!(lease_sign(10, 10, seconds(10)).is_some() && lease_sign(0, 10, seconds(0)).is_some());
        assert!(error_sign("lease keep alive is not supported", false).is_some());
        assert!(error_sign("unsupported transaction: compare:<…>", false).is_some());
        assert!(error_sign("unknown service etcdserverpb.Lease", true).is_some());
        assert_eq!(error_sign("etcdserver: requested lease not found", false), None);
    }

    #[test]
    fn a_repaired_version_has_nothing_to_warn_of() {
        for version in ["3.5.28", "3.6.9", "3.7.2", "4.0.0"] {
            assert_eq!(warnings(version), Vec::<String>::new(), "{version}");
        }
    }

    #[test]
    fn every_defect_of_a_version_is_named() {
        assert_eq!(warnings("3.5.1").len(), 4);
        assert_eq!(warnings("3.6.0").len(), 2);
        assert_eq!(warnings("3.5.27").len(), 1);
        assert_eq!(warnings("3.4.23").len(), 5, "and that the series has ended");
        assert!(warnings("3.6.8")[0].contains("outdated data"));
    }

    #[test]
    fn a_version_that_cannot_be_judged_is_said_to_be_so() {
        assert!(warnings("3.3.27")[0].contains("older than 3.4"));
        assert!(warnings("unknown")[0].contains("cannot be read"));
        assert_eq!(warnings("3.6.0-rc.1").len(), 2);
    }
}
