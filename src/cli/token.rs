//! `fencron token new`: a token for the listeners of nodes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::terminal::Terminal;
use super::{Exit, Failure};
use crate::config::auth::{MAX_PATTERNS, Patterns, Role, TOKEN_BEGINS, read_expiry};
use crate::job::{Word as _, words};
use crate::time::{Clock, Wall};

/// How many random bytes are in a token, and in its public part.
const SECRET_BYTES: usize = 32;
const ID_BYTES: usize = 4;

#[derive(Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token, print it once, and print the row for the file of `run --auth`
    #[command(after_help = "Example: fencron token new --name ci --role operator --jobs deploy-* --expires 2027-06-01")]
    New(NewArgs),
}

#[derive(Args)]
struct NewArgs {
    /// What the token is called in logs
    #[arg(long, value_parser = crate::cli::run::node_name)]
    name: String,
    /// What its bearer may do; each role may do all that the roles before it may do
    #[arg(long, value_parser = PossibleValuesParser::new(words::<Role>()).map(|word| role(&word)))]
    role: Role,
    /// The jobs that it is narrowed to, `*` for any text; may be repeated [default: all jobs]
    #[arg(long, value_name = "GLOB")]
    jobs: Vec<String>,
    /// From when on it is refused: a day (in UTC) or an instant
    #[arg(long, value_name = "DATE", value_parser = |text: &str| read_expiry(text).map_err(|why| format!("it {why}")))]
    expires: Option<Wall>,
}

fn role(word: &str) -> Role {
    Role::named(word).expect("clap lets only the words of roles pass")
}

/// A token that was made.
#[derive(Serialize)]
struct Made {
    token: String,
    /// As the file of `--auth` has it.
    row: serde_json::Value,
}

pub(super) fn run(args: TokenArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let TokenCommand::New(args) = args.command;
    if args.expires.is_some_and(|expires| expires <= Clock::system().wall()) {
        return Err(Failure::wrong("--expires: that is in the past, and the token would be refused at once").into());
    }
    if args.jobs.len() > MAX_PATTERNS {
        return Err(Failure::wrong(format!("--jobs: a token has at most {MAX_PATTERNS} patterns")).into());
    }
    for pattern in &args.jobs {
        Patterns::new(vec![pattern.clone()]).map_err(|why| Failure::wrong(format!("--jobs: `{pattern}` {why}")))?;
    }
    let made = make(&args)?;
    terminal.show(&made, text)?;
    Ok(Exit::Done)
}

fn make(args: &NewArgs) -> anyhow::Result<Made> {
    let mut random = [0; ID_BYTES + SECRET_BYTES];
    let filled = SystemRandom::new().fill(&mut random);
    filled.map_err(|_| Failure::new(Exit::Failed, "this machine has no random numbers for a token"))?;
    let (id, secret) = random.split_at(ID_BYTES);
    let token = format!("{TOKEN_BEGINS}{}_{}", hex(id), URL_SAFE_NO_PAD.encode(secret));
    let mut row = json!({"name": args.name, "role": args.role.word(), "sha256": hex(&Sha256::digest(&token))});
    if !args.jobs.is_empty() {
        row["jobs"] = json!(args.jobs);
    }
    if let Some(expires) = args.expires {
        row["expires"] = json!(expires);
    }
    Ok(Made { token, row })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON on one line is YAML: what is printed can be pasted.
fn text(made: &Made) -> String {
    format!(
        "{}\n\n# This token is shown once. The row below belongs under `tokens:` in the file of `run --auth`.\n  - {}\n",
        made.token, made.row
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::auth;

    #[test]
    fn what_is_printed_is_a_row_that_lets_the_token_in() {
        let args = NewArgs {
            name: "ci".to_owned(),
            role: Role::Operator,
            jobs: vec!["deploy-*".to_owned()],
            expires: Some("2027-06-01T00:00:00Z".parse().unwrap()),
        };
        let made = make(&args).unwrap();
        let printed = text(&made);
        let rules = auth::read(format!("tokens:\n{}", printed.split_once("auth`.\n").unwrap().1).as_bytes()).unwrap();
        let rule = &rules.tokens[0];
        assert_eq!(rule.sha256, <[u8; 32]>::from(Sha256::digest(&made.token)));
        assert_eq!((rule.name.as_str(), rule.role, rule.expires), ("ci", Role::Operator, args.expires));
        assert_eq!(rule.jobs.as_ref().unwrap().list(), ["deploy-*"]);
        let secret = made.token.rsplit_once('_').map(|_| made.token.splitn(3, '_').nth(2).unwrap()).unwrap();
        assert_eq!((made.token.starts_with("fct_"), secret.len()), (true, 43));
        assert_ne!(make(&args).unwrap().token, made.token);
    }
}
