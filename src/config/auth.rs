//! The file that `--auth` names: who may look at what. Read as the jobs file is, with every problem and its line.
//!
//! There is no secret in it: tokens stand as their SHA-256.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keys::{Shape, Tables, key, named};
use super::problem::Findings;
use super::tree::{Tree, Value};
use super::values::Value as Readable;
use super::walk::{Fields, Path, Spot, Walk};
use super::{Problems, Sources, decode};
use crate::job::{JobName, Word, words};
use crate::time::Wall;

/// What a token begins with, so that searches for secrets find one that was written down.
pub const TOKEN_BEGINS: &str = "fct_";
/// How many tokens a file may have.
pub const MAX_TOKENS: usize = 1_000;
/// How many patterns of job names a token may have.
pub const MAX_PATTERNS: usize = 100;
/// How many networks a proxy may be in.
pub const MAX_NETWORKS: usize = 100;
/// How many names may be given a role.
pub const MAX_GRANTS: usize = 1_000;
/// The longest name of a user, a group or a certificate, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// What a caller may do. Each role may do all that the roles before it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read the metrics.
    Metrics,
    /// Read everything but what runs write.
    Viewer,
    /// Read also what runs write: it may hold secrets.
    Reader,
    /// Trigger, pause, cancel and resolve.
    Operator,
    /// Step down, unlock, and repair.
    Admin,
}

impl Word for Role {
    const WORDS: &'static [(&'static str, Role)] = &[
        ("metrics", Role::Metrics),
        ("viewer", Role::Viewer),
        ("reader", Role::Reader),
        ("operator", Role::Operator),
        ("admin", Role::Admin),
    ];
}

/// Who may look at what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub tokens: Vec<TokenRule>,
    pub proxy: Option<Proxy>,
    /// The roles of client certificates, by a name in the certificate.
    pub clients: BTreeMap<String, Role>,
    /// The file (PEM) of the authorities that sign them, as the rules name it: from the directory of the rules on.
    pub client_ca: Option<PathBuf>,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRule {
    /// What it is called in logs and on pages; unique.
    pub name: String,
    pub role: Role,
    /// The jobs that it is narrowed to; `None`: it covers all.
    pub jobs: Option<Patterns>,
    /// The SHA-256 of the whole token.
    pub sha256: [u8; 32],
    /// From when on it is refused.
    pub expires: Option<Wall>,
}

/// Which jobs, by their names: `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Whether one of the patterns is that of the job's name.
    pub fn include(&self, job: &JobName) -> bool {
        self.0.iter().any(|pattern| matches(pattern, job.as_str()))
    }

    /// The patterns, as the file has them.
    pub fn list(&self) -> &[String] {
        &self.0
    }

    /// The patterns, where each is one.
    ///
    /// # Errors
    ///
    /// What is wrong with the first that is none, as the end of a message that begins with it.
    pub fn new(patterns: Vec<String>) -> Result<Patterns, String> {
        let is_one = |pattern: &String| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
            !pattern.is_empty() && pattern.len() <= 100 && pattern.chars().all(allowed)
        };
        match patterns.iter().find(|pattern| !is_one(pattern)) {
            Some(_) => Err("is not a pattern of job names: use the name of a job, with `*` for any text".to_owned()),
            None => Ok(Patterns(patterns)),
        }
    }
}

/// Whether `pattern` is one of `text`. In time that is linear in both for each `*`: the last `*` takes more, and no other.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A proxy that says who its users are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The networks from which it is believed.
    pub trust_from: Vec<Network>,
    /// The header with the name of the user.
    pub user: HeaderName,
    /// The header with the groups of the user, separated by commas.
    pub groups: Option<HeaderName>,
    /// The roles of groups and users.
    pub roles: BTreeMap<String, Role>,
}

/// How many bits of an IPv4 address that is written as one of IPv6 (`::ffff:10.0.0.1`) come before it.
const MAPPED_BITS: u8 = 96;

