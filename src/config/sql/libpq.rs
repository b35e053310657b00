//! The parameters of a PostgreSQL URL, under the names that libpq gives them.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>

use std::time::Duration;

use crate::job::{Binding, Session, WantedServer};

/// What this module reads.
pub const NAMES: [&str; 11] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// What libpq knows and fencron does not do, and what to do about it.
const OTHERS: &[(&[&str], &str)] = &[
    (&["service", "servicefile", "passfile"], "name the server, and give the password by `password: ${file:…}`"),
    (&["sslcrl", "sslcrldir"], "revoked certificates are not looked up; take it out of the URL"),
    (&["sslpassword"], "store the key decrypted"),
    (&["krbsrvname", "gsslib", "gssdelegation", "requirepeer"], "log in by a password or a certificate"),
    (&["load_balance_hosts"], "name one host"),
    (&["replication"], "a job's statements need an ordinary connection; take it out of the URL"),
    (&["require_auth", "min_protocol_version", "max_protocol_version"], "take it out of the URL"),
    (&["ssl_min_protocol_version", "ssl_max_protocol_version"], "TLS is 1.2 or 1.3; take it out of the URL"),
    (&["fallback_application_name"], "write `application_name`"),
];

/// Values of parameters that ask for what is so anyhow.
const AS_IT_IS: &[(&str, &[&str])] = &[
    ("client_encoding", &["auto", "UTF8", "utf8", "UTF-8", "utf-8"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslcompression", &["0"]),
    ("sslnegotiation", &["postgres"]),
    ("sslsni", &["1"]),
];

/// Notes the parameter; `false`: it is none of libpq's. The error follows the words "this URL".
pub fn read(session: &mut Session, name: &str, value: &str) -> Result<bool, String> {
    let wrong = |expected: &str| format!("has a `{name}` that is none: use {expected}");
    let seconds = || value.parse().map(Duration::from_secs).map_err(|_| wrong("whole seconds"));
    match name {
        "application_name" => session.application_name = Some(value.to_owned()),
        "options" => session.options = Some(value.to_owned()),
        // As in libpq, 0 is no limit; an attempt has its own.
        "connect_timeout" => session.connect_timeout = Some(seconds()?).filter(|limit| !limit.is_zero()),
        "hostaddr" => session.address = Some(value.parse().map_err(|_| wrong("an IP address"))?),
        "keepalives" => {
            session.keepalives = match value {
                "0" => false,
                "1" => true,
                _ => return Err(wrong("`0` or `1`")),
            }
        }
        "keepalives_idle" => session.keepalives_idle = Some(seconds()?).filter(|idle| !idle.is_zero()),
        "keepalives_interval" => session.keepalives_interval = Some(seconds()?).filter(|pause| !pause.is_zero()),
        "keepalives_count" => session.keepalives_count = Some(value.parse().map_err(|_| wrong("a whole number"))?),
        "tcp_user_timeout" => {
            let millis = value.parse().map_err(|_| wrong("whole milliseconds"))?;
            session.tcp_user_timeout = Some(Duration::from_millis(millis)).filter(|limit| !limit.is_zero());
        }
        "target_session_attrs" => {
            session.server = match value {
                "any" => WantedServer::Any,
                "read-write" | "primary" => WantedServer::Writable,
                "read-only" | "standby" => WantedServer::ReadOnly,
                _ => return Err(wrong("`any`, `read-write` or `read-only`")),
            }
        }
        "channel_binding" => {
            session.binding = match value {
                "disable" => Binding::Disable,
                "prefer" => Binding::Prefer,
                "require" => Binding::Require,
                _ => return Err(wrong("`disable`, `prefer` or `require`")),
            }
        }
        _ => return other(name, value),
    }
    Ok(true)
}

fn other(name: &str, value: &str) -> Result<bool, String> {
    if let Some((_, values)) = AS_IT_IS.iter().find(|(known, _)| *known == name) {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        let known = values.iter().any(|known| known.trim_matches('`') == value);
        return if known {
            Ok(true)
        } else {
            Err(format!("has a `{name}` that cannot be had: {}", values.join(" or ")))
        };
    }
    match OTHERS.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, advice)) => Err(format!("has the parameter `{name}`, which fencron does not know: {advice}")),
        None => Ok(false),
    }
}
