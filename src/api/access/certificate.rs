//! The names in a certificate, by which rules give it a role.

use std::net::IpAddr;

use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::time::Wall;

/// The common name of a subject.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// How many names of one certificate are looked at.
const NAMES_MOST: usize = 100;

/// The URIs, DNS names and addresses of its `subjectAltName`, and the common name of its subject. Whether its authority is
/// one that is trusted is for TLS to say.
pub fn names(der: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(der) else { return Vec::new() };
    let others = certificate.tbs_certificate.get::<SubjectAltName>().ok().flatten();
    let others = others.into_iter().flat_map(|(_, SubjectAltName(names))| names).filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(address) => ip(address.as_bytes()),
        _ => None,
    });
    let parts = certificate.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let common = parts.filter(|part| part.oid == COMMON_NAME);
    let common = common.filter_map(|part| String::from_utf8(part.value.value().to_vec()).ok());
    others.chain(common).take(NAMES_MOST).collect()
}

/// When it ends.
pub fn ends(der: &[u8]) -> Option<Wall> {
    let certificate = Certificate::from_der(der).ok()?;
    let end = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    Some(Wall::EPOCH.plus(end))
}

fn ip(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
}
