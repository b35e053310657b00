//! Rules of the project that no other tool checks, held by a test.
//!
//! What clippy can check by type stands in `clippy.toml` and in `[lints]` of `Cargo.toml` instead. The scan here is of
//! text: [`Source`] blanks comments, literals and test code, and the rules look at what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// From the bottom up. A module may use those of the rows above it in this table (below it in the architecture).
const LAYERS: &[&[&str]] = &[
    &["fence", "time", "threads", "listen", "tls"],
    &["job", "schedule", "config", "scheduler", "store"],
    &["lock", "ledger", "execute", "guard", "import"],
    &["elected", "once", "board", "metrics", "traces"],
    &["node", "notify"],
    &["jobs", "page"],
    &["client", "api"],
    &["cli"],
];

/// Which modules may use others of their own layer.
const BESIDE: &[(&str, &[&str])] = &[
    ("fence", &["time"]),
    ("job", &["schedule"]),
    ("config", &["job", "schedule"]),
    ("scheduler", &["job", "schedule"]),
    ("ledger", &["lock"]),
    ("execute", &["guard", "lock"]),
];

/// Decide without a clock, a store or a runtime, so that a test can move time by hand.
const PURE: &[&str] = &[
    "job",
    "schedule",
    "config",
    "scheduler",
    "lock::lease",
    "lock::candidacy",
    "board",
    "import",
    "cli::drill::judge",
];

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "common", "misc"];

/// Words that made sentences hard to read and came back, each with those of the field. They are looked for in the modules
/// and the documents, as words of their own: neither in the names of tests nor in code that a document quotes.
const WORDS: &[(&str, &str)] = &[
    ("told", "receives, learns, is notified, is asked to"),
    ("tell", "report, notify, show, distinguish"),
    ("tells", "reports, notifies, shows, distinguishes"),
    ("whoever", "the caller, the holder, the waiter, the next process"),
    ("whom", "the one that"),
    ("somebody", "a process, a person, an operator"),
    ("nobody", "no process, no caller; it is unknown"),
    ("anybody", "a process, a person, an operator"),
    ("everybody", "all callers, all nodes"),
    ("heard of", "seen, known"),
    ("is to be", "has to be, must be"),
    ("are to be", "have to be, must be"),
    ("the lead", "the leadership"),
    ("taken for", "counted as, confused with"),
    ("goes by", "uses, relies on"),
    ("go by", "use, rely on"),
];

/// rustfmt holds code to 120; a comment or a message may end a word later.
const MAX_WIDTH: usize = 124;

/// Of a file in `src`, its tests not counted.
const MAX_LINES: usize = 800;

#[test]
fn imports_go_down_only() {
    check(imports);
}

#[test]
fn the_pure_core_knows_no_runtime_no_store_and_no_clock() {
    check(purity);
}

#[test]
fn only_the_time_module_reads_clocks() {
    check(clocks);
}

#[test]
fn files_are_of_a_size_to_read_and_named_for_what_they_hold() {
    check(shape);
}

#[test]
fn the_words_are_those_of_the_field() {
    check(words);
}

#[test]
fn links_between_documents_resolve() {
    check(links);
}

#[test]
fn tests_that_documents_name_exist() {
    check(named_tests);
}

#[test]
fn decisions_are_numbered_uniquely() {
    check(decisions);
}

/// The text files that the rules are about, by their path from the top of the repository.
type Tree = BTreeMap<String, String>;

/// What breaks a rule: path, line (from 1) and what is wrong.
type Findings = Vec<(String, usize, String)>;

fn check(rule: fn(&Tree) -> Findings) {
    let tree = repository();
    assert!(tree.contains_key("src/lib.rs") && tree.contains_key("tests/tidy.rs"), "looked in the wrong place");
    let mut report = String::new();
    for (path, line, problem) in rule(&tree) {
        writeln!(report, "{path}:{line}: {problem}").expect("a String takes all that is written");
    }
    assert!(report.is_empty(), "\n{report}");
}

fn repository() -> Tree {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    let mut rest: Vec<_> = ["src", "tests", "benches", "examples", "docs", "deploy"].map(|dir| top.join(dir)).into();
    rest.extend(
        fs::read_dir(top).expect("readable").map(|entry| entry.expect("readable").path()).filter(|p| p.is_file()),
    );
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            let name = path.strip_prefix(top).expect("found below it").to_str().expect("our names are ASCII");
            tree.insert(name.to_owned(), fs::read_to_string(&path).expect("readable"));
        }
    }
    tree
}

