//! Who may look at what.
//!
//! A request is taken in three steps, before any handler sees it. Health is answered to everyone and takes none of them.
//!
//! 1. `identify`: who is the caller? A ticket, a token, the cookie of a login, a header of a trusted proxy or a client
//!    certificate says so. Without a file of rules, a caller from this machine is a reader, and others are nothing.
//! 2. `host`: is the request meant for this node? A name that an attacker has bound to this address is not. What bears
//!    a token or a ticket is: no browser sends one by itself.
//! 3. The row of the route: does the role suffice, are the jobs of the route among the caller's, and does a request that
//!    changes something come from a page of this node (`origin`)?

mod certificate;
mod host;
mod identify;
mod logins;
mod origin;
mod rate;
mod seal;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, Uri};

pub use crate::config::auth::{Patterns, Role, Rules};
pub use certificate::ends as certificate_ends;
pub use host::Hosts;
pub use seal::{TICKET_HEADER, ticket};

use super::problem::{Kind, Problem};
use crate::job::{JobName, RunId, Word as _};
use crate::ledger::Ledger;
use crate::listen::{self, Remote};
use crate::lock::Namespace;
use crate::store::Store;
use crate::time::{Boot, Clock, Wall};
use identify::{At, Claim};
pub(super) use identify::{cookie, new_token};
use logins::Logins;
pub(super) use origin::check as check_origin;
use rate::Rate;
use seal::Keyring;
pub(super) use seal::cookie_name;

/// How long a login lasts.
pub const LOGIN_LASTS: Duration = Duration::from_secs(12 * 3_600);

/// What a route takes for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: every caller gets the answer, whatever the settings and however full the listener is.
    Health,
    /// That the caller may reach more of this node than its health.
    Nothing,
    Role(Role),
}

/// The other end of a request: an extension of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// What TLS says of it; `None`: the connection is without TLS.
    pub tls: Option<Secured>,
}

/// What TLS says of the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secured {
    /// The names in the client's certificate, which the configured authority has signed; empty: it has shown none.
    pub names: Arc<[String]>,
}

impl From<Remote> for Peer {
    fn from(remote: Remote) -> Peer {
        let names = |secured: listen::Secured| {
            let names = secured.certificate.map(|der| certificate::names(&der)).unwrap_or_default();
            Secured { names: names.into() }
        };
        Peer { address: remote.address, tls: remote.tls.map(names) }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        Peer { address, tls: None }
    }
}

/// Who sent a request, and what the sender may do: an extension of each request that needs a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As the rules name it; `None`: a caller without a name.
    pub name: Option<String>,
    pub role: Role,
    /// The jobs that the caller is narrowed to; `None`: all.
    pub jobs: Option<Patterns>,
    pub by: By,
}

/// By what a caller is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// By being here: there are no rules.
    Place,
    Token,
    Cookie,
    Proxy,
    Certificate,
    /// A ticket, which is for the output of one run.
    Ticket(RunId),
}

impl Caller {
    /// Whether the job is there for this caller: answers pass over the others as if they did not exist.
    pub fn sees(&self, job: &JobName) -> bool {
        self.jobs.as_ref().is_none_or(|jobs| jobs.include(job))
    }

    /// Whether the caller has shown something that no browser sends by itself.
    fn bears(&self) -> bool {
        matches!(self.by, By::Token | By::Ticket(_))
    }
}

/// What is set for as long as the node runs.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub hosts: Hosts,
    /// Everyone may read everything: there are no rules, and none are wanted.
    pub insecure_read: bool,
}

/// Who may look at what, as it is at the moment. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Access(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    settings: Settings,
    rules: RwLock<Option<Arc<Rules>>>,
    keyring: Keyring,
    logins: Logins,
    acts: Rate,
}

impl Access {
    /// With the rules of a file, or without one.
    pub fn new(settings: Settings, rules: Option<Rules>) -> Access {
        let rules = RwLock::new(rules.map(Arc::new));
        Access(Arc::new(Inner { settings, rules, ..Inner::default() }))
    }

