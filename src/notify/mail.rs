//! An alert as a mail: what it bears, and how it reaches its server.

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use sha2::{Digest as _, Sha256};

use super::payload::{About, text_with_output};
use super::send::{Fault, NotTaken};
use crate::execute::certificates;
use crate::job::{Smtp, SmtpSecurity};
use crate::scheduler::outbox::{Content, Message};

/// The status of a server that finds a mail too large.
const TOO_LARGE: u16 = 552;

/// Sends the message, and answers what the server said.
pub async fn send(smtp: &Smtp, message: &Message, about: &About, within: Duration) -> Result<String, NotTaken> {
    let mail = mail(smtp, message, about).map_err(NotTaken::by_channel)?;
    let transport = transport(smtp, within).await.map_err(NotTaken::by_channel)?;
    let answer = transport.send(mail).await.map_err(|error| {
        let is_too_large = error.status().is_some_and(|status| u16::from(status) == TOO_LARGE);
        let fault = if is_too_large { Fault::Message } else { Fault::Channel };
        NotTaken { why: in_words(&error, smtp), fault, after: None }
    })?;
    let said: Vec<&str> = answer.message().collect();
    Ok(format!("{}: {}", answer.code(), said.join(" ")))
}

/// Why it was not taken. Where the server has said nothing of it, which server that is.
fn in_words(error: &lettre::transport::smtp::Error, smtp: &Smtp) -> String {
    let said = error.to_string();
    let said = match std::error::Error::source(error) {
        // It may be in it already.
        Some(cause) if !said.contains(&cause.to_string()) => format!("{said}: {cause}"),
        _ => said,
    };
    let said = if error.status().is_none() { format!("{}: {said}", place(smtp)) } else { said };
    let has_no_tls = error.is_client() && smtp.security == SmtpSecurity::StartTls && said.contains("STARTTLS");
    let what_to_do =
        if has_no_tls { "; `starttls: false` sends in the clear, for a relay on this machine" } else { "" };
    format!("{said}{what_to_do}")
}

/// The host and the port of the server.
pub fn place(smtp: &Smtp) -> String {
    format!("{}:{}", smtp.host, smtp.port)
}

async fn transport(smtp: &Smtp, within: Duration) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
    let tls = match smtp.security {
        SmtpSecurity::Plain => Tls::None,
        SmtpSecurity::StartTls => Tls::Required(parameters(smtp.clone()).await?),
        SmtpSecurity::Tls => Tls::Wrapper(parameters(smtp.clone()).await?),
    };
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
        .port(smtp.port)
        .timeout(Some(within))
        .tls(tls);
    Ok(match &smtp.login {
        Some((user, password)) => {
            transport.credentials(Credentials::new(user.expose().to_owned(), password.expose().to_owned())).build()
        }
        None => transport.build(),
    })
}

/// Reads the authorities, without keeping a thread of the runtime.
async fn parameters(smtp: Smtp) -> Result<TlsParameters, String> {
    let read = move || {
        let mut parameters = TlsParameters::builder(smtp.host);
        if let Some(ca) = &smtp.ca {
            parameters = parameters.certificate_store(CertificateStore::None);
            for certificate in certificates(ca)? {
                let wrong = |error| format!("the file `{ca}` holds what is no certificate: {error}");
                parameters =
                    parameters.add_root_certificate(Certificate::from_der(certificate.to_vec()).map_err(wrong)?);
            }
        }
        parameters.build().map_err(|error| format!("cannot use TLS: {error}"))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(format!("reading ended: {error}")))
}

