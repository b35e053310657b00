//! Whose a job is, what people sort it by, and what is expected of its runs, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use super::Text;

/// What stands where something is left out.
pub const MASK: &str = "***";

/// What is in the names of headers, of variables and of parameters of a URL whose values are left out wherever they come
/// from, in small letters.
const SECRET_NAMES: &[&str] =
    &["authorization", "cookie", "token", "secret", "key", "password", "passwd", "credential", "signature"];

/// What people need to know of a job that does not change what it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The people who answer for it.
    pub owner: Option<Text>,
    /// What jobs are sorted and found by.
    pub labels: BTreeMap<String, Text>,
    /// The URL of what people do when it fails.
    pub runbook: Option<Text>,
    pub expect: Expect,
}

impl About {
    /// Its labels, without what came from outside of the file.
    pub fn shown_labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
    }

    /// Its runbook, without what is secret in its URL.
    pub fn shown_runbook(&self) -> Option<String> {
        self.runbook.as_ref().map(without_secrets)
    }

    /// Whether it is of this owner, in whichever case.
    pub fn is_of(&self, owner: &str) -> bool {
        self.owner.as_ref().is_some_and(|own| own.to_string().to_lowercase() == owner.to_lowercase())
    }

    /// Whether it has this label, in whichever case: `NAME=VALUE`, or `NAME` for any value.
    pub fn has_label(&self, label: &str) -> bool {
        let label = label.to_lowercase();
        let (wanted, value) = label.split_once('=').map_or((&*label, None), |(name, value)| (name, Some(value)));
        self.labels.iter().any(|(name, own)| {
            name.to_lowercase() == wanted && value.is_none_or(|value| own.to_string().to_lowercase() == value)
        })
    }
}

/// How soon a run has to start and to end, from the instant on at which it was to start. Nothing is done to a run that
/// takes longer: it is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    pub start_within: Option<Duration>,
    pub end_within: Option<Duration>,
}

/// Whether what bears this name is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// A URL as it may be shown: without its password, without a user that stands alone, which is often a token, and without
/// the values of parameters that are named as secrets are.
pub(super) fn without_secrets(url: &Text) -> String {
    let text = url.to_string();
    let Ok(mut parsed) = Url::parse(&text) else { return text };
    let has_login = match (parsed.username().is_empty(), parsed.password().is_some()) {
        (true, false) => false,
        // Neither fails for a URL with a host, and a request has one.
        (_, true) => parsed.set_password(Some(MASK)).is_ok(),
        (false, false) => parsed.set_username(MASK).is_ok(),
    };
    let is_masked = parsed.query_pairs().any(|(name, _)| is_secret(&name));
    if is_masked {
        let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
        let query = pairs.iter().map(|(name, value)| (name, if is_secret(name) { MASK } else { value }));
        parsed.query_pairs_mut().clear().extend_pairs(query);
    }
    if has_login || is_masked { parsed.into() } else { text }
}

/// Whether a URL, as it is shown, is a link for people: nothing is left out of it, and a browser opens it.
pub fn is_link(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) && !url.contains(MASK)
}
