//! PURE: scripts that hold their own way back. Of those of goose, sql-migrate and dbmate the part that leads on is taken;
//! those of other tools are known, and refused.

use crate::job::Database;

/// The tool that marks the parts of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Goose,
    SqlMigrate,
    Dbmate,
}

impl Tool {
    /// Its name, its mark before what leads on, and its mark before what leads back.
    fn words(self) -> [&'static str; 3] {
        match self {
            Tool::Goose => ["goose", "-- +goose Up", "-- +goose Down"],
            Tool::SqlMigrate => ["sql-migrate", "-- +migrate Up", "-- +migrate Down"],
            Tool::Dbmate => ["dbmate", "-- migrate:up", "-- migrate:down"],
        }
    }

    pub fn name(self) -> &'static str {
        self.words()[0]
    }

    fn up(self) -> &'static str {
        self.words()[1]
    }

    /// The mark before what is left out.
    pub fn down(self) -> &'static str {
        self.words()[2]
    }
}

/// What of a script is run.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The statements, each where it stands in the script: lines that are left out are empty.
    pub text: String,
    /// The text that shows whether they were changed: the text around them does not.
    pub content: String,
    pub tool: Option<Tool>,
    /// The lines that lead back, the first and the last.
    pub left_out: Option<(usize, usize)>,
    /// The script says that it is not to run in a transaction, in these words.
    pub no_transaction: Option<&'static str>,
}

/// What is wrong with a script: the line, and the message.
pub type Fault = (usize, String);

/// With what statements that hold `;` end where they are marked, in MySQL.
const DELIMITER: &str = "$$fencron$$";

/// What a line says.
enum Mark<'l> {
    Up(Tool, &'l str),
    Down(Tool),
    Begin(Tool),
    End(Tool),
    NoTransaction,
    /// What is so anyway.
    Nothing(Tool),
    /// Of a tool, and not understood.
    Other(Tool, &'l str),
}

/// The part of a script that leads on.
pub fn part(text: &str, kind: Database) -> Result<Part, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(fault) = stranger(text) {
        return Err(fault);
    }
    let has_marks = text.lines().any(|line| matches!(mark(line), Some(Mark::Up(..) | Mark::Down(_))));
    if has_marks {
        return marked(text, kind);
    }
    if let Some(fault) = way_back(text) {
        return Err(fault);
    }
    let no_transaction = text.starts_with(SQLX_NO_TRANSACTION).then_some(SQLX_NO_TRANSACTION);
    Ok(Part { text: text.to_owned(), content: text.to_owned(), tool: None, left_out: None, no_transaction })
}

/// How sqlx has it, at the very beginning.
const SQLX_NO_TRANSACTION: &str = "-- no-transaction";

fn mark(line: &str) -> Option<Mark<'_>> {
    let comment = line.trim().strip_prefix("--")?.trim_start();
    if let Some(rest) = comment.strip_prefix("migrate:") {
        let (word, options) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        return match word {
            "up" => Some(Mark::Up(Tool::Dbmate, options.trim())),
            "down" => Some(Mark::Down(Tool::Dbmate)),
            _ => Some(Mark::Other(Tool::Dbmate, line.trim())),
        };
    }
    let (tool, rest) = match (comment.strip_prefix("+goose"), comment.strip_prefix("+migrate")) {
        (Some(rest), _) => (Tool::Goose, rest),
        (_, Some(rest)) => (Tool::SqlMigrate, rest),
        _ => return None,
    };
    let said = rest.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    Some(match (tool, said.as_str()) {
        (_, "up") => Mark::Up(tool, ""),
        (Tool::SqlMigrate, "up notransaction") => Mark::Up(tool, "transaction:false"),
        (Tool::SqlMigrate, "down notransaction") | (_, "down") => Mark::Down(tool),
        (_, "statementbegin") => Mark::Begin(tool),
        (_, "statementend") => Mark::End(tool),
        (Tool::Goose, "no transaction") => Mark::NoTransaction,
        (Tool::Goose, "envsub off" | "envsubst off") => Mark::Nothing(tool),
        _ => Mark::Other(tool, line.trim()),
    })
}

/// Where in a script one is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Before,
    Up,
    Down,
}

#[derive(Default)]
struct Marked {
    mysql: bool,
    lines: Vec<String>,
    content: Vec<String>,
    tool: Option<Tool>,
    at: At,
    /// The mark of what leads on was there.
    leads_on: bool,
    in_statement: bool,
    left_out: Option<(usize, usize)>,
    no_transaction: Option<&'static str>,
    /// MySQL's delimiter has to be put back, at the next line that is not needed.
    restores: bool,
}

