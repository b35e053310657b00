//! The output of runs: kept to a bounded tail, followed live, and logged.
//!
//! Each run's text is in one ring that its [`OutputSink`] owns and lends to its followers, through a watch channel. A
//! follower remembers how far it has read and copies what is new, so that there is no queue for each follower to
//! overflow: a slow one finds that the ring has moved on, and learns how much it missed. The run never waits for a
//! follower longer than one copy of at most two rings (128 KiB) takes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

#[cfg(feature = "cli")]
use super::whole::Whole;
use crate::job::{JobName, OUTPUT_KEPT, RunId};
use crate::time::{Boot, Clock};

/// How much of a running command's output a new follower is shown, in bytes.
pub const FOLLOW_KEPT: usize = 64 * 1024;
/// How much of one line is logged, in bytes. The rest is cut and marked.
pub const LINE_LOGGED: usize = 4 * 1024;
/// How many lines of one run may be logged at once.
pub const LINES_LOGGED_BURST: u32 = 2_000;
/// How many lines of one run are logged in a second after that. Those beyond are counted, and the number is logged.
pub const LINES_LOGGED_PER_SECOND: u32 = 200;

const _: () = assert!(OUTPUT_KEPT <= FOLLOW_KEPT, "the tail that is kept is the end of the ring");

/// Which of its two outputs a command wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The outputs of the runs that are running now on this node. Clones are the same hub.
///
/// ```
/// use fencron::execute::{Heard, Outputs, Stream};
/// use fencron::time::Clock;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let outputs = Outputs::new(Clock::system());
/// let run = "report@2026-11-21T02:00:00Z".parse().unwrap();
/// let mut sink = outputs.open(&run);
/// sink.write(Stream::Stdout, b"hello\n");
/// let mut follow = outputs.follow(&run).unwrap();
/// assert_eq!(follow.next().await, Some(Heard::Text("hello\n".into())));
/// drop(sink); // the run has ended
/// assert_eq!(follow.next().await, None);
/// assert!(outputs.follow(&run).is_none());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Outputs {
    clock: Clock,
    /// Locked for one look-up or insertion at a time, never across an await: followers are looked up from anywhere,
    /// and a task that answered them would do no more than this.
    open: Arc<Mutex<HashMap<RunId, watch::Receiver<Ring>>>>,
}

impl Outputs {
    /// A hub that no run writes to yet. `clock` is what the rate of logged lines is measured by.
    pub fn new(clock: Clock) -> Outputs {
        Outputs { clock, open: Arc::default() }
    }

    /// Where the output of an attempt of `run` goes. It takes the place of an earlier attempt's.
    pub fn open(&self, run: &RunId) -> OutputSink {
        self.open_attempt(run, 1)
    }

    /// Where the output of this attempt of `run` goes, counted from 1. It takes the place of an earlier attempt's.
    pub fn open_attempt(&self, run: &RunId, attempt: u32) -> OutputSink {
        let (ring, lent) = watch::channel(Ring { attempt, ..Ring::default() });
        self.lock().insert(run.clone(), lent);
        OutputSink {
            log: Log::new(run.clone(), self.clock.clone()),
            ring,
            stdout: Utf8::default(),
            stderr: Utf8::default(),
            bytes: 0,
            #[cfg(feature = "cli")]
            whole: None,
            hub: self.clone(),
        }
    }

    /// Follows what `run` writes, from what is still kept of it. `None`: it is not running on this node.
    pub fn follow(&self, run: &RunId) -> Option<Follow> {
        self.lock().get(run).map(|ring| Follow { ring: ring.clone(), read: 0 })
    }

