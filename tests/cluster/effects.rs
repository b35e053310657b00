//! What the jobs leave behind: lines in a file, each appended in one write, by whoever runs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::referee::record::{Attempt, Millis};

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Begins,
    GoesOn,
    Ends,
}

/// A line: who was at work, on what authority, and when by the machine's boot clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub step: Step,
    pub attempt: Attempt,
    pub node: String,
    /// Since boot. From `/proc/uptime`, which has hundredths of a second, is no process to start, and tells the truth
    /// also where a library fakes the clocks.
    pub at: Millis,
}

/// The file that all jobs of a scene write to.
#[derive(Clone, Debug)]
pub struct Effects {
    path: PathBuf,
}

impl Effects {
    pub fn new(directory: &Path) -> Effects {
        Effects { path: directory.join("effects") }
    }

    /// A script that says that it begins, goes on so many times, a fifth of a second apart, and ends.
    pub fn script(&self, steps: u32) -> String {
        let say = format!(
            r#"say() {{ read -r up _ </proc/uptime
            echo "$1 $FENCRON_FENCE $FENCRON_RUN_ID $FENCRON_ATTEMPT $FENCRON_NODE $up" >>{}; }}"#,
            self.path.display()
        );
        format!("{say}; say B; i=0; while [ $i -lt {steps} ]; do sleep 0.2; say P; i=$((i+1)); done; say E")
    }

    /// All lines so far, in the order in which they arrived.
    pub fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        // The last line may be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| parse(line).unwrap_or_else(|| panic!("not a line of ours: {line:?}"))).collect()
    }

    /// How often each run was begun.
    pub fn begun(&self) -> BTreeMap<String, Vec<Line>> {
        let mut begun: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        for line in self.lines().into_iter().filter(|line| line.step == Step::Begins) {
            begun.entry(line.attempt.run.clone()).or_default().push(line);
        }
        begun
    }

    /// The first begin of a run of `job` on the authority of `fence`, if there is one.
    pub fn first_under(&self, job: &str, fence: u64) -> Option<Line> {
        let begins = |line: &Line| line.step == Step::Begins && line.job() == job && line.attempt.fence == fence;
        self.lines().into_iter().find(begins)
    }
}

impl Line {
    pub fn job(&self) -> &str {
        super::referee::record::job_of(&self.attempt.run)
    }
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let step = match words.next()? {
        "B" => Step::Begins,
        "P" => Step::GoesOn,
        "E" => Step::Ends,
        _ => return None,
    };
    let fence = words.next()?.parse().ok()?;
    let run = words.next()?.to_owned();
    let number = words.next()?.parse().ok()?;
    let node = words.next()?.to_owned();
    let (seconds, hundredths) = words.next()?.split_once('.')?;
    let at = seconds.parse::<u64>().ok()? * 1000 + hundredths.parse::<u64>().ok()? * 10;
    Some(Line { step, attempt: Attempt { run, number, fence }, node, at })
}