fn marked(text: &str, kind: Database) -> Result<Part, Fault> {
    let mut read = Marked { mysql: kind == Database::Mysql, ..Marked::default() };
    for (line, number) in text.lines().zip(1..) {
        match mark(line) {
            Some(mark) => read.mark(mark, number)?,
            None => read.line(line, number)?,
        }
    }
    let last = text.lines().count();
    if read.in_statement {
        return Err((last, "a `StatementBegin` has no `StatementEnd`".to_owned()));
    }
    let tool = read.tool.expect("only a script with marks is read so");
    if !read.leads_on {
        return Err((last, format!("there is no `{}` in it", tool.up())));
    }
    let content = read.content.join("\n").trim().to_owned();
    let Marked { lines, left_out, no_transaction, .. } = read;
    Ok(Part { text: lines.join("\n") + "\n", content, tool: Some(tool), left_out, no_transaction })
}

impl Marked {
    fn mark(&mut self, mark: Mark<'_>, number: usize) -> Result<(), Fault> {
        let tool = match &mark {
            Mark::Up(tool, _) | Mark::Down(tool) | Mark::Begin(tool) | Mark::End(tool) => *tool,
            Mark::Nothing(tool) | Mark::Other(tool, _) => *tool,
            Mark::NoTransaction => Tool::Goose,
        };
        if *self.tool.get_or_insert(tool) != tool {
            return Err((number, "the marks of two tools are in one script: keep those of one".to_owned()));
        }
        let mut put = String::new();
        match mark {
            Mark::Nothing(_) => {}
            Mark::Up(tool, options) => {
                if self.at == At::Up || (self.at == At::Down && tool != Tool::SqlMigrate) {
                    return Err((number, format!("`{}` is there twice", tool.up())));
                }
                (self.at, self.leads_on) = (At::Up, true);
                self.options(options, number)?;
            }
            Mark::Down(tool) if self.at == At::Before && tool != Tool::SqlMigrate => {
                return Err((number, format!("`{}` comes before `{}`", tool.down(), tool.up())));
            }
            Mark::Down(_) => self.at = At::Down,
            Mark::Begin(_) => {
                self.in_statement = true;
                if self.at == At::Up && self.mysql {
                    put = format!("DELIMITER {DELIMITER}");
                    self.restores = false;
                }
            }
            Mark::End(_) => {
                self.in_statement = false;
                if self.at == At::Up && self.mysql {
                    put = DELIMITER.to_owned();
                    self.restores = true;
                }
            }
            Mark::NoTransaction => self.no_transaction = Some("-- +goose NO TRANSACTION"),
            Mark::Other(tool, line) => {
                let what = "fencron does not know: take it out, or run this script with";
                return Err((number, format!("`{line}` is of {}, and {what} that", tool.name())));
            }
        }
        if self.at == At::Down {
            self.leave_out(number);
        }
        self.put(put);
        Ok(())
    }