    /// Follows what `run` writes from its byte `offset` on, where the attempt that runs is this one. `None`: it is not
    /// running on this node, or another attempt of it is.
    pub fn resume(&self, run: &RunId, attempt: u32, offset: u64) -> Option<Follow> {
        let follow = self.follow(run)?.skip_to(offset);
        Some(follow).filter(|follow| follow.attempt() == attempt)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, watch::Receiver<Ring>>> {
        // A panic between lock and unlock cannot leave a map half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what one attempt writes. When it is dropped or finished, the run's followers come to their end.
#[derive(Debug)]
pub struct OutputSink {
    log: Log,
    ring: watch::Sender<Ring>,
    stdout: Utf8,
    stderr: Utf8,
    bytes: u64,
    #[cfg(feature = "cli")]
    whole: Option<Whole>,
    hub: Outputs,
}

impl OutputSink {
    /// Takes a piece of output. It never waits.
    pub fn write(&mut self, stream: Stream, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        #[cfg(feature = "cli")]
        if let Some(whole) = &mut self.whole {
            whole.take(piece);
        }
        let decoder = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let text = decoder.decode(piece);
        self.take(stream, &text);
    }

    /// Keeps all that is written from now on in this file too.
    #[cfg(feature = "cli")]
    pub(super) fn keep_whole(&mut self, whole: Option<Whole>) {
        self.whole = whole;
    }

    /// The file that all is kept in, if any.
    #[cfg(feature = "cli")]
    pub(super) fn whole(&self) -> Option<&Whole> {
        self.whole.as_ref()
    }

    /// Waits until all that was written is in that file, for a while: nothing waits for a disk that does not answer.
    /// Cancel safe.
    #[cfg(feature = "cli")]
    pub(super) async fn settle(&mut self) {
        if let Some(whole) = &mut self.whole {
            whole.settle().await;
        }
    }

    /// The end of what was written, at most [`OUTPUT_KEPT`] bytes of whole characters, and how many bytes it was in
    /// all.
    pub fn finish(mut self) -> (String, u64) {
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        self.take(Stream::Stdout, stdout);
        self.take(Stream::Stderr, stderr);
        self.log.finish();
        (self.ring.borrow().last(OUTPUT_KEPT).to_owned(), self.bytes)
    }

    fn take(&mut self, stream: Stream, text: &str) {
        if !text.is_empty() {
            self.ring.send_modify(|ring| ring.push(text));
            self.log.take(stream, text);
        }
    }
}

impl Drop for OutputSink {
    fn drop(&mut self) {
        let mut open = self.hub.lock();
        if open.get(&self.log.run_id).is_some_and(|lent| lent.same_channel(&self.ring.subscribe())) {
            open.remove(&self.log.run_id);
        }
    }
}

/// Reads along with a run.
#[derive(Debug)]
pub struct Follow {
    ring: watch::Receiver<Ring>,
    /// How much of the run's text was read or missed.
    read: u64,
}

/// What a follower receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The next piece of text, as it came.
    Text(String),
    /// So many bytes were written that are kept no longer: it came too late, or was too slow.
    Missed(u64),
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heard::Text(text) => f.write_str(text),
            Heard::Missed(bytes) => writeln!(f, "\n… {bytes} bytes not shown …"),
        }
    }
}

impl Follow {
    /// Goes on from the byte `offset` of what the attempt writes.
    #[must_use]
    pub fn skip_to(self, offset: u64) -> Follow {
        Follow { read: offset, ..self }
    }

    /// The attempt that is followed, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.ring.borrow().attempt
    }

    /// How many bytes of what the attempt wrote have been read or missed.
    pub fn offset(&self) -> u64 {
        self.read
    }

    /// What comes next; `None` when the run has ended and all was read. Cancel safe.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some(piece) = self.unread() {
                return Some(piece);
            }
            if self.ring.changed().await.is_err() {
                return self.unread();
            }
        }
    }

    fn unread(&mut self) -> Option<Heard> {
        let ring = self.ring.borrow_and_update();
        if self.read < ring.forgotten {
            let missed = ring.forgotten - self.read;
            self.read = ring.forgotten;
            return Some(Heard::Missed(missed));
        }
        let unread = usize::try_from(self.read - ring.forgotten).expect("no more than was kept");
        if unread >= ring.text.len() {
            return None;
        }
        // A reader may have named a place inside of a character.
        let text = ring.text[ring.text.ceil_char_boundary(unread)..].to_owned();
        self.read = ring.forgotten + ring.text.len() as u64;
        Some(text).filter(|text| !text.is_empty()).map(Heard::Text)
    }
}

/// The last of a text: [`FOLLOW_KEPT`] bytes and up to as much again, so that making room is rare.
#[derive(Debug, Default)]
struct Ring {
    /// The attempt that writes.
    attempt: u32,
    text: String,
    /// How many bytes came before `text`.
    forgotten: u64,
}