fn imports(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, source) in modules(tree) {
        let Some(layer) = layer_of(source.top()) else {
            findings.push((path, 1, format!("`{}` is in no layer of tests/tidy.rs", source.top())));
            continue;
        };
        for (line, used) in source.paths("crate") {
            let used = used.split("::").nth(1).unwrap_or_default();
            let beside = BESIDE.iter().any(|(module, others)| *module == source.top() && others.contains(&used));
            let allowed = used == source.top() || beside || layer_of(used).is_none_or(|below| below < layer);
            if !allowed {
                findings.push((
                    path.clone(),
                    line,
                    format!("`{}` may not use `{used}`: imports go down", source.top()),
                ));
            }
        }
        for (line, _) in source.places("super::super") {
            findings.push((path.clone(), line, "`super::super` hides where it leads: write `crate::`".to_owned()));
        }
    }
    findings
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn purity(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let pure = |name: &str| PURE.iter().any(|pure| name == *pure || name.starts_with(&format!("{pure}::")));
    for (path, source) in modules(tree).filter(|(_, source)| pure(&source.name)) {
        let stores = source.paths("crate").into_iter().filter(|(_, used)| used.starts_with("crate::store"));
        let words = ["tokio", "async", "await", "Clock", "nix"];
        let words = words.iter().flat_map(|word| source.places(word));
        for (line, used) in stores.chain(words) {
            findings.push((path.clone(), line, format!("`{used}` in the pure core")));
        }
    }
    findings
}

fn clocks(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, source) in modules(tree).filter(|(_, source)| source.name != "time") {
        let std = source.paths("std").into_iter();
        let std = std.filter(|(_, used)| ["std::time::Instant", "std::time::SystemTime"].contains(&used.as_str()));
        let calls = ["Utc::now", "Local::now", "SystemTime::now", "clock_gettime"];
        let calls = calls.iter().flat_map(|call| source.places(call));
        for (line, used) in std.chain(calls) {
            findings.push((path.clone(), line, format!("`{used}`: only src/time.rs reads clocks, take a `Clock`")));
        }
    }
    findings
}

fn shape(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        if let Some(name) = path.split(['/', '.']).find(|part| EMPTY_NAMES.contains(part)) {
            findings.push((path.clone(), 1, format!("`{name}` says nothing about what is in it")));
        }
        for (index, line) in text.lines().enumerate() {
            // Neither a link nor the row of a table in a comment can go on in the next line.
            let is_whole = line.contains("://") || line.trim_start_matches(['/', '!', ' ']).starts_with('|');
            if line.chars().count() > MAX_WIDTH && !is_whole {
                findings.push((path.clone(), index + 1, format!("wider than {MAX_WIDTH} characters")));
            }
            if ["TODO", "FIXME"].iter().any(|word| line.contains(&format!("// {word}"))) {
                findings.push((path.clone(), index + 1, "do it, or record it where it will be read".to_owned()));
            }
        }
        let lines = Source::new(path, text).lines;
        if path.starts_with("src/") && lines > MAX_LINES {
            findings.push((path.clone(), 1, format!("{lines} lines without tests: more than {MAX_LINES}")));
        }
    }
    findings
}

fn words(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    for (path, line, prose) in tree.iter().flat_map(|(path, text)| prose(path, text)) {
        let prose = prose.to_lowercase();
        for (word, better) in WORDS {
            let mut places = prose.match_indices(word);
            let is_alone =
                |at: usize| !prose[..at].ends_with(is_part) && !prose[at + word.len()..].starts_with(is_part);
            if places.any(|(at, _)| is_alone(at)) {
                findings.push((path.to_owned(), line, format!("`{word}`: write {better}")));
            }
        }
    }
    findings
}

