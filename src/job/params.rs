//! The parameters that a person gives a run (`fencron trigger JOB --param NAME=VALUE`).

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

/// The most parameters of one run.
pub const PARAMS_MOST: usize = 32;
/// The longest name of a parameter, in bytes.
pub const PARAM_NAME_MOST: usize = 64;
/// The longest value of a parameter, in bytes. The run's record holds all of them.
pub const PARAM_VALUE_MOST: usize = 4 * 1024;

/// Named texts for one run, by name. Cheap to clone.
///
/// ```
/// use fencron::job::Params;
/// let params = Params::new([("region", "eu"), ("limit", "10")])?;
/// assert_eq!(params.get("region"), Some("eu"));
/// assert!(Params::new([("Region", "eu")]).is_err(), "names are in small letters");
/// # Ok::<(), fencron::job::BadParam>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Option<Arc<BTreeMap<String, String>>>);

/// Why texts cannot be the parameters of a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadParam {
    #[error("`{0}` is not a parameter: write it as NAME=VALUE")]
    NoValue(String),
    #[error(
        "`{0}` cannot be the name of a parameter: use 1 to {PARAM_NAME_MOST} small letters, digits or `_`, beginning with \
         a letter"
    )]
    Name(String),
    #[error("the parameter `{0}` is given twice: keep one of them")]
    Twice(String),
    #[error("the parameter `{0}` has a NUL character in it, which no command can be given: take it out")]
    Nul(String),
    #[error(
        "the parameter `{name}` has {bytes} bytes: a value has at most {PARAM_VALUE_MOST}; put more into a file or a \
         database, and give its name"
    )]
    TooLong { name: String, bytes: usize },
    #[error("{0} parameters are too many: a run has at most {PARAMS_MOST}")]
    TooMany(usize),
}

impl Params {
    /// These names and values.
    ///
    /// # Errors
    ///
    /// Where a name is none or is given twice, or a bound is exceeded.
    pub fn new<N, V>(given: impl IntoIterator<Item = (N, V)>) -> Result<Params, BadParam>
    where
        N: Into<String>,
        V: Into<String>,
    {
        let mut params = BTreeMap::new();
        for (name, value) in given {
            let (name, value) = (name.into(), value.into());
            check(&name, &value)?;
            if params.insert(name.clone(), value).is_some() {
                return Err(BadParam::Twice(name));
            }
        }
        match params.len() {
            0 => Ok(Params::default()),
            1..=PARAMS_MOST => Ok(Params(Some(Arc::new(params)))),
            many => Err(BadParam::TooMany(many)),
        }
    }

    /// The value of the parameter `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// The names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|params| params.iter()).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The parameters of a record, which was checked when it was written.
    pub(crate) fn recorded(params: BTreeMap<String, String>) -> Params {
        Params(Some(params).filter(|params| !params.is_empty()).map(Arc::new))
    }
}

/// A parameter as it is written on a command line: `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub value: String,
}

impl FromStr for Param {
    type Err = BadParam;
    fn from_str(text: &str) -> Result<Param, BadParam> {
        let (name, value) = text.split_once('=').ok_or_else(|| BadParam::NoValue(beginning(text)))?;
        check(name, value)?;
        Ok(Param { name: name.to_owned(), value: value.to_owned() })
    }
}

fn check(name: &str, value: &str) -> Result<(), BadParam> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.len() > PARAM_NAME_MOST || !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
        return Err(BadParam::Name(beginning(name)));
    }
    if value.contains('\0') {
        return Err(BadParam::Nul(name.to_owned()));
    }
    if value.len() > PARAM_VALUE_MOST {
        return Err(BadParam::TooLong { name: name.to_owned(), bytes: value.len() });
    }
    Ok(())
}

/// As much of a wrong name as a message shows.
fn beginning(text: &str) -> String {
    text.chars().take(PARAM_NAME_MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_parameter_is_refused_with_what_to_do() {
        for (text, says) in [
            ("region", "NAME=VALUE"),
            ("=eu", "cannot be the name"),
            ("2nd=x", "cannot be the name"),
            ("Region=eu", "small letters"),
            ("a=x\0y", "NUL"),
        ] {
            let error = text.parse::<Param>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!("a=b=c".parse(), Ok(Param { name: "a".into(), value: "b=c".into() }));
        let long = Params::new([("a", "x".repeat(PARAM_VALUE_MOST + 1))]).unwrap_err();
        assert!(matches!(long, BadParam::TooLong { bytes: 4097, .. }), "{long}");
        assert_eq!(Params::new([("a", "1"), ("a", "2")]), Err(BadParam::Twice("a".into())));
        let many = (0..=PARAMS_MOST).map(|nth| (format!("p{nth}"), ""));
        assert_eq!(Params::new(many), Err(BadParam::TooMany(33)));
    }
}