/// A network, like `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address is in it. An IPv4 address that is written as one of IPv6 is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }

    fn parse(text: &str) -> Result<Network, String> {
        let why = || "is not a network: write it like `10.0.0.0/8`, `fd00::/8` or `10.0.0.7`".to_owned();
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| why())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let mut bits: u8 = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(why)?,
        };
        let canonical = address.to_canonical();
        if canonical.is_ipv4() && address.is_ipv6() {
            // The first 96 bits say only that it is an IPv4 address.
            bits = bits.checked_sub(MAPPED_BITS).ok_or_else(why)?;
        }
        if bits == 0 {
            return Err("is every address: everyone who reaches the node could say to be anyone".to_owned());
        }
        Ok(Network { address: canonical, bits })
    }
}

static FILE_SHAPE: Shape = Shape::Map(FILE);
static TOKEN_SHAPE: Shape = Shape::Map(TOKEN);
const ROLE: Shape = Shape::Word(words::<Role>);
static ROLE_SHAPE: Shape = ROLE;
const ROLES: Shape = named(&ROLE_SHAPE, MAX_GRANTS, "names are too many: at most");

#[rustfmt::skip]
static FILE: Tables = &[&[
    key("tokens", Shape::List { of: &TOKEN_SHAPE, most: MAX_TOKENS }, "The tokens.").also("token users"),
    key("proxy", Shape::Map(PROXY), "A proxy that says who its users are.").also("proxies header headers"),
    key("clients", Shape::Map(CLIENTS), "The client certificates.").also("client certificates mtls"),
]];

#[rustfmt::skip]
static TOKEN: Tables = &[&[
    key("name", Shape::Text, "What it is called in logs.").also("id user"),
    key("role", ROLE, "What its bearer may do."),
    key("jobs", Shape::Texts { most: MAX_PATTERNS }, "The jobs that it is narrowed to.").also("job only"),
    key("sha256", Shape::Text, "The SHA-256 of the token.").also("hash digest token"),
    key("expires", Shape::Text, "From when on it is refused.").also("expiry until valid_until"),
]];

#[rustfmt::skip]
static PROXY: Tables = &[&[
    key("trust_from", Shape::Dates { most: MAX_NETWORKS }, "The networks from which it is believed.")
        .also("from networks trusted trust"),
    key("user", Shape::Text, "The header with the name of the user.").also("user_header header"),
    key("groups", Shape::Text, "The header with the groups of the user.").also("groups_header group"),
    key("roles", ROLES, "The roles of groups and users."),
]];

#[rustfmt::skip]
static CLIENTS: Tables = &[&[
    key("ca", Shape::Text, "The file of the authorities that sign them.").also("client_ca authority authorities cafile"),
    key("roles", ROLES, "The roles of certificates, by a name in them."),
]];

/// Reads the bytes of the file.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Rules, Problems> {
    let text = decode(bytes)?;
    let mut wrong = Findings::default();
    let Some(tree) = Tree::read(text, &mut wrong) else { return Err(without_tokens(wrong, text)) };
    let sources = Sources::none();
    let mut walk = Walk::new(&tree, &sources);
    walk.wrong = wrong;
    let rules = read_rules(&mut walk);
    match rules {
        Some(rules) if walk.wrong.is_empty() => Ok(rules),
        _ => Err(without_tokens(walk.wrong, text)),
    }
}

/// The problems without the lines that they are in, and without any token: one may stand anywhere by mistake.
fn without_tokens(wrong: Findings, text: &str) -> Problems {
    wrong.locate(text).without_excerpts().rewritten(hide_tokens)
}

/// The text with nothing of a token but how it begins.
fn hide_tokens(text: &str) -> String {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut parts = text.split(TOKEN_BEGINS);
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        hidden.push_str(TOKEN_BEGINS);
        hidden.push('…');
        hidden.push_str(part.trim_start_matches(is_of_token));
    }
    hidden
}

fn read_rules(walk: &mut Walk) -> Option<Rules> {
    let root = Spot { node: walk.tree.root(), path: Path::Root, shape: &FILE_SHAPE };
    if matches!(walk.tree.value(root.node), Value::Null) {
        return walk.refuse(root, "the file is empty: `fencron token new` prints what belongs below `tokens:`");
    }
    let fields = walk.fields(&root)?;
    let tokens = fields.get("tokens").map(|spot| read_tokens(walk, spot)).unwrap_or_default();
    let proxy = fields.get("proxy").and_then(|spot| read_proxy(walk, spot));
    let clients = fields.get("clients").and_then(|spot| read_clients(walk, spot));
    let (clients, client_ca) = clients.unwrap_or_default();
    Some(Rules { tokens, proxy, clients, client_ca })
}

