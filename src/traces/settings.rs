//! Where spans are sent, by the variables of OpenTelemetry's specification. Pure.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

/// How long the collector may take for its answer, where `OTEL_EXPORTER_OTLP_TIMEOUT` does not say.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where spans are sent, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) endpoint: Url,
    /// Their values are sensitive: they are not shown.
    pub(super) headers: HeaderMap,
    pub(super) timeout: Duration,
    /// The attributes of the resource: `service.name`, and what `OTEL_RESOURCE_ATTRIBUTES` names.
    pub(super) resource: Vec<(String, String)>,
}

impl Settings {
    /// What the environment says, in which `get` looks up variables; `None`: no spans are sent.
    ///
    /// # Errors
    ///
    /// Which variable has a value that cannot be used, and what it may be. No value is repeated that may hold a secret.
    pub fn of(get: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, String> {
        let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        // What is said of traces alone wins over what is said of all signals.
        let said = |name: &str| {
            let of_traces = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            let of_all = format!("OTEL_EXPORTER_OTLP_{name}");
            get(&of_traces).map(|value| (of_traces, value)).or_else(|| Some((of_all.clone(), get(&of_all)?)))
        };
        let is_off = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || get("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none");
        let Some((name, endpoint)) = said("ENDPOINT").filter(|_| !is_off) else { return Ok(None) };
        let endpoint = endpoint_of(&name, &endpoint)?;
        if let Some((name, protocol)) = said("PROTOCOL").filter(|(_, protocol)| protocol != "http/protobuf") {
            return Err(format!(
                "{name} is `{}`, and spans are sent as http/protobuf only: name the collector's port for HTTP (usually \
                 4318) in the endpoint, and leave {name} out",
                protocol.chars().take(40).collect::<String>()
            ));
        }
        let timeout = match said("TIMEOUT") {
            None => TIMEOUT,
            Some((name, millis)) => {
                millis.parse().map(Duration::from_millis).map_err(|_| format!("{name} is no number of milliseconds"))?
            }
        };
        let headers = said("HEADERS").map_or(Ok(HeaderMap::new()), |(name, list)| headers_of(&name, &list))?;
        let mut resource = match get("OTEL_RESOURCE_ATTRIBUTES") {
            Some(list) => pairs("OTEL_RESOURCE_ATTRIBUTES", &list)?,
            None => Vec::new(),
        };
        if let Some(service) = get("OTEL_SERVICE_NAME") {
            resource.retain(|(name, _)| name != "service.name");
            resource.push(("service.name".to_owned(), service));
        } else if !resource.iter().any(|(name, _)| name == "service.name") {
            resource.push(("service.name".to_owned(), "fencron".to_owned()));
        }
        Ok(Some(Settings { endpoint, headers, timeout, resource }))
    }
}

/// The URL to which spans are posted: the one for traces as it stands, the one for all signals with its path continued.
fn endpoint_of(name: &str, text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    let mut url = url.ok_or_else(|| format!("{name} is no URL like http://127.0.0.1:4318"))?;
    if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

fn headers_of(variable: &str, list: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(variable, list)? {
        let known = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(&value).ok());
        let (name, mut value) = known.ok_or_else(|| format!("{variable} has what cannot be sent as a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The pairs of a list like `a=1,b=2`, whose values are percent-encoded.
fn pairs(variable: &str, list: &str) -> Result<Vec<(String, String)>, String> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim().to_owned(), decoded(value.trim())?))
    };
    parts.map(pair).collect::<Option<_>>().ok_or_else(|| format!("{variable} is no list like name=value,name=value"))
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (code, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        Settings::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/otel/");

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_named() {
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap().is_none());
        assert!(of(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(of(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
    }

    #[test]
    fn what_is_said_of_traces_wins_over_what_is_said_of_everything() {
        let settings = of(&[ENDPOINT, ("OTEL_SERVICE_NAME", "cron"), ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b=x%20y")]);
        let settings = settings.unwrap().unwrap();
        assert_eq!(settings.endpoint.as_str(), "http://127.0.0.1:4318/otel/v1/traces");
        let resource = [("a", "1"), ("b", "x y"), ("service.name", "cron")];
        assert_eq!(settings.resource, resource.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let own = of(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x")]).unwrap().unwrap();
        assert_eq!(own.endpoint.as_str(), "https://t/x");
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_by_its_variable_and_not_repeated() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "hunter2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zzhunter2"),
            ("OTEL_RESOURCE_ATTRIBUTES", "hunter2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ] {
            let why = of(&[ENDPOINT, (name, value)]).unwrap_err();
            assert!(why.contains(name) && !why.contains("hunter2"), "{why}");
        }
        let sent = of(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2")]).unwrap().unwrap();
        assert_eq!(sent.headers["authorization"], "Bearer hunter2");
        assert!(!format!("{sent:?}").contains("hunter2"));
    }
}
