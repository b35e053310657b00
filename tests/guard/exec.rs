//! `fencron guard exec`, around a script.

use std::fs;
use std::process::{Output, Stdio};

use tokio::process::{Child, Command};

use super::door::{Door, Got, Place, Sent};
use crate::support::program::fencron;
use crate::support::until;

pub struct ExecDoor {
    pub place: Place,
    options: Vec<String>,
}

/// Fails while there is a file `fail`; otherwise leaves a mark, and is held until there is a file `go`.
const SCRIPT: &str = r#"
[ ! -e fail ] || { echo failed; exit 1; }
mark="$FENCRON_SCOPE $FENCRON_FENCE ${FENCRON_RUN_ID:--} $1"
echo "$mark" >> marks
if [ "$1" = hold ]; then
    while [ ! -e go ]; do sleep 0.02; done
    echo "$mark ended" >> marks
fi
echo "did $mark as number $(wc -l < marks)"
echo "and said so" >&2
"#;

impl ExecDoor {
    pub async fn open(place: Place, options: &[&str]) -> ExecDoor {
        fs::write(place.path("script"), SCRIPT).unwrap();
        ExecDoor { place, options: options.iter().map(|option| (*option).to_owned()).collect() }
    }

    pub fn command(&self, sent: Sent<'_>) -> Command {
        self.run(sent, &["sh", "script", sent.payload])
    }

    /// `command`, guarded.
    pub fn run(&self, sent: Sent<'_>, command: &[&str]) -> Command {
        let mut guarded = Command::from(fencron(self.place.directory.path()));
        guarded.args(["guard", "exec", "files"]).args(&self.options).arg("--").args(command);
        guarded.env("FENCRON_GUARD_STATE", &self.place.url).env("FENCRON_SCOPE", sent.scope);
        guarded.env("FENCRON_FENCE", sent.fence.to_string());
        if let Some(key) = sent.key {
            guarded.env("FENCRON_RUN_ID", key);
        }
        guarded.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
        guarded
    }

    pub fn spawn(&self, sent: Sent<'_>) -> Child {
        self.command(sent).spawn().unwrap()
    }

    pub fn told(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    fn marks(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.path("marks")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// What a guarded command says.
pub fn got(output: &Output) -> Got {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = stderr.contains("not run: ");
    match output.status.code() {
        Some(0) if stderr.contains("it was run before") => Got::Replayed(stdout),
        Some(0) => Got::Done(stdout),
        Some(1) if !refused => Got::Failed,
        Some(4) if refused && stderr.contains("is stale") => Got::Stale,
        Some(2) if stderr.contains("another payload") => Got::OtherPayload,
        Some(3) if stderr.contains("first request with this key") => Got::InFlight,
        Some(3) if stderr.contains("under an older fence") => Got::OlderInFlight,
        Some(6) if refused => Got::InDoubt,
        code => Got::Other(format!("{code:?} {stderr}")),
    }
}

impl Door for ExecDoor {
    async fn send(&self, sent: Sent<'_>) -> Got {
        got(&self.command(sent).output().await.unwrap())
    }

    async fn effects(&self) -> Vec<String> {
        self.marks()
    }

    async fn begun(&self, count: usize) {
        until("an effect", async || (self.marks().len() >= count).then_some(())).await;
    }

    fn release(&self) {
        fs::write(self.place.path("go"), "").unwrap();
    }

    fn fail(&self, failing: bool) {
        let path = self.place.path("fail");
        if failing { fs::write(path, "").unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// Every command is a guard of its own.
    async fn restart(&mut self) {}
}
