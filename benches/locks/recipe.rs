//! etcd's own recipe for locks in etcd's own language: a program that is started where `FENCRON_BENCH_RECIPE` names it,
//! and told what to measure when it has its turn. Its source is in `benches/locks/recipe`.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::support::etcd::Etcd;

pub struct Recipe {
    process: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Recipe {
    /// The program, connected to `etcd`; `None` where none is named.
    pub fn start(etcd: &Etcd) -> Option<Recipe> {
        let program = std::env::var_os("FENCRON_BENCH_RECIPE")?;
        let mut command = Command::new(&program);
        command.arg(etcd.endpoint()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let questions = process.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Some(Recipe { process, questions, answers })
    }

    /// How long each of so many took: of `lock`, or of `handover`.
    pub fn times(&mut self, what: &str, many: usize) -> Vec<Duration> {
        writeln!(self.questions, "{what} {many}").expect("it listens");
        let answer = self.answers.next().expect("it answers").expect("in text");
        let times: Vec<_> =
            answer.split_whitespace().map(|nanos| Duration::from_nanos(nanos.parse().expect("a number"))).collect();
        assert_eq!(times.len(), many);
        times
    }
}

impl Drop for Recipe {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).map(drop).unwrap_or_default();
    }
}