    /// Takes other rules in place of those before, for all requests from now on.
    pub fn replace(&self, rules: Rules) {
        *self.0.rules.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(rules));
    }

    /// The rules; `None`: there is no file of them.
    fn rules(&self) -> Option<Arc<Rules>> {
        self.0.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file of the authorities of client certificates that the rules in force name.
    pub fn client_ca(&self) -> Option<PathBuf> {
        self.rules()?.client_ca.clone()
    }

    /// Who the caller is, and that the request is meant for this node.
    ///
    /// # Errors
    ///
    /// The inner one is for routes that need a role, the outer one for all routes but health.
    pub(super) async fn admit<S: Store>(
        &self,
        request: (&Uri, &mut HeaderMap),
        peer: &Peer,
        ledger: &Ledger<S>,
        clock: &Clock,
    ) -> Result<Result<Caller, Problem>, Problem> {
        let (uri, headers) = request;
        let rules = self.rules();
        let caller = match self.claim(headers, rules.as_deref(), peer, (ledger.namespace(), clock.wall())) {
            Claim::Caller(caller) => Ok(caller),
            Claim::Refused(problem) => Err(problem),
            Claim::Sealed(sealed) => {
                let rules = rules.unwrap_or_default();
                self.0.keyring.open(&sealed, &rules, ledger, clock).await
            }
        };
        if !caller.as_ref().is_ok_and(Caller::bears) {
            self.0.settings.hosts.check(uri, headers)?;
        }
        match caller {
            Err(problem) if problem.kind == Kind::NotProtected => Err(problem),
            caller => Ok(caller),
        }
    }

    /// What the request shows of its caller, by the rules. Takes away what only a trusted proxy may say.
    fn claim(
        &self,
        headers: &mut HeaderMap,
        rules: Option<&Rules>,
        peer: &Peer,
        (namespace, now): (&Namespace, Wall),
    ) -> Claim {
        if let Some(proxy) = rules.and_then(|rules| rules.proxy.as_ref()) {
            identify::strip(headers, proxy, peer);
        }
        identify::claim(headers, rules, peer, &At { namespace, insecure_read: self.0.settings.insecure_read, now })
    }

    /// The caller of a request about health, as far as that is known without a question to the store: one that shows a
    /// login or a ticket is not. `None` also where the request is not meant for this node.
    pub(super) fn known_at_once(
        &self,
        (uri, mut headers): (&Uri, HeaderMap),
        peer: &Peer,
        at: (&Namespace, Wall),
    ) -> Option<Caller> {
        let rules = self.rules();
        let Claim::Caller(caller) = self.claim(&mut headers, rules.as_deref(), peer, at) else { return None };
        let is_meant = caller.bears() || self.0.settings.hosts.check(uri, &headers).is_ok();
        is_meant.then_some(caller)
    }

    /// Whether the browser itself comes by TLS: its cookies are for that alone then.
    pub(super) fn is_secure(&self, headers: &HeaderMap, peer: &Peer) -> bool {
        identify::is_secure(headers, self.rules().as_deref().and_then(|rules| rules.proxy.as_ref()), peer)
    }

    /// That a caller of this name may act now, and has not done so too often.
    pub(super) fn may_act(&self, caller: &str, now: Boot) -> Result<(), Problem> {
        self.0.acts.admit(caller, now)
    }

    /// The cookie of a login with this token: its value, and until when it is taken.
    ///
    /// # Errors
    ///
    /// Why there is none: a wrong token, too many of them, or a store that is away.
    pub(super) async fn login<S: Store>(
        &self,
        token: &str,
        peer: &Peer,
        ledger: &Ledger<S>,
        clock: &Clock,
    ) -> Result<(String, Wall), Problem> {
        let Some(rules) = self.rules() else {
            return Err(Problem::new(Kind::Unauthenticated, "there are no tokens: this node runs without --auth"));
        };
        let rule = match identify::token(&rules, token, clock.wall()) {
            Ok(rule) => rule,
            // Only wrong tokens wait. A right one is let in whatever others have tried from its address: a token has 256
            // bits and is not found by trying, and behind a proxy all callers share one address.
            Err(problem) => {
                self.0.logins.begin(peer.address.ip(), clock.boot())?;
                self.0.logins.failed(peer.address.ip(), clock.boot());
                return Err(problem);
            }
        };
        if rule.role < Role::Viewer {
            let detail = format!(
                "the token {} has the role {}, which opens no screen: log in with a token of the role viewer or above",
                rule.name,
                rule.role.word()
            );
            return Err(Problem::new(Kind::RoleTooLow, detail));
        }
        let until = clock.wall().plus(LOGIN_LASTS);
        let until = rule.expires.map_or(until, |expires| until.min(expires));
        Ok((self.0.keyring.cookie(rule, until, ledger, clock).await?, until))
    }
}
