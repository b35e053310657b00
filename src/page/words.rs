//! The small words of the page and of `fencron top`: instants, durations, numbers, states and commands, each written in
//! one way everywhere.

use std::time::Duration;

use maud::{Markup, html};

use super::looker::Zones;
use crate::board::JobState;
use crate::job::Verdict;
use crate::schedule::Schedule;
use crate::scheduler::run::{Done, Open, OpenState};
use crate::time::Wall;

/// How many characters of a text that other programs made up (a reason, a name of a lock) are shown.
const SHOWN_MOST: usize = 2_000;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// From where instants are looked at: what time it is, and in which zones they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Viewpoint {
    pub now: Wall,
    pub zones: Zones,
}

impl Viewpoint {
    /// Whether the zone of its job stands beside a fire.
    pub(super) fn has_zones_of_jobs(self) -> bool {
        self.zones != Zones::Utc
    }

    /// Whether a fire by this schedule is written in its zone as well: one in UTC would be there twice.
    fn has_zone_of(self, schedule: &Schedule) -> bool {
        self.has_zones_of_jobs() && !(self.zones == Zones::Jobs && ["UTC", "Etc/UTC"].contains(&schedule.timezone()))
    }

    /// The local time of a fire in the zone of its job, where that is wanted.
    pub(super) fn beside(self, at: Wall, schedule: &Schedule) -> Option<String> {
        self.has_zone_of(schedule).then(|| format!("{} {}", local(at, schedule), schedule.timezone()))
    }

    /// The same without the name of the zone.
    pub(super) fn beside_short(self, at: Wall, schedule: &Schedule) -> Option<String> {
        self.has_zone_of(schedule).then(|| local(at, schedule))
    }

    /// An instant, without its day where that is today's. Of one with its milliseconds, the day is there as well.
    pub(crate) fn written(self, at: Wall, is_exact: bool) -> String {
        let form = |is_utc: bool, is_today: bool| match (is_utc, is_exact, is_today) {
            (true, true, _) => "%Y-%m-%d %H:%M:%S%.3fZ",
            (true, false, true) => "%H:%M:%SZ",
            (true, false, false) => "%Y-%m-%d %H:%M:%SZ",
            (false, true, _) => "%Y-%m-%d %H:%M:%S%.3f %:z",
            (false, false, true) => "%H:%M:%S %:z",
            (false, false, false) => "%Y-%m-%d %H:%M:%S %:z",
        };
        let (at, now) = (at.to_utc(), self.now.to_utc());
        match self.zones {
            Zones::Jobs | Zones::Utc => at.format(form(true, at.date_naive() == now.date_naive())).to_string(),
            Zones::Mine(zone) => {
                let (at, now) = (at.with_timezone(&zone), now.with_timezone(&zone));
                at.format(form(false, at.date_naive() == now.date_naive())).to_string()
            }
        }
    }
}

/// `text` as it can be shown: cut at [`SHOWN_MOST`], and with a visible sign for every character that would control the
/// terminal or turn the direction of what follows it.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MOST).map(visible).collect();
    if text.chars().nth(SHOWN_MOST).is_some() {
        shown.push('…');
    }
    shown
}

/// The character itself, or the sign that stands for it where it would not be seen.
pub(super) fn visible(c: char) -> char {
    match c {
        '\n' | '\t' => ' ',
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        // Marks of direction, and what has no width: they move or hide what stands beside them.
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
            '\u{fffd}'
        }
        '\u{2028}' | '\u{2029}' => ' ',
        c => c,
    }
}

/// A text that other programs made up, kept apart from the direction of what surrounds it.
pub(super) fn foreign(text: &str) -> Markup {
    html! { bdi { (shown(text)) } }
}

/// The same of a sentence that names commands and settings in backticks, as messages do: those stand in another font.
/// Where a backtick has no partner, all of them are shown as they are.
pub(crate) fn spoken(text: &str) -> Markup {
    let text = shown(text);
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return html! { bdi { (text) } };
    }
    html! {
        bdi {
            @for (nth, part) in parts.iter().enumerate() {
                @if nth % 2 == 1 { code { (part) } } @else { (part) }
            }
        }
    }
}

