//! Drafts as the text of a jobs file.

use std::fmt::Write as _;

use super::draft::{Draft, Mail, Value};

const HEAD: &str = "\
# Written by `fencron import`. Look at each job before it is switched on: the report of the import says what is different
# here, and the comments repeat it.
";

const HELD: &str = "\
# No job is due until `enabled: false` is taken out: switch each off in its source first, so that it does not run twice.
";

/// How wide a comment is, without its indentation.
const COMMENT_WIDTH: usize = 110;

const MAILS: &str = "\
# Mails, as cron sends them, but only when runs have ended badly or a job has recovered. Name your mail server and a sender
# that it takes, and try it with `fencron notify test CHANNEL`.
";

/// How many channels a file may have.
pub(super) const CHANNELS_MOST: usize = 8;

/// What mails of several receivers there are: each is a channel.
pub(super) fn mails(drafts: &[Draft]) -> Vec<&Mail> {
    let mut mails: Vec<&Mail> = Vec::new();
    for mail in drafts.iter().filter_map(|draft| draft.mail.as_ref()).filter(|mail| !mail.to.is_empty()) {
        if !mails.contains(&mail) {
            mails.push(mail);
        }
    }
    mails
}

fn channel(index: usize) -> String {
    if index == 0 { "mail".to_owned() } else { format!("mail-{}", index + 1) }
}

fn channels(out: &mut String, mails: &[&Mail]) {
    if mails.is_empty() {
        return;
    }
    out.push_str(MAILS);
    out.push_str("notify:\n  channels:\n");
    for (index, mail) in mails.iter().enumerate() {
        let (to, from) = (mail.to.join(", "), mail.from.as_deref().unwrap_or("fencron@localhost"));
        writeln!(out, "    {}:", channel(index)).ok();
        writeln!(out, "      smtp: \"smtp://localhost:25\"\n      starttls: false").ok();
        writeln!(out, "      from: {}\n      to: [{to}]", quoted(from)).ok();
    }
    out.push('\n');
}

/// The whole file. `refused` is what is not in it.
pub(super) fn file(drafts: &[Draft], active: bool, refused: &[String]) -> String {
    let mut out = String::from(HEAD);
    if !active {
        out += HELD;
    }
    if !refused.is_empty() {
        out += "#\n# Not in it:\n";
        refused.iter().for_each(|line| comment(&mut out, "", line));
    }
    out += "\nversion: 1\n";
    if drafts.is_empty() {
        return out + "jobs: {}\n";
    }
    let mut mails = mails(drafts);
    mails.truncate(CHANNELS_MOST);
    channels(&mut out, &mails);
    out += "jobs:\n";
    for (index, draft) in drafts.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        job(&mut out, draft, (active, &mails));
    }
    out
}

fn job(out: &mut String, draft: &Draft, (active, mails): (bool, &[&Mail])) {
    draft.comments.iter().for_each(|line| comment(out, "  ", line));
    out.push_str("  ");
    out.push_str(&quoted(&draft.name));
    out.push_str(":\n");
    draft.remarks.iter().for_each(|line| comment(out, "    ", &format!("differs: {line}")));
    for (key, value) in &draft.keys {
        entry(out, 4, key, value);
    }
    match draft.mail.as_ref() {
        Some(mail) if mail.to.is_empty() && !mails.is_empty() => out.push_str("    notify: off\n"),
        Some(mail) => {
            if let Some(index) = mails.iter().position(|known| *known == mail) {
                writeln!(out, "    notify: {}", channel(index)).ok();
            }
        }
        None => {}
    }
    if !active || draft.held {
        out.push_str("    enabled: false\n");
    }
}

fn entry(out: &mut String, indent: usize, key: &str, value: &Value) {
    write!(out, "{:indent$}{}:", "", quoted(key)).ok();
    match value {
        // Most of them need quotes, and those that do not look better beside them.
        Value::Text(text) if key == "schedule" => {
            writeln!(out, " {}", escaped(text)).ok();
        }
        Value::Text(text) => scalar(out, indent, &text.replace("${", "$${")),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| quoted_item(&item.replace("${", "$${"))).collect();
            writeln!(out, " [{}]", items.join(", ")).ok();
        }
        Value::Map(entries) => {
            out.push('\n');
            for (key, value) in entries {
                entry(out, indent + 2, key, value);
            }
        }
    }
}

fn scalar(out: &mut String, indent: usize, text: &str) {
    if !is_block(text) {
        writeln!(out, " {}", quoted(text)).ok();
        return;
    }
    out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if line.is_empty() {
            out.push('\n');
        } else {
            writeln!(out, "{:width$}{line}", "", width = indent + 2).ok();
        }
    }
}

/// Several lines that can stand as they are.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let is_plain = |c: char| c == '\n' || !must_escape(c);
    body.contains('\n') && !body.starts_with([' ', '\n', '\t']) && !body.ends_with('\n') && body.chars().all(is_plain)
}

/// A text that YAML reads as itself.
pub(super) fn quoted(text: &str) -> String {
    written(text, " _./:@%+=,*-$(){}[]|;&<>'\"!?^~#")
}

/// The same within `[…]`.
fn quoted_item(text: &str) -> String {
    written(text, " _./@%+=*-$;()&<>^~")
}

fn written(text: &str, also: &str) -> String {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    let behind_hyphen = text.strip_prefix('-').unwrap_or(text);
    let begins = behind_hyphen.starts_with(|c: char| c.is_ascii_alphanumeric() || "/._$".contains(c));
    let is_plain = begins
        && !text.ends_with([' ', ':'])
        && text.chars().all(is_fine)
        && !text.contains(": ")
        && !text.contains(" #")
        && !is_null(text);
    if is_plain { text.to_owned() } else { escaped(text) }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn must_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn escaped(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if must_escape(c) => {
                write!(out, "\\u{:04x}", u32::from(c)).ok();
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A comment, broken between words.
fn comment(out: &mut String, indent: &str, text: &str) {
    let text: String = text.chars().map(|c| if must_escape(c) { ' ' } else { c }).collect();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() >= COMMENT_WIDTH {
            writeln!(out, "{indent}# {line}").ok();
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(out, "{}", format!("{indent}# {line}").trim_end()).ok();
}