/// The lines that a person reads: of a module without its tests, of a document without the code that it quotes.
fn prose<'a>(path: &'a str, text: &str) -> Vec<(&'a str, usize, String)> {
    let is_module = path.starts_with("src/") && path.ends_with(".rs") && !path.contains("/tests");
    let is_document = path == "README.md" || path.starts_with("docs/");
    let lines: Vec<String> = if is_module {
        // A mark behind each line shows which lines are left when the tests are taken out.
        const KEPT: &str = "\u{1}";
        let code: String = without_literals(text).lines().map(|line| format!("{line}{KEPT}\n")).collect();
        let kept = without_tests(&code).0;
        let lines = text.lines().zip(kept.lines());
        lines.map(|(line, kept)| if kept.ends_with(KEPT) { line.to_owned() } else { String::new() }).collect()
    } else if is_document {
        let mut fenced = false;
        let without_spans = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let line = |line: &str| {
            fenced ^= line.trim_start().starts_with("```");
            if fenced { String::new() } else { without_spans(line) }
        };
        text.lines().map(line).collect()
    } else {
        Vec::new()
    };
    lines.into_iter().enumerate().map(|(index, line)| (path, index + 1, line)).collect()
}

fn links(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".md")) {
        let mut fenced = false;
        for (index, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            for target in line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
                if !fenced && !resolves(tree, path, target) {
                    findings.push((path.clone(), index + 1, format!("`{target}` leads nowhere")));
                }
            }
        }
    }
    findings
}

fn resolves(tree: &Tree, from: &str, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let mut parts: Vec<_> = from.split('/').collect();
    if !file.is_empty() {
        parts.pop();
    }
    for part in file.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part != ".." {
            parts.push(part);
        } else if parts.pop().is_none() {
            return false;
        }
    }
    let path = parts.join("/");
    match tree.get(&path) {
        Some(text) => heading.is_empty() || text.lines().any(|line| line.starts_with('#') && slug(line) == heading),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(),
    }
}

/// What GitHub makes of a heading in a link.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// A document names a test as `a_fact_in_many_words`: with more underscores than any setting has.
fn named_tests(tree: &Tree) -> Findings {
    const UNDERSCORES: usize = 3;
    // How the names of metrics begin: a test sees to it that those exist.
    const METRICS: [&str; 2] = ["fencron_", "etcd_"];
    let is_name = |text: &&str| {
        !METRICS.iter().any(|begins| text.starts_with(begins))
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let mut findings = Findings::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (index, line) in text.lines().enumerate() {
            let quoted = line.split('`').skip(1).step_by(2).filter(is_name);
            for test in quoted.filter(|text| text.matches('_').count() >= UNDERSCORES) {
                let defined = format!("fn {test}(");
                if !tree.iter().any(|(path, source)| path.ends_with(".rs") && source.contains(&defined)) {
                    findings.push((path.clone(), index + 1, format!("there is no test `{test}`")));
                }
            }
        }
    }
    findings
}

fn decisions(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let mut numbers = BTreeSet::new();
    for path in tree.keys() {
        let Some(name) = path.strip_prefix("docs/decisions/") else { continue };
        let number = name.split_once('-').map(|(number, _)| number).unwrap_or_default();
        if number.len() != 4 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            findings.push((path.clone(), 1, "a decision is named NNNN-title.md".to_owned()));
        } else if !numbers.insert(number) {
            findings.push((path.clone(), 1, format!("there are two decisions {number}")));
        }
    }
    findings
}

/// The modules of the library, without those that hold tests, and without its root, which declares them.
fn modules(tree: &Tree) -> impl Iterator<Item = (String, Source)> {
    let ours = tree.iter().filter(|(path, _)| path.starts_with("src/") && path.ends_with(".rs"));
    let ours = ours.filter(|(path, _)| !["src/lib.rs", "src/main.rs"].contains(&path.as_str()));
    let ours = ours.map(|(path, text)| (path.clone(), Source::new(path, text)));
    ours.filter(|(_, source)| !source.name.split("::").any(|part| part == "tests"))
}

