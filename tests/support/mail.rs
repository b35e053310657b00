//! A server that takes mails: aiosmtpd, which `tests/run` installs.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// How long a mail may take, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct MailServer {
    child: Child,
    /// It ends with its input.
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    pub port: u16,
}

impl MailServer {
    /// `security`: `tls`, `starttls` or `plain`. With TLS it asks for user `u` and password `hunter2`.
    pub fn start(security: &str, certificate: &Path, key: &Path) -> MailServer {
        MailServer::with(&[security.as_ref(), certificate.as_os_str(), key.as_os_str()])
    }

    /// One that answers no mail until it is asked to.
    pub fn held() -> MailServer {
        MailServer::with(&["plain", "", "", "held"].map(OsStr::new))
    }

    fn with(arguments: &[&OsStr]) -> MailServer {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = top.join("target/tools/schemathesis-4.32.5/bin/python");
        assert!(python.exists(), "{} is not there: `tests/run` installs it", python.display());
        let mut child = Command::new(python)
            .arg(top.join("tests/support/mail.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let input = child.stdin.take().unwrap();
        let port = lines.recv_timeout(PATIENCE).expect("it says where it listens").parse().unwrap();
        MailServer { child, input, lines, port }
    }

    /// From now on it answers the mails that it has received.
    pub fn answer(&mut self) {
        writeln!(self.input, "answer").unwrap();
    }

    /// The next mail.
    pub fn next(&self) -> Value {
        serde_json::from_str(&self.lines.recv_timeout(PATIENCE).expect("a mail comes")).unwrap()
    }

    /// The mails that came and were not looked at.
    pub fn rest(&self) -> Vec<Value> {
        self.lines.try_iter().map(|line| serde_json::from_str(&line).unwrap()).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
