//! Who the caller of a request is, by the rules and by what the request shows.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::seal::{Sealed, TICKET_HEADER, cookie_name};
use super::{By, Caller, Peer, Role, Rules};
use crate::api::problem::{Kind, Problem};
use crate::config::auth::{Proxy, TokenRule};
use crate::job::Word as _;
use crate::lock::Namespace;
use crate::time::Wall;

/// The headers that a proxy adds: a request with one comes from elsewhere than its connection.
const OF_PROXIES: &[&str] = &["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

/// Where and when a request is answered.
pub(super) struct At<'a> {
    pub namespace: &'a Namespace,
    pub insecure_read: bool,
    pub now: Wall,
}

/// What a request shows of its caller.
#[derive(Debug)]
pub(super) enum Claim {
    Caller(Caller),
    /// It has to be opened with the key of the namespace.
    Sealed(Sealed),
    Refused(Problem),
}

/// What the request shows. The first of: a ticket, a token, a cookie, a header of a trusted proxy, a certificate.
pub(super) fn claim(headers: &HeaderMap, rules: Option<&Rules>, peer: &Peer, at: &At<'_>) -> Claim {
    if let Some(ticket) = headers.get(TICKET_HEADER) {
        return Claim::Sealed(Sealed::Ticket(ticket.to_str().unwrap_or_default().to_owned()));
    }
    let Some(rules) = rules else { return by_place(headers, peer, at.insecure_read) };
    if let Some(bearer) = headers.get(header::AUTHORIZATION) {
        return by_header(bearer.to_str().unwrap_or_default(), rules, at.now);
    }
    let is_secure = is_secure(headers, rules.proxy.as_ref(), peer);
    if let Some(cookie) = cookie(headers, &cookie_name(at.namespace, is_secure)) {
        return Claim::Sealed(Sealed::Cookie(cookie.to_owned()));
    }
    let claimed =
        rules.proxy.as_ref().and_then(|proxy| by_proxy(headers, proxy)).or_else(|| by_certificate(rules, peer));
    claimed.map_or_else(|| Claim::Refused(unknown()), |caller| caller.map_or_else(Claim::Refused, Claim::Caller))
}

/// Whether the browser itself comes by TLS: to this node, or, as a trusted proxy says, to that.
pub(super) fn is_secure(headers: &HeaderMap, proxy: Option<&Proxy>, peer: &Peer) -> bool {
    let is_trusted = proxy.is_some_and(|proxy| trusts(proxy, peer));
    let by_proxy =
        || headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    peer.tls.is_some() || (is_trusted && by_proxy())
}

fn trusts(proxy: &Proxy, peer: &Peer) -> bool {
    let ip: IpAddr = peer.address.ip();
    proxy.trust_from.iter().any(|network| network.contains(ip))
}

/// Why a caller that shows nothing is refused.
pub(super) fn unknown() -> Problem {
    Problem::new(Kind::Unauthenticated, "this takes a token: send it as `Authorization: Bearer TOKEN`")
        .try_command(new_token(Role::Viewer))
}

/// The command that makes a token of this role.
pub(in crate::api) fn new_token(role: Role) -> String {
    format!("fencron token new --name NAME --role {}", role.word())
}

/// Without rules.
fn by_place(headers: &HeaderMap, peer: &Peer, insecure_read: bool) -> Claim {
    let is_here =
        peer.address.ip().to_canonical().is_loopback() && !OF_PROXIES.iter().any(|n| headers.contains_key(*n));
    if insecure_read || is_here {
        return Claim::Caller(Caller { name: None, role: Role::Reader, jobs: None, by: By::Place });
    }
    let why = "this node has no rules of who may look, so that it answers other machines, and what comes through a proxy, \
               about its health only: start it with --auth FILE, or with --insecure-read where everyone who reaches it \
               may read everything";
    Claim::Refused(Problem::new(Kind::NotProtected, why).try_command(new_token(Role::Viewer)))
}

fn by_header(text: &str, rules: &Rules, now: Wall) -> Claim {
    let given = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, given)) = given else {
        return Claim::Refused(Problem::new(Kind::Unauthenticated, "send the token as `Authorization: Bearer TOKEN`"));
    };
    match token(rules, given.trim(), now) {
        Ok(rule) => Claim::Caller(caller(rule, By::Token)),
        Err(problem) => Claim::Refused(problem),
    }
}

