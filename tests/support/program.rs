//! The program that was built with the tests, and how it is started.

use std::path::Path;
use std::process::{Command, Stdio};

/// Where it is.
pub const FENCRON: &str = env!("CARGO_BIN_EXE_fencron");

/// What has a process read other wall clocks than the machine's, by the variable `FAKETIME` (`-8s`), or by a file that
/// `FAKETIME_TIMESTAMP_FILE` names. It leaves the boot clock alone: in a SQLite store, a node that takes it to be minutes
/// later ends everybody's leases.
pub fn other_clock() -> [(&'static str, String); 2] {
    let directories = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let places = directories.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    let found = places.map(|directory| directory.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    let library = found.expect("libfaketime is needed for this: `tests/run` installs it (Debian: libfaketime)");
    [("LD_PRELOAD", library.display().to_string()), ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned())]
}

/// The program in `directory`, with the settings that the test gives it and no others.
pub fn fencron(directory: &Path) -> Command {
    within(directory, Command::new(FENCRON))
}

/// A command that starts the program, in `directory`. What fences were seen is kept there too, in `state`.
pub fn within(directory: &Path, mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FENCRON_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    command.current_dir(directory).env("FENCRON_STATE_DIR", directory.join("state")).stdin(Stdio::null());
    command
}
