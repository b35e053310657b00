//! What went wrong on the way to an answer, in words that give away no URL.

use std::error::Error as StdError;
use std::io;

use nix::errno::Errno;
use rustls::{AlertDescription, CertificateError};

use crate::execute::room::is_lacking;

type Cause<'e> = &'e (dyn StdError + 'static);

/// The causes of an error, from the outside in; what an I/O error wraps is one of them.
fn causes<'e>(error: Cause<'e>) -> impl Iterator<Item = Cause<'e>> {
    std::iter::successors(Some(error), |error| {
        let error: Cause<'e> = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as Cause<'e>),
            None => error.source(),
        }
    })
}

fn find<'e, E: StdError + 'static>(error: Cause<'e>) -> Option<&'e E> {
    causes(error).find_map(|cause| cause.downcast_ref::<E>())
}

/// Whether the server refused the connection by what it saw of the client in the handshake. With TLS 1.3 it says so only
/// when the client has begun to send, and reads nothing of that. <https://www.rfc-editor.org/rfc/rfc8446#section-6.2>
pub(super) fn is_refusal_of_handshake(error: &reqwest::Error) -> bool {
    let Some(rustls::Error::AlertReceived(alert)) = find::<rustls::Error>(error) else { return false };
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// Whether this system had no room for a connection.
pub(super) fn is_lack_of_room(error: &reqwest::Error) -> bool {
    let errno = find::<io::Error>(error).and_then(io::Error::raw_os_error);
    errno.is_some_and(|errno| is_lacking(Errno::from_raw(errno)))
}

/// Why no answer came, and what to do. `hidden`: the name of the host is not to be shown.
pub(super) fn in_words(error: &reqwest::Error, hidden: bool) -> String {
    if let Some(tls) = find::<rustls::Error>(error) {
        return of_tls(tls, hidden);
    }
    if error.is_dns() {
        return "the name of its host cannot be resolved: is it right, and does this machine know it?".to_owned();
    }
    match find::<io::Error>(error) {
        Some(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
            "no server listens there (connection refused): does the service run, and at this port?".to_owned()
        }
        Some(io) if io.raw_os_error().is_some() => io.to_string(),
        _ if error.is_timeout() => "no connection within `connect_timeout`".to_owned(),
        _ => {
            let innermost = causes(error).last().filter(|cause| !hidden && !cause.is::<reqwest::Error>());
            innermost.map_or_else(|| "the connection broke".to_owned(), ToString::to_string)
        }
    }
}

fn of_tls(error: &rustls::Error, hidden: bool) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate is from an authority that is not trusted here: name the authority's certificate \
             with `ca`, or install it on this machine"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(_) if hidden => {
            "the server's certificate is not valid, or not for this host".to_owned()
        }
        rustls::Error::InvalidCertificate(why) => format!("the server's certificate is not valid: {why}"),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate of the client: name it with `cert` and `key`".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!("the server refused the TLS connection: {alert:?}"),
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS: is it `http://`?".to_owned(),
        other => format!("no TLS connection: {other}"),
    }
}
