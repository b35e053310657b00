//! Sending one message: a POST, or a program that reads it.

use std::process::Stdio;
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use url::Url;

use super::mail;
use super::payload::{About, Part, parts};
use crate::execute::{even_without_authorities, retry_after};
use crate::fence::header;
use crate::job::{Channel, Heartbeat, Ping, Text, Word as _};
use crate::scheduler::outbox::{Content, Message};
use crate::time::{Wall, written};

/// How long a channel has to take a message.
const WITHIN: Duration = Duration::from_secs(30);

/// How long a service that watches a job has to take a sign of life.
const PING_WITHIN: Duration = Duration::from_secs(10);

/// How much of an answer is shown, in bytes.
const SHOWN_MOST: usize = 400;

/// The longest that a channel can have the next try put off, which it asks for by `Retry-After`.
const PUT_OFF_MOST: Duration = Duration::from_secs(3_600);

/// That a channel did not take a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotTaken {
    pub why: String,
    pub fault: Fault,
    /// How long the receiver asks to be left alone.
    pub after: Option<Duration>,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What is in it: it helps nothing to send it again.
    Message,
    /// The receiver, or the way to it.
    Channel,
}

impl NotTaken {
    pub fn by_channel(why: impl Into<String>) -> NotTaken {
        NotTaken { why: why.into(), fault: Fault::Channel, after: None }
    }
}

/// Sends messages.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Client,
    within: Duration,
}

impl Sender {
    /// # Errors
    ///
    /// Where HTTP cannot be used at all.
    pub fn new() -> Result<Sender, reqwest::Error> {
        let none = reqwest::redirect::Policy::none();
        let client = Client::builder().timeout(WITHIN).redirect(none).referer(false).user_agent("fencron");
        let client = even_without_authorities(client).build()?;
        Ok(Sender { client, within: WITHIN })
    }

    /// The same, whose programs have less time.
    #[cfg(test)]
    pub fn within(self, within: Duration) -> Sender {
        Sender { within, ..self }
    }

    /// Sends a message, and answers what the receiver said.
    ///
    /// # Errors
    ///
    /// Why the receiver did not take it: it may have, where its answer did not come.
    pub async fn send(&self, channel: &Channel, message: &Message, about: &About) -> Result<String, NotTaken> {
        let mut answer = Err(NotTaken::by_channel("there is nothing to send"));
        for part in parts(channel, message, about) {
            answer = self.send_part(channel, message, &part, about).await;
            if answer.is_err() {
                break;
            }
        }
        answer
    }

    /// Sends a part of a message, and answers what the receiver said.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub async fn send_part(
        &self,
        channel: &Channel,
        message: &Message,
        part: &Part,
        about: &About,
    ) -> Result<String, NotTaken> {
        match channel {
            Channel::Exec(words) => tokio::time::timeout(self.within, exec(words, message, &part.body))
                .await
                .unwrap_or_else(|_| Err(format!("the program did not end in {}", written(self.within))))
                .map_err(NotTaken::by_channel),
            Channel::Smtp(smtp) => tokio::time::timeout(self.within, mail::send(smtp, message, about, self.within))
                .await
                .unwrap_or_else(|_| {
                    let (place, within) = (mail::place(smtp), written(self.within));
                    Err(NotTaken::by_channel(format!("no answer from {place} in {within}")))
                }),
            Channel::Slack { url } | Channel::Pagerduty { url, .. } => self.post(url, &[], part).await,
            Channel::Webhook { url, headers, .. } => self.post(url, headers, part).await,
            Channel::Alertmanager { url, headers } => {
                let url = format!("{}/api/v2/alerts", url.expose().trim_end_matches('/'));
                self.post(&Text::secret(url), headers, part).await
            }
        }
    }

    async fn post(&self, url: &Text, headers: &[(String, Text)], part: &Part) -> Result<String, NotTaken> {
        let mut request = self.client.post(url.expose()).header(CONTENT_TYPE, "application/json");
        for (name, text) in headers {
            let (name, value) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(text.expose()));
            let (Ok(name), Ok(mut value)) = (name, value) else { continue };
            value.set_sensitive(text.is_secret());
            request = request.header(name, value);
        }
        let request = request.header(header::IDEMPOTENCY_KEY, &part.id).body(part.body.to_string());
        answered(request).await
    }

    /// Sends a sign of life of a run.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub async fn ping(&self, ping: &Ping) -> Result<(), NotTaken> {
        let url = url_of(ping).map_err(NotTaken::by_channel)?;
        let request = self.client.post(url).header(CONTENT_TYPE, "text/plain; charset=utf-8");
        answered(request.body(ping.what.clone()).timeout(PING_WITHIN)).await.map(drop)
    }

    /// Makes the request of a heartbeat.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub async fn beat(&self, heartbeat: &Heartbeat, about: &About) -> Result<(), NotTaken> {
        let About { namespace, node, fence, now, .. } = about;
        let body = json!({ "namespace": namespace, "node": node, "fence": fence, "at": now });
        let request = self.client.post(heartbeat.url.expose()).header(CONTENT_TYPE, "application/json");
        answered(request.body(body.to_string())).await.map(drop)
    }
}