impl Ring {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        if self.text.len() > 2 * FOLLOW_KEPT {
            let cut = self.text.len() - self.last(FOLLOW_KEPT).len();
            self.text.drain(..cut);
            self.forgotten += cut as u64;
        }
    }

    fn last(&self, most: usize) -> &str {
        let at = self.text.ceil_char_boundary(self.text.len().saturating_sub(most));
        &self.text[at..]
    }
}

/// Makes text of bytes that come in pieces: what is not UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a character whose end has not come: at most 3 bytes.
    begun: Vec<u8>,
}

impl Utf8 {
    fn decode<'a>(&mut self, piece: &'a [u8]) -> std::borrow::Cow<'a, str> {
        if self.begun.is_empty() {
            let whole = piece.len() - incomplete(piece);
            self.begun.extend_from_slice(&piece[whole..]);
            return String::from_utf8_lossy(&piece[..whole]);
        }
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(piece);
        self.begun = bytes.split_off(bytes.len() - incomplete(&bytes));
        String::from_utf8_lossy(&bytes).into_owned().into()
    }

    fn finish(&mut self) -> &'static str {
        if std::mem::take(&mut self.begun).is_empty() { "" } else { "\u{fffd}" }
    }
}

/// How many bytes at the end may be the beginning of a character.
fn incomplete(bytes: &[u8]) -> usize {
    let chunk = bytes.utf8_chunks().last().map_or(&[][..], |last| last.invalid());
    // Only a beginning, not a byte that no continuation makes valid: that one is an error already.
    let begins = chunk.first().is_some_and(|first| chunk.len() < char_len(*first));
    if begins { chunk.len() } else { 0 }
}

fn char_len(first: u8) -> usize {
    match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 0,
    }
}

/// Logs the lines of one run: each of at most [`LINE_LOGGED`] bytes, no more than the rate allows.
#[derive(Debug)]
struct Log {
    job: JobName,
    run_id: RunId,
    clock: Clock,
    stdout: Line,
    stderr: Line,
    /// How many more lines may be logged now, and when that was computed.
    allowed: u32,
    allowed_at: Boot,
    withheld: u64,
}

#[derive(Debug, Default)]
struct Line {
    text: String,
    /// How many bytes of it were cut.
    cut: usize,
}

impl Log {
    fn new(run_id: RunId, clock: Clock) -> Log {
        Log {
            job: run_id.job(),
            run_id,
            allowed_at: clock.boot(),
            clock,
            stdout: Line::default(),
            stderr: Line::default(),
            allowed: LINES_LOGGED_BURST,
            withheld: 0,
        }
    }

    fn take(&mut self, stream: Stream, text: &str) {
        if !tracing::enabled!(target: "fencron::output", tracing::Level::INFO) {
            return;
        }
        self.allow_more();
        for part in text.split_inclusive('\n') {
            let line = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            line.push(part.trim_end_matches(['\r', '\n']));
            if part.ends_with('\n') {
                let line = std::mem::take(line);
                self.log(stream, &line);
            }
        }
    }

    fn allow_more(&mut self) {
        let second = Duration::from_secs(1);
        let now = self.clock.boot();
        let elapsed = now.since(self.allowed_at);
        if elapsed < second {
            return;
        }
        self.allowed_at = now;
        let more = u64::from(LINES_LOGGED_PER_SECOND).saturating_mul(elapsed.as_secs());
        self.allowed = self.allowed.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(LINES_LOGGED_BURST);
        self.report_withheld();
    }

    fn log(&mut self, stream: Stream, line: &Line) {
        let Some(allowed) = self.allowed.checked_sub(1) else {
            self.withheld += 1;
            return;
        };
        self.allowed = allowed;
        let Line { text, cut } = line;
        let marked = if *cut > 0 { format!("{text} … {cut} bytes cut …") } else { String::new() };
        let shown = if *cut > 0 { &marked } else { text };
        tracing::info!(
            target: "fencron::output", job = %self.job, run_id = %self.run_id, stream = stream.as_str(), "{shown}"
        );
    }

    fn report_withheld(&mut self) {
        let withheld = std::mem::take(&mut self.withheld);
        if withheld > 0 {
            tracing::warn!(
                target: "fencron::output", job = %self.job, run_id = %self.run_id, withheld,
                "more output than is logged: lines left out"
            );
        }
    }

    fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            });
            if !line.text.is_empty() {
                self.log(stream, &line);
            }
        }
        self.report_withheld();
    }
}

impl Line {
    fn push(&mut self, part: &str) {
        let room = part.floor_char_boundary(LINE_LOGGED.saturating_sub(self.text.len()));
        let (kept, cut) = if self.cut > 0 { ("", part.len()) } else { (&part[..room], part.len() - room) };
        self.text.push_str(kept);
        self.cut += cut;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::sync::Once;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing_subscriber::filter::DynFilterFn;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
    use tracing_subscriber::util::SubscriberInitExt as _;

    use super::*;
    use crate::time::Wall;

    fn run_id() -> RunId {
        "report@2026-11-21T02:00:00Z".parse().unwrap()
    }

    fn outputs() -> Outputs {
        Outputs::new(Clock::system())
    }

    async fn all(mut follow: Follow) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Some(next) = follow.next().await {
            heard.push(next);
        }
        heard
    }

    fn decode(pieces: &[&[u8]]) -> String {
        let mut decoder = Utf8::default();
        let mut text: String = pieces.iter().map(|piece| decoder.decode(piece).into_owned()).collect();
        text.push_str(decoder.finish());
        text
    }

    #[test]
    fn a_character_that_comes_in_pieces_is_whole() {
        for text in ["é", "€", "🦀", "a€b🦀"] {
            let bytes = text.as_bytes();
            for cut in 0..=bytes.len() {
                assert_eq!(decode(&[&bytes[..cut], &bytes[cut..]]), text);
            }
            assert_eq!(decode(&bytes.chunks(1).collect::<Vec<_>>()), text);
        }
    }

    #[test]
    fn pieces_of_anything_decode_like_the_whole() {
        proptest::proptest!(|(bytes: Vec<u8>, cuts: Vec<proptest::sample::Index>)| {
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let mut from = 0;
            let pieces: Vec<_> = ends.iter().map(|end| &bytes[std::mem::replace(&mut from, *end)..*end]).collect();
            proptest::prop_assert_eq!(decode(&pieces), String::from_utf8_lossy(&bytes));
        });
    }

    #[test]
    fn the_tail_is_bounded_and_begins_with_a_character() {
        let mut sink = outputs().open(&run_id());
        sink.write(Stream::Stdout, "🦀".repeat(100_000).as_bytes());
        sink.write(Stream::Stderr, b"end");
        let (tail, bytes) = sink.finish();
        assert_eq!(bytes, 400_003);
        assert!(tail.len() <= OUTPUT_KEPT && tail.len() > OUTPUT_KEPT - 4);
        assert!(tail.starts_with('🦀') && tail.ends_with("🦀end"));
    }

    #[test]
    fn what_is_not_utf_8_does_not_make_the_tail_longer() {
        let mut sink = outputs().open(&run_id());
        sink.write(Stream::Stdout, &[0xff; OUTPUT_KEPT]);
        let (tail, bytes) = sink.finish();
        assert_eq!((tail.len(), bytes), (OUTPUT_KEPT / 3 * 3, OUTPUT_KEPT as u64));
    }

    #[test]
    fn the_ring_is_bounded() {
        let mut ring = Ring::default();
        for _ in 0..10_000 {
            ring.push(&"x".repeat(997));
            assert!(ring.text.len() <= 2 * FOLLOW_KEPT);
        }
        assert_eq!(ring.forgotten + ring.text.len() as u64, 9_970_000);
        assert!(ring.text.len() >= FOLLOW_KEPT);
    }

    #[tokio::test]
    async fn a_slow_follower_misses_the_middle_and_is_told_how_much() {
        let outputs = outputs();
        let mut sink = outputs.open(&run_id());
        let mut follow = outputs.follow(&run_id()).unwrap();
        sink.write(Stream::Stdout, b"first");
        assert_eq!(follow.next().await, Some(Heard::Text("first".into())));
        let line = [b'x'; 1024];
        for _ in 0..1024 {
            sink.write(Stream::Stdout, &line);
        }
        drop(sink);
        let heard = all(follow).await;
        let [Heard::Missed(missed), Heard::Text(text)] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!(missed + text.len() as u64, 1024 * 1024);
        assert!(text.len() >= FOLLOW_KEPT);
        assert_eq!(heard[0].to_string(), format!("\n… {missed} bytes not shown …\n"));
    }

