//! Reading a jobs file, in the same way for every command.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Failure;
use crate::config::{self, Config, MAX_FILE_BYTES, Problems, Sources};

/// The jobs file where none is named.
pub(super) const DEFAULT: &str = "jobs.yaml";

/// Reads and checks the jobs file at `path`.
///
/// # Errors
///
/// A [`Failure`] where it cannot be read, [`Problems`] where it is wrong.
pub(super) fn read(path: &Path) -> anyhow::Result<Config> {
    parse(path, &bytes(path)?).map_err(anyhow::Error::new)
}

/// The bytes of the file, or one more than a file may have.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let most = MAX_FILE_BYTES as u64 + 1;
    match File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            let what_to_do = match error.kind() {
                std::io::ErrorKind::NotFound => ": name the jobs file, like `fencron run jobs.example.yaml`",
                _ => "",
            };
            Err(Failure::wrong(format!("cannot read {}: {error}{what_to_do}", path.display())))
        }
    }
}

/// Checks what was read from `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Config, Problems> {
    let sources = Sources { env: &|name| std::env::var(name).ok(), file: &|path| std::fs::read_to_string(path) };
    config::from_bytes(bytes, &sources).map_err(|problems| problems.of_file(&path.display().to_string()))
}
