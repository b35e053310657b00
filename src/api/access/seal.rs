//! What a node hands out and knows again: the cookies of logins, and tickets. Each is sealed with a key that the nodes of
//! a namespace share, so that any of them knows it again.
//!
//! The key is in the store. A reader of the store may read all outputs anyway, so the commands, which read the store, can
//! make themselves tickets and take no token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::{By, Caller, Role, Rules};
use crate::api::STORE_WITHIN;
use crate::api::access::identify::{caller, check_expiry, unknown};
use crate::api::problem::{Kind, Problem};
use crate::config::auth::TokenRule;
use crate::job::RunId;
use crate::ledger::Ledger;
use crate::lock::Namespace;
use crate::store::{Store, StoreError};
use crate::time::{Boot, Clock, Wall};

/// The header in which a ticket is sent.
pub const TICKET_HEADER: &str = "fencron-ticket";

/// How long a ticket is taken. Clocks may differ: a node of the same cluster is within its `--max-clock-skew`.
pub const TICKET_LASTS: Duration = Duration::from_secs(60);

/// The name of the cookie. A browser keeps one set of cookies for all ports of a host, where nodes of several namespaces
/// may be: each namespace has its own. `is_secure`: the browser comes by TLS, and sends the cookie by nothing else.
pub(in crate::api) fn cookie_name(namespace: &Namespace, is_secure: bool) -> String {
    format!("{}fencron-login-{namespace}", if is_secure { "__Host-" } else { "" })
}

/// How long the key may be kept before it is read again for a seal that does not fit.
const KEY_KEPT: Duration = Duration::from_secs(10);

/// The longest cookie or ticket, in bytes.
const SEALED_MOST: usize = 2_048;

/// What is sealed, as a request shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sealed {
    Cookie(String),
    Ticket(String),
}

/// The key of the namespace, as far as it is known.
#[derive(Default)]
pub(super) struct Keyring(Mutex<Option<(Boot, Arc<hmac::Key>)>>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

/// A ticket for the output of one run. Nodes accept it for a minute.
///
/// # Errors
///
/// The store's.
pub async fn ticket<S: Store>(ledger: &Ledger<S>, run: &RunId, now: Wall) -> Result<String, StoreError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &ledger.auth_key().await?);
    let until = now.plus(TICKET_LASTS);
    Ok(format!("{}.{}.{}", encoded(run.as_str()), until.as_millis(), seal(&key, &ticket_text(run.as_str(), until))))
}

fn ticket_text(run: &str, until: Wall) -> String {
    format!("ticket\0{run}\0{}", until.as_millis())
}

/// Bound to the token itself: one that takes over its name is another one.
fn cookie_text(rule: &TokenRule, until: Wall) -> String {
    format!("cookie\0{}\0{}\0{}", rule.name, until.as_millis(), URL_SAFE_NO_PAD.encode(rule.sha256))
}

fn seal(key: &hmac::Key, text: &str) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(key, text.as_bytes()))
}

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A sealed text in its parts: what it is about, until when it is taken, and the seal.
fn parts(text: &str) -> Option<(String, Wall, Vec<u8>)> {
    if text.len() > SEALED_MOST {
        return None;
    }
    let mut parts = text.split('.');
    let (about, until, seal) = (parts.next()?, parts.next()?, parts.next()?);
    let about = String::from_utf8(URL_SAFE_NO_PAD.decode(about).ok()?).ok()?;
    let until = Wall::from_millis(until.parse().ok()?);
    let seal = URL_SAFE_NO_PAD.decode(seal).ok()?;
    parts.next().is_none().then_some((about, until, seal))
}

impl Keyring {
    /// The caller that shows this, where it is genuine and not too old.
    pub async fn open<S: Store>(
        &self,
        sealed: &Sealed,
        rules: &Rules,
        ledger: &Ledger<S>,
        clock: &Clock,
    ) -> Result<Caller, Problem> {
        match sealed {
            Sealed::Cookie(text) => {
                let Some((name, until, seal)) = parts(text) else { return Err(unknown()) };
                let Some(rule) = rules.tokens.iter().find(|rule| rule.name == name) else { return Err(unknown()) };
                check_expiry(rule, clock.wall())?;
                if until <= clock.wall() || !self.is_sealed(&cookie_text(rule, until), &seal, ledger, clock).await? {
                    return Err(unknown());
                }
                Ok(caller(rule, By::Cookie))
            }
            Sealed::Ticket(text) => {
                let wrong = || Problem::new(Kind::Unauthenticated, "this ticket is none of this cluster's, or too old");
                let (run, until, seal) = parts(text).ok_or_else(wrong)?;
                let run: RunId = run.parse().map_err(|_| wrong())?;
                let is_current = until > clock.wall() && until <= clock.wall().plus(2 * TICKET_LASTS);
                if !is_current || !self.is_sealed(&ticket_text(run.as_str(), until), &seal, ledger, clock).await? {
                    return Err(wrong());
                }
                Ok(Caller { name: None, role: Role::Reader, jobs: None, by: By::Ticket(run) })
            }
        }
    }

    /// The value of the cookie of a login with this token.
    pub async fn cookie<S: Store>(
        &self,
        rule: &TokenRule,
        until: Wall,
        ledger: &Ledger<S>,
        clock: &Clock,
    ) -> Result<String, Problem> {
        let key = self.read(ledger, clock).await?;
        Ok(format!("{}.{}.{}", encoded(&rule.name), until.as_millis(), seal(&key, &cookie_text(rule, until))))
    }

    /// Whether the seal is one of this namespace on this text. A store that was cleared has another key: the one that is
    /// kept is not the last word.
    async fn is_sealed<S: Store>(
        &self,
        text: &str,
        seal: &[u8],
        ledger: &Ledger<S>,
        clock: &Clock,
    ) -> Result<bool, Problem> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read_at, key)) = kept {
            let fits = hmac::verify(&key, text.as_bytes(), seal).is_ok();
            if fits || clock.boot().since(read_at) < KEY_KEPT {
                return Ok(fits);
            }
        }
        let key = self.read(ledger, clock).await?;
        Ok(hmac::verify(&key, text.as_bytes(), seal).is_ok())
    }

    async fn read<S: Store>(&self, ledger: &Ledger<S>, clock: &Clock) -> Result<Arc<hmac::Key>, Problem> {
        let read = tokio::time::timeout(STORE_WITHIN, ledger.auth_key()).await;
        let bytes =
            read.map_err(|_| Problem::store_away("the store does not answer, and the key of logins is there"))??;
        let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock.boot(), Arc::clone(&key)));
        Ok(key)
    }
}
