//! What the URLs of stores have in common: hosts with their ports, and percent-encoding.

/// What is wrong with a host. It does not repeat the text: split in the wrong place, that may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAHost {
    Empty,
    Colons,
    Port,
}

/// `host:port` of `host` or `host:port`. `strange`: characters that no host has, beside white space.
pub(super) fn endpoint(text: &str, default_port: u16, strange: &str) -> Result<String, NotAHost> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || strange.contains(c)) {
        return Err(NotAHost::Empty);
    }
    if host.contains(':') && !bracketed {
        return Err(NotAHost::Colons);
    }
    match port.map(str::parse::<u16>) {
        None => Ok(format!("{host}:{default_port}")),
        Some(Ok(port)) if port > 0 => Ok(format!("{host}:{port}")),
        Some(_) => Err(NotAHost::Port),
    }
}

/// A text whose characters that would count as punctuation are percent-encoded.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A percent-encoded text, decoded; otherwise what is wrong with it, without the text: that may be a password.
pub(super) fn decoded(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "a % that is not followed by two hexadecimal digits (write % as %25)";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let hex = tail.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit)).ok_or(WRONG)?;
        let hex = std::str::from_utf8(hex).map_err(|_| WRONG)?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(|_| WRONG)?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what is percent-encoded is not UTF-8")
}