/// An instant, without its day where that is today's.
pub(super) fn instant(at: Wall, view: Viewpoint) -> Markup {
    html! { time datetime=(at) { (view.written(at, false)) } }
}

/// An instant with its day and its milliseconds.
pub(super) fn exact(at: Wall, view: Viewpoint) -> Markup {
    html! { time datetime=(at) { (view.written(at, true)) } }
}

/// An instant with its distance from now, which the script brings up to date each second. Without script it is as of the
/// answer, and coarse enough to stay true for a while.
pub(super) fn instant_and_distance(at: Wall, view: Viewpoint) -> Markup {
    html! { time datetime=(at) { (view.written(at, false)) " " i { (written_distance(at, view.now)) } } }
}

/// The same, or a word where there is no instant.
pub(super) fn instant_or(word: &str, at: Option<Wall>, view: Viewpoint) -> Markup {
    html! { @if let Some(at) = at { (instant_and_distance(at, view)) } @else { (word) } }
}

/// One of the facts at the head of a screen.
pub(super) fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// How far an instant is from now.
pub(super) fn distance(at: Wall, view: Viewpoint) -> Markup {
    html! { time datetime=(at) { i { (written_distance(at, view.now)) } } }
}

fn written_distance(at: Wall, now: Wall) -> String {
    directed(at, now, coarse)
}

/// The same for what is written anew each second: with the seconds of less than a minute.
pub(crate) fn close_distance(at: Wall, now: Wall) -> String {
    directed(at, now, |distance| match millis(distance) {
        ..MINUTE => format!("{} s", millis(distance) / SECOND),
        _ => coarse(distance),
    })
}

fn directed(at: Wall, now: Wall, written: impl Fn(Duration) -> String) -> String {
    if at > now { format!("in {}", written(at.since(now))) } else { format!("{} ago", written(now.since(at))) }
}

/// A duration in its greatest unit.
fn coarse(duration: Duration) -> String {
    let millis = millis(duration);
    match millis {
        0..MINUTE => "<1 min".to_owned(),
        MINUTE..HOUR => format!("{} min", millis / MINUTE),
        HOUR..DAY => format!("{} h", millis / HOUR),
        DAY..YEAR => format!("{} d", millis / DAY),
        _ => format!("{} y", millis / YEAR),
    }
}

/// A duration in at most two units.
pub(crate) fn took(duration: Duration) -> String {
    let millis = millis(duration);
    match millis {
        0..SECOND => format!("{millis} ms"),
        SECOND..MINUTE => format!("{}.{} s", millis / SECOND, millis % SECOND / 100),
        MINUTE..HOUR => two_units((millis / MINUTE, "min"), (millis % MINUTE / SECOND, "s")),
        HOUR..DAY => two_units((millis / HOUR, "h"), (millis % HOUR / MINUTE, "min")),
        _ => two_units((millis / DAY, "d"), (millis % DAY / HOUR, "h")),
    }
}

fn two_units((great, unit): (u64, &str), (small, small_unit): (u64, &str)) -> String {
    if small == 0 { format!("{great} {unit}") } else { format!("{great} {unit} {small:02} {small_unit}") }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The local time of an instant in a schedule's zone, with its offset: `03:25:10 +01:00`, and its day where that is not the
/// day in UTC.
fn local(at: Wall, schedule: &Schedule) -> String {
    // RFC 3339: the day, `T`, the time with or without a fraction, and the offset.
    let text = schedule.explain(at).local;
    let (Some(day), Some(time), Some(offset)) =
        (text.get(..10), text.get(11..19), text.get(text.len().saturating_sub(6)..))
    else {
        return text;
    };
    let is_same_day = at.to_string().starts_with(day);
    if is_same_day { format!("{time} {offset}") } else { format!("{day} {time} {offset}") }
}

/// How many bytes, for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut unit = 0;
    let mut left = count;
    let mut rest = 0;
    while left >= 1_000 && unit + 1 < UNITS.len() {
        rest = left % 1_000 / 100;
        left /= 1_000;
        unit += 1;
    }
    if unit == 0 || left >= 100 { format!("{left} {}", UNITS[unit]) } else { format!("{left}.{rest} {}", UNITS[unit]) }
}