    fn options(&mut self, options: &str, number: usize) -> Result<(), Fault> {
        for option in options.split_whitespace() {
            match option {
                "transaction:false" => self.no_transaction = Some("transaction:false"),
                "transaction:true" => {}
                other => return Err((number, format!("the option `{other}` is none that fencron knows: take it out"))),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str, number: usize) -> Result<(), Fault> {
        match self.at {
            At::Before => {
                let idle = line.trim().is_empty() || line.trim_start().starts_with("--");
                if !idle {
                    let up = self.tool.map_or("the mark of what leads on", Tool::up);
                    return Err((number, format!("a statement stands before `{up}`: put it behind that")));
                }
                self.put(String::new());
            }
            At::Up => {
                self.content.push(line.to_owned());
                self.put(line.to_owned());
            }
            At::Down => {
                self.leave_out(number);
                self.put(String::new());
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, number: usize) {
        let first = self.left_out.map_or(number, |(first, _)| first);
        self.left_out = Some((first, number));
    }

    /// The next line of what is run. MySQL's delimiter takes the place of one that is empty; where none comes, a line
    /// of its own.
    fn put(&mut self, line: String) {
        if self.restores && line != DELIMITER {
            self.restores = false;
            self.lines.push("DELIMITER ;".to_owned());
            if line.is_empty() {
                return;
            }
        }
        self.lines.push(line);
    }
}

/// A script of a tool whose marks are known, and mean something that is not done here.
fn stranger(text: &str) -> Option<Fault> {
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        let comment = line.strip_prefix("--").map(str::trim).unwrap_or_default();
        let small = comment.to_ascii_lowercase();
        let tool = match small.as_str() {
            "liquibase formatted sql" => "Liquibase",
            "rambler up" | "rambler down" => "rambler",
            "up migration" | "down migration" => "node-pg-migrate",
            "//@undo" => "MyBatis Migrations",
            "+micrate up" | "+micrate down" => "micrate",
            "==== up ====" | "==== down ====" => "shmig",
            "!ups" | "!downs" | "--- !ups" | "--- !downs" => "Play",
            _ if small.starts_with("liquibase formatted sql") => "Liquibase",
            _ if line.starts_with("---- create above / drop below ----") => "tern",
            _ if line.starts_with("# --- !Ups") || line.starts_with("# --- !Downs") => "Play",
            _ if number == 1 && is_sqitch(comment) => "Sqitch",
            _ => continue,
        };
        let message = format!(
            "this script is one of {tool}: what leads on and what leads back cannot be distinguished here. Take out what \
             leads back, and this line"
        );
        return Some((number, message));
    }
    None
}

/// A comment that says nothing but that what stands below it leads back, whichever tool reads it so.
fn way_back(text: &str) -> Option<Fault> {
    let mut lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()).peekable();
    while let Some((line, number)) = lines.next() {
        let Some(comment) = comment_of(line).filter(|comment| leads_back(comment)) else { continue };
        // Rulers around it are comments too; commented text does no harm.
        while lines
            .next_if(|(line, _)| comment_of(line).is_some_and(|rule| !rule.contains(char::is_alphanumeric)))
            .is_some()
        {}
        if lines.peek().is_some_and(|(line, _)| comment_of(line).is_none()) {
            let message = format!(
                "`{}` says that what stands below it leads back: take that out, and this line. If it does not, say more \
                 in the comment",
                comment.trim()
            );
            return Some((number, message));
        }
    }
    None
}

fn comment_of(line: &str) -> Option<&str> {
    let line = line.trim();
    line.strip_prefix("--").or_else(|| line.strip_prefix('#'))
}

fn leads_back(comment: &str) -> bool {
    const BACK: [&str; 5] = ["down", "undo", "rollback", "revert", "downgrade"];
    const AROUND: [&str; 4] = ["migration", "migrate", "section", "sql"];
    let small = comment.to_ascii_lowercase();
    let words = small.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty() && !AROUND.contains(word));
    let words: Vec<&str> = words.take(2).collect();
    matches!(words.as_slice(), [word] if BACK.contains(word))
}

/// As in `-- Deploy flipr:users to pg`.
fn is_sqitch(comment: &str) -> bool {
    let words: Vec<&str> = comment.split_whitespace().collect();
    matches!(words.as_slice(), ["Deploy", _, "to", _, ..] | ["Revert", _, "from", _, ..] | ["Verify", _, "on", _, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Part {
        part(text, Database::Postgres).unwrap()
    }

    fn fault(text: &str) -> String {
        part(text, Database::Postgres).unwrap_err().1
    }

    #[test]
    fn a_comment_that_only_says_that_it_leads_back_is_not_passed_over() {
        for mark in
            ["-- Down", "-- +down", "-- @down", "--- migration:down", "-- +++ DOWN +++", "# undo", "-- ROLLBACK --"]
        {
            let script = format!("-- Up\nCREATE TABLE a (x int);\n--------\n{mark}\n--------\n\nDROP TABLE a;\n");
            assert!(fault(&script).contains("leads back"), "{mark}");
        }
        for script in [
            "CREATE TABLE a (x int);\n-- Down:\n-- DROP TABLE a;\n",
            "-- the machine is down\nCREATE TABLE a (x int);\n",
            "CREATE TABLE a (x int);\n-- rollback\n",
        ] {
            assert_eq!(of(script).left_out, None, "{script}");
        }
    }

    #[test]
    fn what_leads_back_is_left_out_and_what_stays_keeps_its_line() {
        let goose = "-- users\n\n-- +goose Up\nCREATE TABLE a (x int);\n\n-- +goose Down\nDROP TABLE a;\n";
        let read = of(goose);
        assert_eq!(read.text, "\n\n\nCREATE TABLE a (x int);\n\n\n\n");
        assert_eq!((read.content.as_str(), read.tool), ("CREATE TABLE a (x int);", Some(Tool::Goose)));
        assert_eq!((read.left_out, read.no_transaction), (Some((6, 7)), None));
        for (words, tool) in
            [(["+migrate Up", "+migrate Down"], Tool::SqlMigrate), (["migrate:up", "migrate:down"], Tool::Dbmate)]
        {
            let other = of(&goose.replace("+goose Up", words[0]).replace("+goose Down", words[1]));
            assert_eq!((other.text, other.tool, other.left_out), (of(goose).text, Some(tool), Some((6, 7))));
        }
        assert_eq!(of("SELECT 1;\r\n").tool, None);
    }

    #[test]
    fn marks_are_known_however_they_are_written() {
        for up in ["--+goose Up", "-- +goose up", "  -- +goose  UP \r"] {
            assert_eq!(of(&format!("{up}\nSELECT 1;\n-- +goose DOWN\nDROP TABLE a;")).content, "SELECT 1;", "{up:?}");
        }
        assert_eq!(of("\u{feff}-- +goose Up\nSELECT 1;").content, "SELECT 1;");
        let parts = of("-- +migrate Up\nA;\n-- +migrate Down\nB;\n-- +migrate Up\nC;\n");
        assert_eq!(parts.content, "A;\nC;");
        assert_eq!(
            of("-- +goose Up\nA;\n-- +goose Down\nB;").content,
            of("-- +goose Up\nA;").content,
            "the way back is none of it"
        );
    }

    #[test]
    fn what_is_not_to_be_in_a_transaction_is_known() {
        for text in [
            "-- +goose NO TRANSACTION\n-- +goose Up\nA;",
            "-- +migrate Up notransaction\nA;",
            "-- migrate:up transaction:false\nA;",
            "-- no-transaction\nA;",
        ] {
            assert!(of(text).no_transaction.is_some(), "{text}");
        }
        assert_eq!(of("-- migrate:up transaction:true\nA;").no_transaction, None);
    }

    #[test]
    fn statements_that_hold_a_semicolon_keep_it_in_mysql() {
        let text = "-- +goose Up\n-- +goose StatementBegin\nA; B;\n-- +goose StatementEnd\n\nC;\n\
                    -- +goose StatementBegin\nD;\n-- +goose StatementEnd\n-- +goose Down\nE;\n";
        let mysql = part(text, Database::Mysql).unwrap();
        let lines: Vec<&str> = mysql.text.lines().collect();
        let expected = [
            "",
            "DELIMITER $$fencron$$",
            "A; B;",
            "$$fencron$$",
            "DELIMITER ;",
            "C;",
            "DELIMITER $$fencron$$",
            "D;",
            "$$fencron$$",
            "DELIMITER ;",
            "",
        ];
        assert_eq!(lines, expected);
        assert_eq!(mysql.content, of(text).content, "where it runs says nothing about whether it was changed");
        assert!(!of(text).text.contains("DELIMITER"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, says) in [
            ("-- +goose ENVSUB ON\n-- +goose Up\nA;", "`-- +goose ENVSUB ON` is of goose"),
            ("-- +goose Up\nA;\n-- +goose Up\nB;", "there twice"),
            ("-- +goose Down\nA;\n-- +goose Up\nB;", "comes before"),
            ("A;\n-- migrate:up\nB;", "a statement stands before"),
            ("-- migrate:up\nA;\n-- +goose Down\nB;", "two tools"),
            ("-- migrate:up fast:true\nA;", "`fast:true`"),
            ("-- +goose Up\n-- +goose StatementBegin\nA;", "no `StatementEnd`"),
            ("-- +migrate Down\nA;", "there is no `-- +migrate Up`"),
            ("--liquibase formatted sql\n--changeset a:1\nA;", "Liquibase"),
            ("-- Up Migration\nA;\n-- Down Migration\nB;", "node-pg-migrate"),
            ("A;\n---- create above / drop below ----\nB;", "tern"),
            ("-- rambler up\nA;\n-- rambler down\nB;", "rambler"),
            ("-- Revert shop:users from pg\nDROP TABLE a;", "Sqitch"),
            ("# --- !Ups\nA;\n# --- !Downs\nB;", "Play"),
        ] {
            assert!(fault(text).contains(says), "{text}: {}", fault(text));
        }
    }
}
