//! How far a connection to a database is encrypted, and whether the server's identity is checked.

#[cfg(any(feature = "cli", feature = "postgres"))]
use std::path::{Path, PathBuf};

#[cfg(any(feature = "cli", feature = "postgres"))]
mod checks;
#[cfg(feature = "cli")]
pub(crate) use checks::certificates;
#[cfg(any(feature = "cli", feature = "postgres"))]
pub(crate) use checks::config;

/// How much is asked of the connection to a server. In the order of what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encryption {
    /// In the clear.
    Disable,
    /// Encrypted if the server can: an attacker in between can undo it.
    Prefer,
    /// Encrypted, to any server that answers.
    Require,
    /// The server's certificate is one that the roots vouch for.
    VerifyCa,
    /// And it is for this host.
    VerifyFull,
}

/// What a connection checks, and what it shows to the server.
#[cfg(any(feature = "cli", feature = "postgres"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks<'a> {
    pub encryption: Encryption,
    /// The file (PEM) of those that may vouch for the server; `None`: those that the system trusts.
    pub roots: Option<&'a Path>,
    /// The files (PEM) of the certificate that is shown to the server, and of its private key.
    pub identity: Option<&'a (PathBuf, PathBuf)>,
}
