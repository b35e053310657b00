//! A request that a job makes, as plain data.

use std::time::Duration;

use super::Text;

/// A request, and what of its answer counts as done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// `GET`, `POST` and so on, in capitals.
    pub method: String,
    pub url: Text,
    /// Sent as they are, beside those of the stamp.
    pub headers: Vec<(String, Text)>,
    pub body: Option<Text>,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
}