fn read_clients(walk: &mut Walk, spot: Spot) -> Option<(BTreeMap<String, Role>, Option<PathBuf>)> {
    let fields = walk.fields(&spot)?;
    let ca = fields.get("ca").map(|spot| walk.read("the path of a file (PEM)", spot, read_path));
    let roles = fields.need(walk, "roles", spot, "no certificate has a role: give `roles`");
    let roles = roles.map(|spot| read_roles(walk, spot));
    Some((roles?, ca.map_or(Some(None), |ca| ca.map(Some))?))
}

fn read_path(text: &str) -> Result<PathBuf, String> {
    check_name(text).map(PathBuf::from).map_err(|_| "is not the path of a file (PEM)".to_owned())
}

fn read_tokens(walk: &mut Walk, spot: Spot) -> Vec<TokenRule> {
    let mut tokens: Vec<TokenRule> = Vec::new();
    for spot in walk.items("a list of tokens, as `fencron token new` prints them", &spot).unwrap_or_default() {
        let Some(fields) = walk.fields(&spot) else { continue };
        let Some(token) = read_token(walk, &fields, spot) else { continue };
        if tokens.iter().any(|other| other.name == token.name) {
            walk.wrong(spot, format!("two tokens are named `{}`: give each a name of its own", token.name));
        } else if tokens.iter().any(|other| other.sha256 == token.sha256) {
            walk.wrong(spot, "this token is listed twice: which of its roles counts?");
        }
        tokens.push(token);
    }
    tokens
}

fn read_token(walk: &mut Walk, fields: &Fields, spot: Spot) -> Option<TokenRule> {
    let name = fields.need(walk, "name", spot, "this token has no `name`: logs distinguish tokens by it");
    let name = name.and_then(|spot| walk.read("a name", spot, check_name));
    let role = fields.need(walk, "role", spot, "this token has no `role`: say what its bearer may do");
    let role = role.and_then(|spot| Role::read(walk, spot));
    let missing = "this token has no `sha256`: `fencron token new` prints it";
    let sha256 = fields.need(walk, "sha256", spot, missing);
    let sha256 = sha256.and_then(|spot| {
        // Never shown: it may be a token by mistake.
        let sum = read_sha256(&walk.known("the SHA-256 of a token", spot)?.text);
        sum.map_err(|why| walk.wrong(spot, why)).ok()
    });
    let expires = fields.get("expires").map(|spot| walk.read("a day or an instant", spot, read_expiry));
    let jobs = fields.get("jobs").map(|spot| read_patterns(walk, spot));
    // What cannot be read leaves no wider token behind.
    let (expires, jobs) = (expires.map_or(Some(None), |e| e.map(Some))?, jobs.map_or(Some(None), |j| j.map(Some))?);
    Some(TokenRule { name: name?, role: role?, jobs, sha256: sha256?, expires })
}

fn read_patterns(walk: &mut Walk, spot: Spot) -> Option<Patterns> {
    let mut patterns = Vec::new();
    for spot in walk.items("patterns of job names", &spot)? {
        let one = |text: &str| Patterns::new(vec![text.to_owned()]).map(|Patterns(one)| one);
        patterns.extend(walk.read("a pattern of job names", spot, one)?);
    }
    Some(Patterns(patterns))
}

fn read_proxy(walk: &mut Walk, spot: Spot) -> Option<Proxy> {
    let fields = walk.fields(&spot)?;
    let missing =
        "a proxy needs `trust_from`, the networks that it is in: otherwise every client could say to be anyone";
    let from = fields.need(walk, "trust_from", spot, missing);
    let trust_from = from.and_then(|spot| {
        let spots = walk.items("the networks that the proxy is in", &spot)?;
        spots.into_iter().map(|spot| walk.read("a network", spot, Network::parse)).collect()
    });
    let user = fields.need(walk, "user", spot, "say in which header the proxy names the user: `user`");
    let user = user.and_then(|spot| walk.read("the name of a header", spot, read_header));
    let groups = fields.get("groups").map(|spot| walk.read("the name of a header", spot, read_header));
    let roles = fields.need(walk, "roles", spot, "no user and no group has a role: give `roles`");
    let roles = roles.map(|spot| read_roles(walk, spot));
    Some(Proxy {
        trust_from: trust_from?,
        user: user?,
        groups: groups.map_or(Some(None), |g| g.map(Some))?,
        roles: roles?,
    })
}

