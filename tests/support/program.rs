//! The program that was built with the tests, and how it is started.

use std::path::Path;
use std::process::{Command, Stdio};

/// Where it is.
pub const FENCRON: &str = env!("CARGO_BIN_EXE_fencron");

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
