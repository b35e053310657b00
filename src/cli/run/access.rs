//! Who may look at a node: the options, and the file of rules as it changes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;

use tokio::sync::mpsc;

use crate::api::access::{Access, Hosts, Rules, Settings};
use crate::cli::Failure;
use crate::cli::file::{self, Footprint};
use crate::node::{Beside, Order};

#[derive(Args)]
pub(super) struct AccessArgs {
    /// The file that says who may look at this node; it is read again when it changes. `fencron token new` prints what
    /// belongs in it [default: this machine may read everything, others only the health]
    #[arg(long, value_name = "FILE", env = "FENCRON_AUTH")]
    pub auth: Option<PathBuf>,
    /// Everyone who reaches the listener may read everything, output included
    #[arg(long, env = "FENCRON_INSECURE_READ", value_parser = FalseyValueParser::new(), conflicts_with = "auth")]
    insecure_read: bool,
    /// A further host name by which clients call the listener; may be repeated
    #[arg(long, value_name = "NAME", env = "FENCRON_ALLOWED_HOST", value_delimiter = ',', value_parser = host)]
    allowed_host: Vec<String>,
}

fn host(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_one = !text.is_empty() && text.len() <= 253 && text.chars().all(allowed);
    if is_one { Ok(text.to_owned()) } else { Err("write the name of a host, without a port".to_owned()) }
}

/// The rules of a node, and what reads them again.
pub(super) struct Opened {
    pub access: Access,
    pub watch: Option<Watch>,
}

impl AccessArgs {
    /// Reads the file, where one is named. `advertised` is the HOST:PORT by which others reach the listener.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or says something wrong: a node does not start without the rules that are meant.
    pub fn open(self, advertised: &str, speaks_tls: bool) -> anyhow::Result<Opened> {
        let host = advertised.rsplit_once(':').map_or(advertised, |(host, _)| host).to_owned();
        let hosts = Hosts::new(self.allowed_host.into_iter().chain([host]));
        let settings = Settings { hosts, insecure_read: self.insecure_read };
        let Some(path) = self.auth else { return Ok(Opened { access: Access::new(settings, None), watch: None }) };
        let (rules, files) = rules(&path, speaks_tls);
        let access = Access::new(settings, Some(rules?));
        let watch = Watch { path, files, access: access.clone(), speaks_tls };
        Ok(Opened { access, watch: Some(watch) })
    }

    /// What callers of the listener get, for a person who reads the log.
    pub fn served(&self, listen: SocketAddr) -> &'static str {
        if listen.ip().is_loopback() || self.insecure_read || self.auth.is_some() {
            "the page; /healthz, /readyz, /metrics, /api/v1"
        } else {
            "other machines get only /healthz and /readyz"
        }
    }

    /// Warns of what is probably not meant.
    pub fn warn(&self, listen: SocketAddr) {
        if listen.ip().is_loopback() {
            return;
        }
        if self.insecure_read {
            tracing::warn!("--insecure-read: everyone who reaches {listen} may read everything, output included");
        } else if self.auth.is_none() {
            tracing::warn!(
                "without --auth FILE other machines get only the health at {listen}: `fencron token new` makes a token \
                 and prints what belongs in the file; --insecure-read lets everyone read everything"
            );
        }
    }
}

/// Reads the file of rules, for a listener that speaks TLS or does not.
fn rules(path: &Path, speaks_tls: bool) -> (anyhow::Result<Rules>, Footprint) {
    let (rules, files) = file::rules(path);
    let fit = |rules: Rules| match rules.client_ca {
        Some(_) if !speaks_tls => {
            let path = path.display();
            let why = "no client shows a certificate without TLS: give --tls-cert and --tls-key, or leave `ca` out";
            Err(Failure::wrong(format!("--auth: {path}: clients.ca: {why}")).into())
        }
        _ => Ok(rules),
    };
    (rules.and_then(fit), files)
}

/// Reads the file of rules again when it has changed; what is wrong leaves the old rules in force.
pub(super) struct Watch {
    path: PathBuf,
    files: Footprint,
    access: Access,
    speaks_tls: bool,
}

impl Watch {
    /// Goes on until it is dropped. The node receives what became of the file.
    pub async fn run(self, order: mpsc::Sender<Order>) {
        let Watch { path, files, access, speaks_tls } = self;
        let take = |rules: anyhow::Result<Rules>| {
            let refused = match rules {
                Ok(rules) => {
                    let tokens = rules.tokens.len();
                    access.replace(rules);
                    tracing::info!(tokens, "took new rules of who may look");
                    None
                }
                Err(error) => {
                    log_refusal(&path, &error);
                    Some(error.to_string())
                }
            };
            report(&order, Beside::Auth, refused);
        };
        let again = path.clone();
        file::read_again(files, move || rules(&again, speaks_tls), take).await;
    }
}

/// Has the node report what became of a file that was read again.
pub(super) fn report(order: &mpsc::Sender<Order>, file: Beside, refused: Option<String>) {
    if order.try_send(Order::Read(file, refused)).is_err() {
        tracing::debug!(?file, "the node is busy, or has ended: it does not report what became of the file");
    }
}

fn log_refusal(path: &Path, error: &anyhow::Error) {
    tracing::error!(file = %path.display(), "the rules of who may look are refused, the old ones stay in force:");
    error.to_string().lines().for_each(|line| tracing::error!("{line}"));
}
