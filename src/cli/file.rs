//! Reading a jobs file, in the same way for every command.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Failure;
use crate::config::{self, Config, MAX_FILE_BYTES, MAX_MIGRATIONS, Problems, Sources};
use crate::job::MAX_SCRIPT_BYTES;

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

/// The text of a file that `${file:PATH}` names. Only of a regular one: a pipe would keep the node waiting, and what is
/// read from a device would be gone, or never end.
fn secret(path: &Path) -> io::Result<String> {
    // Opening a pipe waits for whoever writes to it, unless told not to; reading a regular file knows no waiting.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    // With its line end.
    let most = MAX_SCRIPT_BYTES as u64 + 2;
    file.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {MAX_SCRIPT_BYTES} bytes")));
    }
    Ok(text)
}

/// The names of what is in a directory; `None`: it is none.
fn directory(path: &Path) -> io::Result<Option<Vec<String>>> {
    if !path.is_dir() {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        if names.len() > MAX_MIGRATIONS {
            return Err(io::Error::other(format!("more than {MAX_MIGRATIONS} files are in it")));
        }
        // A name that is not UTF-8 cannot be part of an id, and is refused where ids are checked.
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(Some(names))
}

/// Checks what was read from `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Config, Problems> {
    let sources = Sources { env: &|name| std::env::var(name).ok(), file: &secret, dir: &directory };
    config::from_bytes(bytes, &sources).map_err(|problems| problems.of_file(&path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_text_of_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(secret(&dir.path().join("link")).unwrap(), "hunter2\n");
    }

    #[test]
    fn what_would_never_end_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [Path::new("/dev/zero"), &fifo, dir.path()] {
            assert!(secret(path).unwrap_err().to_string().contains("no regular file"), "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_is_longer_than_any_text_may_be_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(secret(&path).unwrap_err().to_string().contains("more than 1048576 bytes"));
    }
}
