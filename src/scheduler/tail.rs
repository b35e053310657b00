//! What is kept of the output of a run: the end of its last attempt, and before it the ends of those before, as far as they
//! ended on this node.

use std::collections::VecDeque;

use crate::job::{AttemptResult, OUTPUT_KEPT};

/// How much is kept of the output of an attempt that is followed by another, in bytes.
const OF_AN_EARLIER_ATTEMPT: usize = 1024;

/// How much is kept of all of those, in bytes: the latest.
const OF_EARLIER_ATTEMPTS: usize = 4 * 1024;

const _: () = assert!(OF_AN_EARLIER_ATTEMPT * 2 <= OF_EARLIER_ATTEMPTS && OF_EARLIER_ATTEMPTS < OUTPUT_KEPT);

/// The ends of what the attempts of a run wrote that are followed by another.
#[derive(Clone, Debug, Default)]
pub(super) struct Earlier {
    /// As they are shown, with how much each wrote.
    attempts: VecDeque<(String, u64)>,
    /// How much those wrote that are not among them any more.
    dropped: u64,
}

impl Earlier {
    /// Takes in an attempt that has ended. The earliest give way.
    pub fn add(&mut self, number: u32, ended: &AttemptResult) {
        let (end, cut) = end_of(&ended.output, OF_AN_EARLIER_ATTEMPT);
        let missing = ended.output_bytes.saturating_sub(ended.output.len() as u64) + cut;
        let newline = if end.is_empty() || end.ends_with('\n') { "" } else { "\n" };
        let shown = format!("… attempt {number}:\n{}{end}{newline}", said(missing));
        self.attempts.push_back((shown, ended.output_bytes));
        while self.attempts.iter().map(|(shown, _)| shown.len()).sum::<usize>() > OF_EARLIER_ATTEMPTS {
            let (_, wrote) = self.attempts.pop_front().expect("one alone is within the bound");
            self.dropped += wrote;
        }
    }

    /// What is kept with the verdict, after the last attempt.
    pub fn and_last(&self, number: u32, ended: &AttemptResult) -> String {
        let missing = ended.output_bytes.saturating_sub(ended.output.len() as u64);
        if self.attempts.is_empty() && missing == 0 {
            return ended.output.clone();
        }
        let heading = if self.attempts.is_empty() {
            String::new()
        } else {
            let earlier: String = self.attempts.iter().map(|(shown, _)| shown.as_str()).collect();
            format!("{}{earlier}… attempt {number}:\n", said(self.dropped))
        };
        let room = OUTPUT_KEPT.saturating_sub(heading.len() + said(u64::MAX).len());
        // What is whole needs no room for saying that it is not.
        let room = if missing == 0 && heading.len() + ended.output.len() <= OUTPUT_KEPT { OUTPUT_KEPT } else { room };
        let (end, cut) = match end_of(&ended.output, room) {
            // The executor has cut it, most likely in the middle of a line.
            (end, 0) if missing > 0 => from_a_line(end),
            end => end,
        };
        format!("{heading}{}{end}", said(missing + cut))
    }
}

fn said(missing: u64) -> String {
    if missing == 0 { String::new() } else { format!("… {missing} bytes before this are not kept …\n") }
}

/// The end of a text, from the beginning of a line on where there is one, and how much was cut.
pub fn end_of(text: &str, most: usize) -> (&str, u64) {
    if text.len() <= most {
        return (text, 0);
    }
    let at = text.ceil_char_boundary(text.len() - most);
    let (end, cut) = from_a_line(&text[at..]);
    (end, cut + at as u64)
}

/// The text from its second line on, where it has one. A first line that is more than half of it is kept: what a program
/// says last is often short, and why it failed may be in the long line before.
fn from_a_line(text: &str) -> (&str, u64) {
    match text.split_once('\n') {
        Some((cut, rest)) if !rest.is_empty() && cut.len() <= text.len() / 2 => (rest, cut.len() as u64 + 1),
        _ => (text, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Outcome;
    use crate::time::Wall;

    fn ended(output: &str, output_bytes: u64) -> AttemptResult {
        let output = output.to_owned();
        AttemptResult { outcome: Outcome::Exited(1), started_at: None, finished_at: Wall::EPOCH, output, output_bytes }
    }

    fn after(attempts: &[(&str, u64)]) -> Earlier {
        let mut earlier = Earlier::default();
        for ((output, bytes), number) in attempts.iter().zip(1..) {
            earlier.add(number, &ended(output, *bytes));
        }
        earlier
    }

    #[test]
    fn the_end_of_each_attempt_is_kept() {
        let kept = after(&[("no route\n", 9), ("", 0)]).and_last(3, &ended("done", 4));
        assert_eq!(kept, "… attempt 1:\nno route\n… attempt 2:\n… attempt 3:\ndone");
        assert_eq!(after(&[]).and_last(1, &ended("whole\n", 6)), "whole\n");
    }

    #[test]
    fn what_is_cut_begins_with_a_line_and_is_counted() {
        let only = |output, bytes| after(&[]).and_last(1, &ended(output, bytes));
        assert_eq!(only("iddle\nend\n", 100), "… 96 bytes before this are not kept …\nend\n");
        assert_eq!(only("no line", 100), "… 93 bytes before this are not kept …\nno line");
        assert_eq!(only("a long line\nend\n", 100), "… 84 bytes before this are not kept …\na long line\nend\n");
    }

    #[test]
    fn all_that_attempts_wrote_that_are_not_shown_any_more_is_counted() {
        let line = "x".repeat(OF_AN_EARLIER_ATTEMPT - 1) + "\n";
        let attempts = vec![(line.as_str(), 5_000); 20];
        let kept = after(&attempts).and_last(21, &ended("done", 4));
        let shown = kept.matches("… attempt ").count() - 1;
        assert!((2..=4).contains(&shown), "{kept}");
        let dropped = (20 - shown as u64) * 5_000;
        assert!(kept.starts_with(&format!("… {dropped} bytes before this are not kept …\n… attempt ")), "{kept}");
    }

    #[test]
    fn it_is_bounded_however_many_attempts_there_are() {
        let line = "é".repeat(50) + "\n";
        let output = line.repeat(OUTPUT_KEPT / line.len());
        let mut earlier = Earlier::default();
        for number in 1..100 {
            earlier.add(number, &ended(&output, 1 << 40));
            assert!(earlier.attempts.len() <= OF_EARLIER_ATTEMPTS / 10, "{}", earlier.attempts.len());
            let kept = earlier.and_last(number + 1, &ended(&output, 1 << 40));
            assert!(kept.len() <= OUTPUT_KEPT && kept.len() > OUTPUT_KEPT / 2, "{}", kept.len());
            assert!(kept.contains(&format!("… attempt {number}:\n… ")) && kept.ends_with(&line), "{kept}");
        }
    }
}