/// The URL of a job with the sign behind its path.
fn url_of(ping: &Ping) -> Result<Url, String> {
    let mut url = Url::parse(ping.url.expose()).map_err(|error| format!("its URL is none: {error}"))?;
    if !ping.sign.path().is_empty() {
        let path = format!("{}{}", url.path().trim_end_matches('/'), ping.sign.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// What the receiver answers; only a status of 2xx says that it took the message.
async fn answered(request: RequestBuilder) -> Result<String, NotTaken> {
    let answer = request.send().await.map_err(unreached);
    let mut answer = answer.map_err(NotTaken::by_channel)?;
    let (status, mut shown) = (answer.status(), Vec::new());
    // Without a time of its own, a date is compared with that of the answer alone.
    let after = retry_after(answer.headers(), Wall::MAX).map(|after| after.min(PUT_OFF_MOST));
    while let Ok(Some(chunk)) = answer.chunk().await {
        shown.extend_from_slice(&chunk);
        if shown.len() >= SHOWN_MOST {
            shown.truncate(SHOWN_MOST);
            break;
        }
    }
    let said = format!("{status}: {}", String::from_utf8_lossy(&shown).trim());
    let said = said.trim_end_matches([':', ' ']).to_owned();
    if status.is_success() {
        return Ok(said);
    }
    Err(NotTaken { why: format!("it answers {said}"), fault: fault_of(status), after })
}

/// What a status other than 2xx says of a message: only these are about what is in it. An address or a secret that is
/// wrong is the channel's fault, and a person can mend it; a conflict is over some time later.
fn fault_of(status: StatusCode) -> Fault {
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::LENGTH_REQUIRED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Fault::Message,
        _ => Fault::Channel,
    }
}

/// Why there is no answer. The URL may hold a secret behind its host.
fn unreached(error: reqwest::Error) -> String {
    let place = error.url().and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    let words = in_words(&error.without_url());
    place.map_or_else(|| words.clone(), |place| format!("{place}: {words}"))
}

fn in_words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

/// The programs of a channel, until the first of them has ended: dropped before that, all of them are killed.
#[cfg(unix)]
struct Group(Option<nix::unistd::Pid>);

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        // It was not waited for, so the number is still that of its group.
        if let Some(group) = self.0.take() {
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).ok();
        }
    }
}

/// Has a program read the message. Its exit code 0 says that it took the message.
async fn exec(words: &[Text], message: &Message, body: &Value) -> Result<String, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("there is no program".to_owned()) };
    let mut command = Command::new(program.expose());
    command.args(arguments.iter().map(Text::expose)).env("FENCRON_ALERT_ID", &message.id);
    if let Content::Alert(alert) = &message.content {
        command.env("FENCRON_ALERT_JOB", alert.job.as_str()).env("FENCRON_ALERT_RUN_ID", alert.run.as_str());
    }
    let kind = match &message.content {
        Content::Alert(alert) => alert.kind.word(),
        Content::Trouble(trouble) => trouble.kind(),
        Content::Summary(_) => "summary",
    };
    command.env("FENCRON_ALERT_KIND", kind);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    // Behind the child, so as to be dropped before it.
    #[cfg(unix)]
    let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).map(nix::unistd::Pid::from_raw));
    if let Some(mut input) = child.stdin.take() {
        // A program need not read it.
        if let Err(error) = input.write_all(body.to_string().as_bytes()).await {
            tracing::debug!(%error, "the program of a channel did not read its input");
        }
    }
    let status = child.wait().await.map_err(|error| format!("`{program}` was lost: {error}"))?;
    #[cfg(unix)]
    {
        group.0 = None;
    }
    if status.success() { Ok(status.to_string()) } else { Err(format!("`{program}` ended with {status}")) }
}