fn read_roles(walk: &mut Walk, spot: Spot) -> BTreeMap<String, Role> {
    walk.named(spot, |name| check_name(name).map(drop), |walk, spot, _| Role::read(walk, spot))
}

/// Names stand in logs and in cookies.
fn check_name(text: &str) -> Result<String, String> {
    if text.starts_with(TOKEN_BEGINS) {
        return Err("is a token itself, and logs show names: make a new token, since this one was written down".into());
    }
    let is_one = !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control);
    if is_one { Ok(text.to_owned()) } else { Err(format!("is not a name: use 1 to {MAX_NAME_BYTES} bytes of text")) }
}

fn read_header(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| "is not the name of a header".to_owned())
}

fn read_sha256(text: &str) -> Result<[u8; 32], String> {
    let digit = |at: usize| text.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> = if is_hex { (0..32).map(|nth| digit(2 * nth)).collect() } else { None };
    let why = if text.starts_with(TOKEN_BEGINS) {
        "this is a token itself: the file has only its SHA-256; make a new token, since this one was written down"
    } else {
        "expected a SHA-256 of 64 hexadecimal digits, found something else"
    };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| why.to_owned())
}

/// A day counts from its beginning in UTC.
pub fn read_expiry(text: &str) -> Result<Wall, String> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    whole.parse().map_err(|_| "is not a day or an instant: write it like 2027-06-01 or 2027-06-01T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn wrong(text: &str) -> Vec<String> {
        let problems = read(text.as_bytes()).unwrap_err();
        problems.list().iter().map(|p| format!("{}:{} {}", p.line, p.column, p.message)).collect()
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = format!(
            "tokens:\n  - {{name: ci, role: operator, jobs: [\"deploy-*\", x], sha256: {SUM}, expires: 2027-06-01}}\n\
             proxy: {{trust_from: [10.0.0.0/8], user: X-Forwarded-User, groups: X-Groups, roles: {{sre: admin}}}}\n\
             clients: {{roles: {{\"spiffe://x/prom\": metrics}}}}\n"
        );
        let rules = read(text.as_bytes()).unwrap();
        let token = &rules.tokens[0];
        assert_eq!((token.name.as_str(), token.role, token.sha256[0]), ("ci", Role::Operator, 0x9f));
        assert_eq!(token.expires, Some("2027-06-01T00:00:00Z".parse().unwrap()));
        let includes = |job: &str| token.jobs.as_ref().unwrap().include(&JobName::new(job).unwrap());
        assert!(includes("deploy-a") && includes("x") && !includes("xy") && !includes("a-deploy-"));
        let proxy = rules.proxy.unwrap();
        assert_eq!((proxy.user.as_str(), proxy.roles["sre"]), ("x-forwarded-user", Role::Admin));
        assert_eq!(rules.clients["spiffe://x/prom"], Role::Metrics);
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_place() {
        let text = "tokens:\n  - {name: a, rol: admin, sha256: fct_x_y}\n  - {name: b, role: boss}\n\
                    proxy: {user: X-User, trust_from: [], roles: {a: viewer}}\n";
        assert!(!read(text.as_bytes()).unwrap_err().to_string().contains("fct_"));
        let wrong = wrong(text);
        for (place, words) in [
            ("2:15 ", "did you mean `role`?"),
            ("2:35 ", "this is a token itself"),
            ("3:21 ", "expected one of `metrics`"),
            ("3:5 ", "no `sha256`"),
            ("4:35 ", "1 to 100 of them, found 0"),
        ] {
            assert!(
                wrong.iter().any(|one| one.starts_with(place) && one.contains(words)),
                "{place}{words}: {wrong:#?}"
            );
        }
    }

    #[test]
    fn a_token_in_a_wrong_place_is_in_no_message() {
        for text in [
            "fct_9Zx_a-B7: 1\n",
            "tokens: fct_9Zx_a-B7\n",
            "tokens: [fct_9Zx_a-B7]\n",
            "tokens: [{name: fct_9Zx_a-B7, role: admin, sha256: x}]\n",
            "tokens: [{name: a, role: fct_9Zx_a-B7, sha256: x}]\n",
            "tokens: [{name: a, role: admin, sha256: fct_9Zx_a-B7}]\n",
            "tokens: [{name: a, role: admin, sha256: x, expires: fct_9Zx_a-B7}]\n",
            "tokens: [{name: a, role: admin, sha256: x, jobs: ['fct_9Zx_a-B7 x']}]\n",
            "tokens: [{name: a, fct_9Zx_a-B7: admin}]\n",
            "proxy: {trust_from: [fct_9Zx_a-B7], user: 'fct_9Zx_a-B7 ', roles: {fct_9Zx_a-B7: viewer}}\n",
            "clients: {roles: {a: fct_9Zx_a-B7}}\n",
            "clients: {roles: {a: viewer}, ca: fct_9Zx_a-B7}\n",
            "tokens: *fct_9Zx_a-B7\n",
            "tokens: !fct_9Zx_a-B7 x\n",
            "tokens: ${fct_9Zx_a-B7}\n",
            "tokens: \"fct_9Zx_a-B7\n",
        ] {
            let problems = read(text.as_bytes()).unwrap_err();
            let all = format!("{problems} {problems:?} {}", serde_json::to_string(&problems).unwrap());
            assert!(!all.contains("9Zx") && !all.contains("B7"), "{text}: {all}");
        }
        assert_eq!(hide_tokens("`fct_a` and `fct_b-_c`: fct"), "`fct_…` and `fct_…`: fct");
    }

    #[test]
    fn what_would_let_everyone_in_is_refused() {
        let proxy = |from: &str| format!("proxy: {{user: X-User, roles: {{a: admin}}{from}}}\n");
        assert!(wrong(&proxy(""))[0].contains("needs `trust_from`"));
        assert!(wrong(&proxy(", trust_from: [0.0.0.0/0]"))[0].contains("is every address"));
        assert!(wrong(&proxy(", trust_from: ['::/0']"))[0].contains("is every address"));
        let token = |more: &str| format!("tokens: [{{name: a, role: admin, sha256: {SUM}{more}}}]\n");
        assert!(wrong(&token(", jobs: []"))[0].contains("found 0"));
        assert!(wrong(&token(", jobs: ['a b']"))[0].contains("not a pattern"));
        assert!(wrong(&token(", expires: soon"))[0].contains("not a day or an instant"));
        assert!(wrong("")[0].contains("the file is empty"));
    }

    #[test]
    fn a_star_stands_for_any_text_and_nothing_else_does() {
        for (pattern, text, is_one) in [
            ("*", "", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a.c", "abc", false),
            ("abc", "abcd", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "xab", false),
        ] {
            assert_eq!(matches(pattern, text), is_one, "{pattern} {text}");
        }
    }

    #[test]
    fn a_network_has_its_addresses_in_either_spelling() {
        let network = Network::parse("10.1.0.0/16").unwrap();
        for (address, is_in) in [("10.1.2.3", true), ("10.2.0.1", false), ("::ffff:10.1.2.3", true), ("::1", false)] {
            assert_eq!(network.contains(address.parse().unwrap()), is_in, "{address}");
        }
        for mapped in ["::ffff:10.1.0.0/112", "::ffff:a01:0/112"] {
            assert_eq!(Network::parse(mapped), Ok(network), "{mapped}");
        }
        let one = Network::parse("::ffff:10.0.0.7").unwrap();
        assert!(one.contains("10.0.0.7".parse().unwrap()) && one.contains("::ffff:10.0.0.7".parse().unwrap()));
        assert!(!one.contains("10.0.0.6".parse().unwrap()));
        assert!(Network::parse("::ffff:0.0.0.0/96").unwrap_err().contains("every address"));
        assert!(Network::parse("::ffff:10.0.0.0/95").is_err());
        assert!(Network::parse("fd00::/8").unwrap().contains("fd12::1".parse().unwrap()));
        assert!(Network::parse("10.0.0.7").unwrap().contains("10.0.0.7".parse().unwrap()));
        assert!(Network::parse("10.0.0.0/33").is_err() && Network::parse("host").is_err());
    }
}