    #[tokio::test]
    async fn a_follower_reads_to_the_end_of_a_run_that_has_ended() {
        let outputs = outputs();
        let mut sink = outputs.open(&run_id());
        let follow = outputs.follow(&run_id()).unwrap();
        sink.write(Stream::Stdout, b"a\xe2\x82");
        sink.finish();
        assert!(outputs.follow(&run_id()).is_none(), "the run is forgotten");
        assert_eq!(all(follow).await, [Heard::Text("a\u{fffd}".into())]);
    }

    #[tokio::test]
    async fn the_end_of_an_attempt_does_not_end_the_next() {
        let outputs = outputs();
        let first = outputs.open(&run_id());
        let mut second = outputs.open(&run_id());
        drop(first);
        second.write(Stream::Stdout, b"again");
        assert_eq!(outputs.follow(&run_id()).unwrap().next().await, Some(Heard::Text("again".into())));
    }

    thread_local! {
        /// What was logged by this thread, while that is of interest.
        static PAGE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    }

    struct Page;

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            PAGE.with_borrow_mut(|page| page.as_mut().map_or(Ok(bytes.len()), |page| page.write(bytes)))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// One subscriber for all threads, each with its own page. Were it one for a thread, another thread that came first to
    /// a place that logs would have it cached that nobody listens there: tracing asks the current thread's alone, while
    /// there is but one.
    fn listen() {
        static LISTENS: Once = Once::new();
        LISTENS.call_once(|| {
            let wanted = DynFilterFn::new(|_, _| PAGE.with_borrow(Option::is_some));
            let pages = tracing_subscriber::fmt::layer().with_ansi(false).without_time().with_writer(|| Page);
            tracing_subscriber::registry().with(pages.with_filter(wanted)).init();
        });
        tracing::callsite::rebuild_interest_cache();
    }

    /// What a run that writes `pieces` logs. `pause` goes by before each piece.
    fn logged(pieces: &[&str], pause: Duration) -> Vec<String> {
        listen();
        let millis = Arc::new(AtomicU64::new(0));
        let read = millis.clone();
        let clock = Clock::from_fn(move || {
            (Boot::from_duration(Duration::from_millis(read.load(Ordering::Relaxed))), Wall::EPOCH)
        });
        PAGE.set(Some(Vec::new()));
        let mut sink = Outputs::new(clock).open(&run_id());
        for piece in pieces {
            millis.fetch_add(u64::try_from(pause.as_millis()).unwrap(), Ordering::Relaxed);
            sink.write(Stream::Stderr, piece.as_bytes());
        }
        sink.finish();
        let page = PAGE.take().unwrap();
        String::from_utf8_lossy(&page).lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_line_is_logged_with_its_job_run_and_stream() {
        let lines = logged(&["one\r\ntw", "o\n\nthree"], Duration::ZERO);
        let fields = "job=report run_id=report@2026-11-21T02:00:00Z stream=\"stderr\"";
        let line = |text| format!(" INFO fencron::output: {text} {fields}");
        assert_eq!(lines, [line("one"), line("two"), line(""), line("three")]);
    }

    #[test]
    fn a_long_line_is_cut_and_marked() {
        let half = "é".repeat(LINE_LOGGED / 2 - 1);
        let lines = logged(&[&half, "aéé", "b\n"], Duration::ZERO);
        assert!(lines[0].contains("éa … 5 bytes cut … job="), "{}", lines[0]);
    }

    #[test]
    fn more_lines_than_the_rate_are_counted_and_not_logged() {
        let burst = "x\n".repeat(LINES_LOGGED_BURST as usize + 7);
        let lines = logged(&[&burst], Duration::ZERO);
        assert_eq!(lines.len(), LINES_LOGGED_BURST as usize + 1);
        assert!(lines.last().unwrap().contains("withheld=7"), "{:?}", lines.last());

        let later = logged(&[&burst, &burst], Duration::from_secs(1));
        let expected = (LINES_LOGGED_BURST + LINES_LOGGED_PER_SECOND + 2) as usize;
        assert_eq!(later.len(), expected, "a second later there is room for some more");
    }
}
