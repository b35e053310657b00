//! The parameters that a person gives a run, in its request or its statements.
//!
//! In statements, a parameter takes the place of the value that the job gives the same name in `params`, and has to be of
//! its kind: the job says what can be given, and what holds where nothing is. A request carries each in a header of its
//! own.

use super::{Http, Params, Scalar, Sql, Text};

/// What the name of a header begins with that carries a parameter; the rest is the name of the parameter, with `-` for `_`.
const HEADER: &str = "Fencron-Param-";

/// Why a job cannot be given a parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotGiven {
    #[error("its statements take no parameter `{name}`: {known}")]
    NoSuchName { name: String, known: String },
    #[error("the parameter `{0}` gets its value from outside the jobs file, and takes no other one")]
    FromOutside(String),
    #[error("the parameter `{name}` has to be {kind}, as the value is that the job gives it")]
    Kind { name: String, kind: &'static str },
    #[error(
        "the parameter `{0}` cannot be sent in a header: it has other characters than letters, digits and signs of ASCII, \
         or begins or ends with a blank. Encode it"
    )]
    NoHeader(String),
}

impl Sql {
    /// These statements, with the parameters of a run in place of the values of their names.
    ///
    /// ```
    /// use fencron::config::{Sources, parse};
    /// use fencron::job::{Params, Scalar, Task};
    /// let file = "version: 1\njobs:\n  trim:\n    schedule: '@daily'\n    sql:\n      database: sqlite:shop.db\n      \
    ///             statement: delete from carts where age > :days\n      params: {days: 30}\n";
    /// let config = parse(file, &Sources::none()).unwrap();
    /// let Task::Sql(sql) = &config.jobs.values().next().unwrap().task else { panic!() };
    /// let given = sql.given(&Params::new([("days", "7")]).unwrap()).unwrap();
    /// assert_eq!(given.params["days"], Scalar::Integer(7));
    /// assert!(sql.given(&Params::new([("days", "many")]).unwrap()).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// A name has no value in `params`, or one from outside the file, or the parameter is of another kind.
    pub fn given(&self, params: &Params) -> Result<Sql, NotGiven> {
        let mut sql = self.clone();
        for (name, value) in params.iter() {
            let Some(before) = sql.params.get_mut(name) else {
                return Err(NotGiven::NoSuchName { name: name.to_owned(), known: known(self) });
            };
            *before = as_kind(name, value, before)?;
        }
        Ok(sql)
    }
}

/// The names that can be given.
fn known(sql: &Sql) -> String {
    let is_secret = |value: &Scalar| matches!(value, Scalar::Text(text) if text.is_secret());
    let names: Vec<&str> = sql.params.iter().filter(|(_, value)| !is_secret(value)).map(|(name, _)| &**name).collect();
    match names[..] {
        [] => "its `params` has none that could be given".to_owned(),
        _ => format!("its `params` has {}", names.join(", ")),
    }
}

/// The value of a parameter, as a value of the kind of the one whose place it takes.
fn as_kind(name: &str, value: &str, before: &Scalar) -> Result<Scalar, NotGiven> {
    let (given, kind) = match before {
        Scalar::Text(text) if text.is_secret() => return Err(NotGiven::FromOutside(name.to_owned())),
        Scalar::Text(_) | Scalar::Null => return Ok(Scalar::Text(Text::plain(value))),
        Scalar::Bool(_) => (value.parse().ok().map(Scalar::Bool), "`true` or `false`"),
        Scalar::Integer(_) => (value.parse().ok().map(Scalar::Integer), "a whole number"),
        Scalar::Real(_) => {
            let is_number = value.parse::<f64>().is_ok_and(f64::is_finite);
            (is_number.then(|| Scalar::Real(value.to_owned())), "a number")
        }
    };
    given.ok_or_else(|| NotGiven::Kind { name: name.to_owned(), kind })
}

impl Http {
    /// This request, with the parameters of a run in headers, which no job may set itself.
    ///
    /// ```
    /// use fencron::config::{Sources, parse};
    /// use fencron::job::{Params, Task};
    /// let file = "version: 1\njobs: {a: {schedule: '@daily', http: {url: 'http://localhost/'}}}\n";
    /// let config = parse(file, &Sources::none()).unwrap();
    /// let Task::Http(http) = &config.jobs.values().next().unwrap().task else { panic!() };
    /// let given = http.given(&Params::new([("dry_run", "yes")]).unwrap()).unwrap();
    /// assert_eq!((&*given.headers[0].0, given.headers[0].1.expose()), ("Fencron-Param-dry-run", "yes"));
    /// ```
    ///
    /// # Errors
    ///
    /// A value cannot be sent in a header.
    pub fn given(&self, params: &Params) -> Result<Http, NotGiven> {
        let mut http = self.clone();
        for (name, value) in params.iter() {
            let is_sent = value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && value.trim() == value;
            if !is_sent {
                return Err(NotGiven::NoHeader(name.to_owned()));
            }
            http.headers.push((format!("{HEADER}{}", name.replace('_', "-")), Text::plain(value)));
        }
        Ok(http)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};
    use crate::job::Task;

    fn task(job: &str) -> Task {
        let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
        let sources = Sources { env: &env, ..Sources::none() };
        let config = parse(&format!("version: 1\njobs:\n  a:\n    schedule: '@daily'\n{job}"), &sources).unwrap();
        config.jobs.values().next().unwrap().task.clone()
    }

    fn params(given: &[(&str, &str)]) -> Params {
        Params::new(given.iter().map(|(name, value)| (*name, *value))).unwrap()
    }

    #[test]
    fn a_statement_takes_what_its_params_name_and_of_their_kind() {
        let text = "    sql:\n      database: sqlite:a.db\n      \
                    statement: 'select :n, :r, :b, :t, :z, :s'\n      \
                    params: {n: 1, r: 0.5, b: true, t: x, z: null, s: '${SECRET}'}\n";
        let Task::Sql(sql) = task(text) else { panic!() };
        let given = sql.given(&params(&[("n", "-7"), ("b", "false"), ("t", "7"), ("z", "7"), ("r", "2")])).unwrap();
        let text = |text: &str| Scalar::Text(Text::plain(text));
        assert_eq!((&given.params["n"], &given.params["b"]), (&Scalar::Integer(-7), &Scalar::Bool(false)));
        assert_eq!((&given.params["t"], &given.params["z"]), (&text("7"), &text("7")));
        assert_eq!(given.params["s"], sql.params["s"]);
        let why = |name, value| sql.given(&params(&[(name, value)])).unwrap_err().to_string();
        assert!(why("n", "7; drop table x").contains("has to be a whole number"));
        assert!(why("r", "inf").contains("has to be a number"));
        assert!(why("s", "x").contains("from outside the jobs file"));
        assert_eq!(why("m", "1"), "its statements take no parameter `m`: its `params` has b, n, r, t, z");
    }

    #[test]
    fn a_request_carries_each_in_a_header_of_its_own() {
        let text = "    http: {url: 'http://localhost/', headers: {x: y}}\n";
        let Task::Http(http) = task(text) else { panic!() };
        let given = http.given(&params(&[("region", "eu west")])).unwrap();
        let headers: Vec<_> = given.headers.iter().map(|(name, value)| (&**name, value.expose())).collect();
        assert_eq!(headers, [("x", "y"), ("Fencron-Param-region", "eu west")]);
        for wrong in ["a\r\nHost: evil", "ü", " x", "x\t"] {
            assert_eq!(
                http.given(&params(&[("region", wrong)])),
                Err(NotGiven::NoHeader("region".to_owned())),
                "{wrong:?}"
            );
        }
    }
}
