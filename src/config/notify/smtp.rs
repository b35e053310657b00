//! A channel that sends mails: its server, its addresses, and how it logs in.

use crate::config::http::read_pem;
use crate::config::values::Value;
use crate::config::walk::{Fields, Spot, Walk};
use crate::job::{Smtp, SmtpSecurity};

/// The keys that only this channel has.
pub const KEYS: [&str; 6] = ["from", "to", "user", "password", "starttls", "ca"];

/// The most receivers of a mail.
pub const MAX_RECEIVERS: usize = 20;

/// The ports at which servers take mails: with TLS from the beginning, and others.
const PORT_TLS: u16 = 465;
const PORT: u16 = 587;

/// The longest address, in bytes: RFC 5321.
const ADDRESS_MOST: usize = 254;

/// Reads the channel whose server is at `spot`.
pub fn read(walk: &mut Walk, spot: Spot, fields: &Fields) -> Option<Smtp> {
    let server = walk.known("a server that takes mails, like `smtps://mail.example.org`", spot)?;
    let server = match server_of(&server.text) {
        Ok(server) => Some(server),
        Err(why) => walk.refuse(spot, format!("{} {why}", server.shown())),
    };
    let from = fields.need(walk, "from", spot, "a mail needs a sender: give it a `from`");
    let from = from.and_then(|spot| read_address(walk, spot));
    let to = fields.need(walk, "to", spot, "the mail goes nowhere: give it a `to`");
    let to = to.and_then(|spot| {
        let items = walk.items("an address, or a list of them", &spot)?;
        let count = items.len();
        let read: Vec<String> = items.into_iter().filter_map(|item| read_address(walk, item)).collect();
        Some(read).filter(|read| read.len() == count)
    });
    let user = fields.get("user").and_then(|spot| walk.text(spot));
    let password = fields.get("password").and_then(|spot| walk.text(spot));
    for (given, other) in [("user", "password"), ("password", "user")] {
        if let (Some(spot), None) = (fields.get(given), fields.get(other)) {
            walk.wrong(spot, format!("`{given}` needs a `{other}`"));
        }
    }
    let (host, port, mut security) = server?;
    if let Some(spot) = fields.get("starttls") {
        match (bool::read(walk, spot)?, security) {
            (_, SmtpSecurity::Tls) => walk.wrong(spot, "`smtps:` speaks TLS from the beginning: leave `starttls` out"),
            (true, _) => {}
            (false, _) => {
                security = SmtpSecurity::Plain;
                if let Some(spot) = fields.get("password").filter(|_| !is_here(&host)) {
                    walk.wrong(spot, "this password would be sent in the clear: leave out `starttls: false`");
                }
            }
        }
    }
    let certificates = |spot| read_pem(walk, spot, "-----BEGIN CERTIFICATE-----", "certificate");
    let ca = fields.get("ca").and_then(certificates);
    if let Some(spot) = fields.get("ca").filter(|_| security == SmtpSecurity::Plain) {
        walk.odd(spot, "this does nothing: `starttls: false` speaks no TLS");
    }
    Some(Smtp { host, port, security, from: from?, to: to?, login: user.zip(password), ca })
}

/// Whether this is the machine itself.
fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn server_of(text: &str) -> Result<(String, u16, SmtpSecurity), String> {
    let wanted = "a server is `smtps://HOST`, `smtp://HOST`, or one of them with `:PORT`";
    let url = url::Url::parse(text).map_err(|error| format!("is no server ({error}): {wanted}"))?;
    let (security, usual) = match url.scheme() {
        "smtps" => (SmtpSecurity::Tls, PORT_TLS),
        "smtp" => (SmtpSecurity::StartTls, PORT),
        _ => return Err(format!("is no server: {wanted}")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a name or a password: give these as `user` and `password`".to_owned());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("has something behind its host: {wanted}"));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| format!("names no host: {wanted}"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, url.port().unwrap_or(usual), security))
}

fn read_address(walk: &mut Walk, spot: Spot) -> Option<String> {
    walk.read("an address", spot, |text| {
        if is_address(text) {
            Ok(text.to_owned())
        } else {
            Err("is no address: it is like `ops@example.org`".to_owned())
        }
    })
}

/// Whether this is an address as servers take it, without a name beside it.
fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let parts = |text: &str, may: fn(u8) -> bool| text.split('.').all(|part| !part.is_empty() && part.bytes().all(may));
    let in_local = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let in_domain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    text.len() <= ADDRESS_MOST && local.len() <= 64 && parts(local, in_local) && parts(domain, in_domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};
    use crate::job::{Channel, Text};

    fn read(channel: &str) -> Result<Smtp, Vec<String>> {
        let text = format!("version: 1\nnotify:\n  channels:\n    mail: {channel}\njobs: {{}}\n");
        match parse(&text, &Sources::none()) {
            Ok(config) => match config.notices.channels.get("mail") {
                Some(Channel::Smtp(smtp)) => Ok(smtp.as_ref().clone()),
                other => panic!("{other:?}"),
            },
            Err(problems) => Err(problems.list().iter().map(|problem| problem.message.clone()).collect()),
        }
    }

    const ENDS: &str = "from: fencron@example.org, to: ops@example.org";

    #[test]
    fn a_server_is_reached_by_tls_unless_it_is_said_otherwise() {
        let of = |smtp: &str| {
            let smtp = read(&format!("{{smtp: '{smtp}', {ENDS}}}")).unwrap();
            (smtp.host, smtp.port, smtp.security)
        };
        assert_eq!(of("smtps://mail.example.org"), ("mail.example.org".to_owned(), 465, SmtpSecurity::Tls));
        assert_eq!(of("smtp://mail.example.org"), ("mail.example.org".to_owned(), 587, SmtpSecurity::StartTls));
        assert_eq!(of("smtp://[::1]:25/"), ("::1".to_owned(), 25, SmtpSecurity::StartTls));
        let plain = read(&format!("{{smtp: 'smtp://localhost:25', starttls: false, user: u, password: p, {ENDS}}}"));
        let plain = plain.unwrap();
        assert_eq!((plain.security, plain.login), (SmtpSecurity::Plain, Some((Text::plain("u"), Text::plain("p")))));
        assert_eq!(plain.to, ["ops@example.org"]);
    }

    #[test]
    fn what_is_wrong_with_a_mail_is_said_before_one_is_sent() {
        for (channel, says) in [
            ("{smtp: 'smtps://h'}", "give it a `from`"),
            ("{smtp: 'smtps://h', from: a@b}", "give it a `to`"),
            ("{smtp: 'https://h', from: a@b, to: c@d}", "a server is `smtps://HOST`"),
            ("{smtp: 'smtps://u:p@h', from: a@b, to: c@d}", "give these as `user` and `password`"),
            ("{smtp: 'smtps://h/x', from: a@b, to: c@d}", "has something behind its host"),
            ("{smtp: 'smtps://h', from: 'A <a@b>', to: c@d}", "is no address"),
            ("{smtp: 'smtps://h', from: a@b, to: [c@d, e]}", "is no address"),
            ("{smtp: 'smtps://h', from: a@b, to: c@d, user: u}", "`user` needs a `password`"),
            ("{smtp: 'smtps://h', from: a@b, to: c@d, starttls: false}", "leave `starttls` out"),
            ("{smtp: 'smtp://h', from: a@b, to: c@d, starttls: false, user: u, password: p}", "sent in the clear"),
            ("{slack: 'https://h/', from: a@b}", "it goes with `smtp`"),
        ] {
            let problems = read(channel).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(says)), "{channel}: {problems:?}");
        }
    }
}