/// The same, however often it is made, but for the node that sends it: so a repetition is recognized.
fn mail(smtp: &Smtp, message: &Message, about: &About) -> Result<lettre::Message, String> {
    let text = text_with_output(message, about);
    // A telephone shows the subject and the first lines: these say something else.
    let (subject, rest) = text.split_once('\n').unwrap_or((&*text, &*text));
    let fence = about.fence.map_or(String::new(), |fence| format!(", fence {fence}"));
    let body = format!("{rest}\n\nalert {}\nsent by {}{fence}\n", message.id, about.node);
    let mut mail = lettre::Message::builder()
        .from(mailbox(&smtp.from)?)
        .subject(subject)
        .message_id(Some(id_of(&message.id, smtp, about)))
        .header(ContentType::TEXT_PLAIN);
    if let Ok(since) = u64::try_from(message.since.as_millis()) {
        mail = mail.date(UNIX_EPOCH + Duration::from_millis(since));
    }
    // The alerts of a job are one thread.
    if let Content::Alert(alert) = &message.content {
        mail = mail.references(id_of(alert.job.as_str(), smtp, about));
    }
    for to in &smtp.to {
        mail = mail.to(mailbox(to)?);
    }
    // Programs that answer while their owner is away leave such a mail alone.
    let mail = raw(mail, HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated");
    mail.body(body).map_err(|error| format!("this is no mail: {error}"))
}

fn raw(mail: MessageBuilder, name: HeaderName, value: &str) -> MessageBuilder {
    mail.raw_header(HeaderValue::new(name, value.to_owned()))
}

fn mailbox(address: &str) -> Result<Mailbox, String> {
    let parsed: Result<Address, _> = address.parse();
    parsed.map(|address| Mailbox::new(None, address)).map_err(|error| format!("`{address}` is no address: {error}"))
}

/// The id of a mail, which follows from what it is about in this namespace.
fn id_of(what: &str, smtp: &Smtp, about: &About) -> String {
    let digest = Sha256::digest(format!("{}/{what}", about.namespace));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let domain = smtp.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    format!("<fencron.{hex}@{domain}>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::AlertKind;
    use crate::notify::payload::cases;

    fn smtp() -> Smtp {
        Smtp {
            host: "localhost".to_owned(),
            port: 25,
            security: SmtpSecurity::Plain,
            from: "fencron@example.org".to_owned(),
            to: vec!["ops@example.org".to_owned()],
            login: None,
            ca: None,
        }
    }

    fn head(mail: &lettre::Message, name: &str) -> String {
        let text = String::from_utf8(mail.formatted()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
    }

    #[test]
    fn a_mail_that_is_sent_again_has_the_same_id_and_those_of_a_job_are_a_thread() {
        let of = |kind, about: &About| mail(&smtp(), &cases::message(kind), about).unwrap();
        let about = cases::about();
        let other = About { node: "c".to_owned(), now: about.now.plus(Duration::from_secs(9)), ..about.clone() };
        let (first, again) = (of(AlertKind::Failed, &about), of(AlertKind::Failed, &other));
        let recovered = of(AlertKind::Recovered, &other);
        let ids = [&first, &again, &recovered].map(|mail| head(mail, "Message-ID"));
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2]);
        assert!(ids[0].starts_with("<fencron.") && ids[0].ends_with("@example.org>"), "{}", ids[0]);
        assert_eq!(head(&first, "References"), head(&recovered, "References"));
        assert_eq!(head(&first, "Date"), head(&again, "Date"));
        let elsewhere = About { namespace: "other".to_owned(), ..about };
        assert_ne!(head(&of(AlertKind::Failed, &elsewhere), "Message-ID"), ids[0]);
    }

    #[test]
    fn a_mail_says_the_most_important_first_and_nothing_twice() {
        let about = About { output: "boom".to_owned(), ..cases::about() };
        let mail = mail(&smtp(), &cases::message(AlertKind::Failed), &about).unwrap();
        assert_eq!(head(&mail, "Subject"), "[shop] bill failed, 2 times in a row");
        let whole = String::from_utf8(mail.formatted()).unwrap();
        let (_, body) = whole.split_once("\r\n\r\n").unwrap();
        let lines: Vec<&str> = body.lines().take(4).collect();
        let expected = [
            "<exit> & 3",
            "ran ./bill --all",
            "on node a, ended 1970-01-01T00:00:00Z",
            "run bill@1970-01-01T00:00:00Z",
        ];
        assert_eq!(lines, expected, "{whole}");
        assert!(body.contains("its output ends with:") && !body.contains("in a row"), "{body}");
    }

    #[test]
    fn what_a_job_says_makes_no_header() {
        let mut message = cases::message(AlertKind::Failed);
        if let Content::Alert(alert) = &mut message.content {
            alert.reason = "x\r\nBcc: evil@example.org\r\n\r\nbody".to_owned();
        }
        let about = About { namespace: "a\r\nBcc: evil@example.org".to_owned(), ..cases::about() };
        let text = String::from_utf8(mail(&smtp(), &message, &about).unwrap().formatted()).unwrap();
        let (heads, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!heads.contains("\r\nBcc"), "{heads}");
    }
}