/// A source file as the rules see it.
struct Source {
    /// `lock::lease` for `src/lock/lease.rs`.
    name: String,
    /// With spaces for comments, literals and test code; every line stays where it was.
    code: String,
    /// How many lines are not test code.
    lines: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let name = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        let (code, tests) = without_tests(&without_literals(text));
        Source { name, code, lines: text.lines().count() - tests }
    }

    fn top(&self) -> &str {
        self.name.split("::").next().unwrap_or_default()
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Where `word` stands by itself, with its line.
    fn places(&self, word: &str) -> Vec<(usize, String)> {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let alone = |at: &usize| !self.code[..*at].ends_with(part) && !self.code[at + word.len()..].starts_with(part);
        let found = self.code.match_indices(word).map(|(at, _)| at).filter(alone);
        found.map(|at| (self.line(at), word.to_owned())).collect()
    }

    /// Every path that begins at `root`, groups spelled out: `crate::{a, b::C}` is `crate::a` and `crate::b::C`.
    fn paths(&self, root: &str) -> Vec<(usize, String)> {
        let start = format!("{root}::");
        let mut paths = Vec::new();
        for (at, _) in self.code.match_indices(&start) {
            if !self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                let mut spelled = Vec::new();
                spell_out(root, &self.code[at + start.len()..], &mut spelled);
                paths.extend(spelled.into_iter().map(|path| (self.line(at), path)));
            }
        }
        paths
    }
}

/// Reads what follows `prefix::` and puts every path that it names into `paths`; answers what it left unread.
fn spell_out<'a>(prefix: &str, text: &'a str, paths: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = group.trim_start_matches([' ', '\n', ',']);
            match group.strip_prefix('}') {
                Some(rest) => return rest,
                None if group.is_empty() => return group,
                None => {
                    let rest = spell_out(prefix, group, paths);
                    group = rest.find([',', '}']).map_or("", |end| &rest[end..]);
                }
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match rest.strip_prefix("::") {
        Some(deeper) if !name.is_empty() => spell_out(&format!("{prefix}::{name}"), deeper, paths),
        _ => {
            paths.push(format!("{prefix}::{name}"));
            rest
        }
    }
}

/// `text` with spaces for what comments, strings and characters hold. Block comments, which nobody writes here, stay.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal_length(rest, code.chars().next_back());
        let taken = length.unwrap_or(first.len_utf8());
        for c in rest[..taken].chars() {
            code.push(if length.is_some() && c != '\n' { ' ' } else { c });
        }
        rest = &rest[taken..];
    }
    code
}

/// How long the comment or literal is that `rest` begins with, where it begins with one.
fn literal_length(rest: &str, before: Option<char>) -> Option<usize> {
    let until = |skip: usize, end: &str| rest[skip..].find(end).map_or(rest.len(), |at| skip + at + end.len());
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if let Some(text) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = text.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        return Some(end.map_or(rest.len(), |at| at + 2));
    }
    if let Some(raw) = rest.strip_prefix('r').filter(|_| !before.is_some_and(|c| c.is_alphanumeric() || c == '_')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let opens = raw[hashes..].starts_with('"');
        return opens.then(|| until(hashes + 2, &format!("\"{}", "#".repeat(hashes))));
    }
    let quoted = rest.strip_prefix('\'')?;
    match quoted.strip_prefix('\\') {
        Some(_) => Some(until(3, "'")),
        // A lifetime has no closing quote behind its first character.
        None => quoted.chars().next().filter(|c| quoted[c.len_utf8()..].starts_with('\'')).map(|c| c.len_utf8() + 2),
    }
}

/// `code` with spaces for the items under `#[cfg(test)]`, and how many lines these take.
fn without_tests(code: &str) -> (String, usize) {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut lines = 0;
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, item) = rest.split_at(at);
        let mut depth = 0_usize;
        let end = item.char_indices().find(|&(_, c)| {
            depth = if c == '{' { depth + 1 } else { depth.saturating_sub(usize::from(c == '}')) };
            depth == 0 && (c == '}' || c == ';')
        });
        let (test, after) = item.split_at(end.map_or(item.len(), |(at, _)| at + 1));
        kept.push_str(before);
        kept.extend(test.chars().map(|c| if c == '\n' { c } else { ' ' }));
        lines += test.lines().count();
        rest = after;
    }
    kept.push_str(rest);
    (kept, lines)
}

mod the_rules_catch {
    use super::*;

    fn found(rule: fn(&Tree) -> Findings, path: &str, text: &str) -> Vec<usize> {
        let tree = Tree::from([(path.to_owned(), text.to_owned())]);
        rule(&tree).into_iter().map(|(_, line, _)| line).collect()
    }