pub(super) fn caller(rule: &TokenRule, by: By) -> Caller {
    Caller { name: Some(rule.name.clone()), role: rule.role, jobs: rule.jobs.clone(), by }
}

/// The rule of a token. It takes as long for any token.
pub(super) fn token<'r>(rules: &'r Rules, given: &str, now: Wall) -> Result<&'r TokenRule, Problem> {
    let sum: [u8; 32] = Sha256::digest(given.as_bytes()).into();
    let mut found = None;
    for rule in &rules.tokens {
        if bool::from(rule.sha256.ct_eq(&sum)) {
            found = Some(rule);
        }
    }
    let rule = found.ok_or_else(|| Problem::new(Kind::Unauthenticated, "this token is not known here"))?;
    check_expiry(rule, now).map(|()| rule)
}

pub(super) fn check_expiry(rule: &TokenRule, now: Wall) -> Result<(), Problem> {
    match rule.expires {
        Some(expires) if expires <= now => {
            let detail = format!("the token {} has expired at {expires}: have a new one made", rule.name);
            Err(Problem::new(Kind::Unauthenticated, detail))
        }
        _ => Ok(()),
    }
}

/// The value of the cookie of this name.
pub(in crate::api) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|value| value.split(';')).find_map(|one| one.trim().strip_prefix(name)?.strip_prefix('='))
}

/// `None`: the proxy names no user.
///
/// Of two headers of one name, the first may be what the client sent, to which the proxy has only added its own.
fn by_proxy(headers: &HeaderMap, proxy: &Proxy) -> Option<Result<Caller, Problem>> {
    let mut of_proxy = proxy.groups.iter().chain([&proxy.user]);
    if let Some(doubled) = of_proxy.find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        let detail = format!(
            "the request has the header {doubled} more than once, so one of them may come from the client: have the \
             proxy replace what clients send, not add to it"
        );
        return Some(Err(Problem::new(Kind::Unauthenticated, detail)));
    }
    let user = headers.get(&proxy.user)?.to_str().ok().map(str::trim).filter(|user| !user.is_empty())?;
    let groups = proxy.groups.iter().flat_map(|name| headers.get_all(name)).filter_map(|value| value.to_str().ok());
    let names = groups.flat_map(|value| value.split(',')).map(str::trim).chain([user]);
    let user: String = user.chars().take(crate::config::auth::MAX_NAME_BYTES).collect();
    let role = names.filter_map(|name| proxy.roles.get(name)).max();
    let no_role = || {
        let detail = format!("{user} is known, and neither it nor one of its groups has a role here");
        Problem::new(Kind::RoleTooLow, detail)
    };
    let caller = |role: &Role| Caller { name: Some(user.clone()), role: *role, jobs: None, by: By::Proxy };
    Some(role.map(caller).ok_or_else(no_role))
}

/// `None`: there is no certificate.
fn by_certificate(rules: &Rules, peer: &Peer) -> Option<Result<Caller, Problem>> {
    let names = &peer.tls.as_ref()?.names;
    let first = names.first()?;
    let best = names.iter().filter_map(|name| Some((rules.clients.get(name)?, name))).max_by_key(|(role, _)| **role);
    let no_role = || Problem::new(Kind::RoleTooLow, format!("the certificate of {first} has no role here"));
    let caller = |(role, name): (&Role, &String)| Caller {
        name: Some(name.clone()),
        role: *role,
        jobs: None,
        by: By::Certificate,
    };
    Some(best.map(caller).ok_or_else(no_role))
}

/// Takes away what only a trusted proxy may say, where another one says it.
pub(super) fn strip(headers: &mut HeaderMap, proxy: &Proxy, peer: &Peer) {
    if trusts(proxy, peer) {
        return;
    }
    for name in proxy.groups.iter().chain([&proxy.user]) {
        if headers.remove(name).is_some() {
            let from = peer.address.ip();
            tracing::warn!(header = %name, %from, "passed over a header that only the proxy of --auth may send");
        }
    }
}