/// `1 job`, `2 jobs`, `1,234 jobs`.
pub(crate) fn count(number: usize, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// `1 run is in doubt`, `2 runs are in doubt`.
pub(crate) fn in_doubt(number: usize) -> String {
    format!("{} {} in doubt", count(number, "run"), if number == 1 { "is" } else { "are" })
}

/// A number with a comma between each three digits.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A command that does what its row is about; a click copies it.
pub(super) fn command(text: &str) -> Markup {
    html! { code { "fencron " (shown(text)) } }
}

/// A state as a word, with a colour and a sign before it, which the stylesheet has for its classes.
pub(super) fn state(word: &str, look: Look) -> Markup {
    html! { b class=(look.class()) { (word) } }
}

/// How a state looks. Colours follow what a person has to do: nothing, look, or act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    Good,
    Bad,
    TimedOut,
    Unknown,
    Late,
    Running,
    Waiting,
    Cancelled,
    Skipped,
    Paused,
    Idle,
}

impl Look {
    /// The classes of its colour and of its sign.
    pub(super) fn class(self) -> &'static str {
        match self {
            Look::Good => "ok",
            Look::Bad => "bad",
            Look::TimedOut => "bad timed",
            Look::Unknown => "unk",
            Look::Late => "warn",
            Look::Running => "run",
            Look::Waiting => "idle wait",
            Look::Cancelled => "idle cut",
            Look::Skipped => "idle skip",
            Look::Paused => "idle held",
            Look::Idle => "idle",
        }
    }

    /// The sign before its word, as the stylesheet has it too: a state is not said by its colour alone.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Look::Good => "✓",
            Look::Bad => "✗",
            Look::TimedOut => "◔",
            Look::Unknown => "?",
            Look::Late => "!",
            Look::Running => "▸",
            Look::Waiting => "…",
            Look::Cancelled => "⊘",
            Look::Skipped => "↷",
            Look::Paused => "‖",
            Look::Idle => "○",
        }
    }
}

impl From<Verdict> for Look {
    fn from(verdict: Verdict) -> Look {
        match verdict {
            Verdict::Succeeded => Look::Good,
            Verdict::Failed => Look::Bad,
            Verdict::TimedOut => Look::TimedOut,
            Verdict::Cancelled => Look::Cancelled,
            Verdict::Skipped => Look::Skipped,
            Verdict::Unknown => Look::Unknown,
        }
    }
}

/// How a run ended.
pub(super) fn verdict(verdict: Verdict) -> Markup {
    state(verdict_word(verdict), verdict.into())
}

pub(crate) fn verdict_word(verdict: Verdict) -> &'static str {
    if verdict == Verdict::TimedOut { "timed out" } else { verdict.as_str() }
}

/// How a job stands.
pub(super) fn job_state(job: JobState) -> Markup {
    let (word, look) = job_word(job);
    state(word, look)
}

pub(crate) fn job_word(job: JobState) -> (&'static str, Look) {
    match job {
        JobState::Failing => ("failing", Look::Bad),
        JobState::Late => ("late", Look::Late),
        JobState::Running => ("running", Look::Running),
        JobState::Paused => ("paused", Look::Paused),
        JobState::Fine => ("fine", Look::Good),
        JobState::New => ("never ran", Look::Idle),
        JobState::OnDemand => ("on demand", Look::Idle),
        JobState::Unconfigured => ("not in file", Look::Idle),
    }
}

/// Where an open run stands.
pub(super) fn open_state(open: &Open) -> Markup {
    let (word, look) = open_word(open);
    state(word, look)
}

pub(crate) fn open_word(open: &Open) -> (&'static str, Look) {
    match open.state {
        OpenState::Waiting { .. } => ("waiting", Look::Waiting),
        OpenState::Retrying { .. } => ("retrying", Look::Waiting),
        OpenState::Claimed if open.started_at.is_some() => ("running", Look::Running),
        OpenState::Claimed => ("claimed", Look::Running),
    }
}