    #[test]
    fn an_import_that_goes_up() {
        assert_eq!(found(imports, "src/store/etcd.rs", "use crate::fence::Fence;\nuse crate::lock::Lock;\n"), [2]);
        assert_eq!(found(imports, "src/lock.rs", "use crate::{\n    time::{Boot, Wall},\n    node::Node,\n};\n"), [1]);
        assert_eq!(found(imports, "src/lock.rs", "fn f() -> crate::ledger::Run {}"), [1]);
        assert_eq!(found(imports, "src/ledger.rs", "use crate::lock::Lock;"), []);
        assert_eq!(found(imports, "src/store/any.rs", "use super::super::lock::Lock;"), [1]);
        assert_eq!(found(imports, "src/newcomer.rs", ""), [1]);
    }

    #[test]
    fn nothing_in_comments_literals_and_tests() {
        let text = "// crate::node\nconst A: &str = \"crate::node \\\" {\";\nconst B: [char; 2] = ['{', '\\''];\n\
                    fn f<'a>(_: &'a str) {}\n#[cfg(test)]\nmod tests {\n    use crate::node;\n}\nuse crate::api;\n\
                    const C: &str = r#\"crate::node \"quoted\" \"#;\n";
        assert_eq!(found(imports, "src/lock.rs", text), [9]);
    }

    #[test]
    fn a_runtime_a_store_or_a_clock_in_the_core() {
        let text = "use crate::time::{Boot, Wall};\nuse crate::time::{Clock, Wall};\nuse tokio::sync::mpsc;\n";
        assert_eq!(found(purity, "src/lock/lease.rs", text), [3, 2]);
        assert_eq!(found(purity, "src/scheduler.rs", "use crate::{job, store::Store};"), [1]);
        assert_eq!(found(purity, "src/lock/session.rs", text), []);
    }

    #[test]
    fn a_clock_that_is_read_elsewhere() {
        let text = "use std::time::{Duration, Instant};\nuse tokio::time::Instant;\nfn f() { chrono::Utc::now(); }\n";
        assert_eq!(found(clocks, "src/node.rs", text), [1, 3]);
        assert_eq!(found(clocks, "src/time.rs", text), []);
    }

    #[test]
    fn a_file_that_is_too_long_too_wide_or_named_for_nothing() {
        let long = "fn f() {}\n".repeat(MAX_LINES + 1);
        assert_eq!(found(shape, "src/node.rs", &long), [1]);
        let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(found(shape, "src/node.rs", &tested), []);
        assert_eq!(found(shape, "src/node.rs", &format!("\n// {}\n", "é".repeat(MAX_WIDTH))), [2]);
        assert_eq!(found(shape, "tests/common/mod.rs", ""), [1]);
    }

    #[test]
    fn a_word_that_is_hard_to_read() {
        let text = "// Whoever comes.\nfn nobody_comes() -> &'static str {\n    \"it is told\"\n}\n\
                    #[cfg(test)]\nmod tests {\n// Nobody.\n}\n// The leader; nobody.\n";
        assert_eq!(found(words, "src/node.rs", text), [1, 3, 9]);
        assert_eq!(found(words, "src/node/tests.rs", text), []);
        assert_eq!(found(words, "docs/guide.md", "A `nobody` is\ntold.\n```\ntold\n```\ntold_by\n"), [2]);
    }

    #[test]
    fn a_link_that_leads_nowhere() {
        let text = "# A b: c\n[x](Cargo.toml) [y](https://example.org) [z](#a-b-c)\n[no](docs/none.md)\n[no](#a-c)\n";
        assert_eq!(found(links, "README.md", text), [3, 4]);
        assert_eq!(found(links, "docs/guide.md", "[up](../Cargo.toml) [no](Cargo.toml)\n```\n[no](x)\n```\n"), [1]);
    }

    #[test]
    fn a_test_that_a_document_names_and_nobody_wrote() {
        let text = "`at_most_once` and `an_import_that_goes_up`\nby `nobody_wrote_this_one_yet`\n";
        assert_eq!(found(named_tests, "docs/guide.md", text), [1, 2]);
        let source = ("tests/a.rs".to_owned(), "fn an_import_that_goes_up() {".to_owned());
        let tree = [("docs/guide.md".to_owned(), text.to_owned()), source].into();
        assert_eq!(named_tests(&tree).len(), 1);
    }

    #[test]
    fn two_decisions_of_one_number() {
        let names = ["docs/decisions/0001-a.md", "docs/decisions/0001-b.md", "docs/decisions/2-c.md"];
        let tree = names.map(|name| (name.to_owned(), String::new())).into();
        assert_eq!(decisions(&tree).len(), 2);
    }
}