/// In the place of the output of a run that has ended, where none is kept.
pub fn nothing_kept(done: &Done) -> String {
    let never = done.started_at.is_none() && done.verdict != Verdict::Unknown;
    match (never, done.verdict) {
        (true, _) if done.reason.is_empty() => format!("It never started: it is {}.", verdict_word(done.verdict)),
        (true, _) => format!("It never started: {}.", shown(&done.reason).trim_end_matches('.')),
        (false, Verdict::Unknown) => {
            "Nothing that it wrote is kept: its node was lost before. The log of that node has it.".to_owned()
        }
        (false, _) => "It wrote nothing.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_kept_it_is_said_why() {
        let run = |started| Open { started_at: started, ..Open::claimed("a@2026-11-27T06:00:00Z".parse().unwrap()) };
        let of = |started, verdict, why| nothing_kept(&Done::of(&run(started), verdict, why, Wall::EPOCH));
        assert_eq!(of(None, Verdict::Skipped, "the job is paused"), "It never started: the job is paused.");
        assert_eq!(of(None, Verdict::Cancelled, ""), "It never started: it is cancelled.");
        assert_eq!(of(Some(Wall::EPOCH), Verdict::Failed, "exit code 3"), "It wrote nothing.");
        assert!(of(None, Verdict::Unknown, "").starts_with("Nothing that it wrote is kept"));
    }

    #[test]
    fn what_a_message_has_in_backticks_is_code() {
        let said = |text| spoken(text).into_string();
        assert_eq!(said("see `fencron <x>`"), "<bdi>see <code>fencron &lt;x&gt;</code></bdi>");
        assert_eq!(said("a ` b"), "<bdi>a ` b</bdi>");
    }

    #[test]
    fn what_would_hide_or_turn_text_is_seen() {
        assert_eq!(shown("a\u{202e}b\u{1b}[31mc\0\nd"), "a\u{fffd}b␛[31mc␀ d");
        assert_eq!(shown(&"x".repeat(SHOWN_MOST + 1)).chars().count(), SHOWN_MOST + 1);
        assert_eq!(foreign("<script>").into_string(), "<bdi>&lt;script&gt;</bdi>");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let texts = [7, 3_012, 61_000, 3_720_000, 93_600_000].map(|millis| took(Duration::from_millis(millis)));
        assert_eq!(texts, ["7 ms", "3.0 s", "1 min 01 s", "1 h 02 min", "1 d 02 h"]);
    }

    #[test]
    fn an_instant_names_its_zone_and_its_day_unless_it_is_today() {
        let now: Wall = "2026-11-27T07:00:00Z".parse().unwrap();
        let of = |zones: Zones, at: &str| instant(at.parse().unwrap(), Viewpoint { now, zones }).into_string();
        let text = |at: &str| of(Zones::Utc, at);
        assert_eq!(text("2026-11-27T06:59:01Z"), "<time datetime=\"2026-11-27T06:59:01Z\">06:59:01Z</time>");
        assert!(text("2026-11-26T23:59:01Z").contains(">2026-11-26 23:59:01Z<"));
        // A day begins where the person is.
        let berlin: Zones = "Europe/Berlin".parse().unwrap();
        assert!(of(berlin, "2026-11-26T23:59:01Z").ends_with(">00:59:01 +01:00</time>"));
        let honolulu: Zones = "Pacific/Honolulu".parse().unwrap();
        assert!(of(honolulu, "2026-11-27T08:00:00Z").ends_with(">22:00:00 -10:00</time>"));
        assert!(of(berlin, "2026-07-01T10:00:00Z").ends_with(">2026-07-01 12:00:00 +02:00</time>"));
    }

    #[test]
    fn numbers_are_read_in_groups() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1_000, 65_536, 123_456_789].map(bytes), ["0 B", "999 B", "1.0 kB", "65.5 kB", "123 MB"]);
    }
}
