//! Lines on their way to stderr, for a program that must not wait for their reader.
//!
//! A pipe without a reader, or a terminal that is held (Ctrl-S), takes no more than some kilobytes. A node that waited
//! for it would keep its lease, on a thread of its own, and do nothing with it. So a thread writes; lines that do not
//! fit into its queue are lost, and a line says how many.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TryRecvError, TrySendError};
use std::thread;
use std::time::Duration;

/// How many lines wait, at most, to be written.
const LINES_MOST: usize = 4096;

/// How much of one line is written, in bytes: with [`LINES_MOST`] the bound of what waits.
const LINE_MOST: usize = 16 * 1024;

/// Where lines are left for the thread that writes them. Leaving one never waits.
#[derive(Clone)]
pub(in crate::cli) struct Queue {
    to_thread: SyncSender<Item>,
    /// How many lines were lost and not reported yet.
    lost: Arc<AtomicU64>,
}

enum Item {
    /// A line, and how many were lost right before it.
    Line { text: Box<[u8]>, lost_before: u64 },
    /// Everything before it has been written once this is dropped.
    End(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes to `out`, and reports `n` lost lines by writing `report(n)`.
    pub fn start(
        out: impl Write + Send + 'static,
        report: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Queue> {
        let (to_thread, lines) = mpsc::sync_channel(LINES_MOST);
        let lost = Arc::new(AtomicU64::new(0));
        let mut writer = Writer { out, report, lost: Arc::clone(&lost), lines };
        thread::Builder::new().name("fencron-log".into()).spawn(move || writer.run())?;
        Ok(Queue { to_thread, lost })
    }

    /// Leaves one line, or more that belong together, with their ends.
    pub fn send(&self, text: &[u8]) {
        let text = if text.len() > LINE_MOST { [&text[..LINE_MOST], b"...\n"].concat() } else { text.to_vec() };
        let lost_before = self.lost.swap(0, Ordering::Relaxed);
        let line = Item::Line { text: text.into(), lost_before };
        if self.to_thread.try_send(line).is_err() {
            self.lost.fetch_add(lost_before + 1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was left before has been written, at most for `patience`.
    pub fn finish(&self, patience: Duration) {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let (end, ended) = mpsc::sync_channel(1);
        let mut item = Item::End(end);
        let mut left = patience;
        while let Err(TrySendError::Full(back)) = self.to_thread.try_send(item) {
            if left.is_zero() {
                return;
            }
            item = back;
            thread::sleep(LOOK_EVERY);
            left = left.saturating_sub(LOOK_EVERY);
        }
        // An error is what is waited for: the other end is dropped, or it takes too long.
        ended.recv_timeout(left).ok();
    }
}

/// As `tracing` writes: an event at a time.
impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writer<W, T> {
    out: W,
    report: T,
    lost: Arc<AtomicU64>,
    lines: mpsc::Receiver<Item>,
}

impl<W: Write, T: Fn(u64) -> String> Writer<W, T> {
    fn run(&mut self) {
        loop {
            let item = match self.lines.try_recv() {
                Ok(item) => item,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.tell_of(self.lost.swap(0, Ordering::Relaxed));
                    match self.lines.recv() {
                        Ok(item) => item,
                        Err(_) => return,
                    }
                }
            };
            match item {
                Item::Line { text, lost_before } => {
                    self.tell_of(lost_before);
                    self.write(&text);
                }
                Item::End(end) => {
                    self.tell_of(self.lost.swap(0, Ordering::Relaxed));
                    drop(end);
                }
            }
        }
    }

    fn tell_of(&mut self, lost: u64) {
        if lost > 0 {
            let report = (self.report)(lost);
            self.write(report.as_bytes());
        }
    }

    /// A closed stderr has no reader.
    fn write(&mut self, bytes: &[u8]) {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Mutex;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn tell(lost: u64) -> String {
        format!("lost {lost}\n")
    }

    #[test]
    fn what_is_left_is_written_in_its_order_by_the_end() {
        let written = Written::default();
        let queue = Queue::start(written.clone(), tell).unwrap();
        queue.send(b"one\n");
        queue.send(b"two\n");
        queue.finish(LIMIT);
        assert_eq!(written.text(), "one\ntwo\n");
    }

    #[test]
    fn what_does_not_fit_is_lost_at_once_and_told_where_it_is_missing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::start(writer, tell).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let sent = LINES_MOST + 1000;
        for _ in 0..sent {
            queue.send(&line);
        }
        let read = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        queue.finish(LIMIT);
        queue.send(b"last\n");
        queue.finish(LIMIT);
        drop(queue);
        let text = read.join().unwrap();
        let told = text.lines().filter_map(|line| line.strip_prefix("lost ")).map(|n| n.parse::<usize>().unwrap());
        let lost: usize = told.sum();
        assert!(lost > 0, "more was sent than the pipe and the queue hold");
        assert_eq!(text.lines().filter(|line| line.starts_with('x')).count() + lost, sent);
        assert!(text.ends_with("last\n"));
    }

    #[test]
    fn an_end_that_never_comes_is_waited_for_no_longer_than_told() {
        let (_unread, writer) = io::pipe().unwrap();
        let queue = Queue::start(writer, tell).unwrap();
        for _ in 0..2 * LINES_MOST {
            queue.send(&[b'x'; 64]);
        }
        queue.finish(Duration::from_millis(20));
    }

    #[test]
    fn a_line_is_bounded() {
        let written = Written::default();
        let queue = Queue::start(written.clone(), tell).unwrap();
        queue.send(&[b'x'; 10 * LINE_MOST]);
        queue.finish(LIMIT);
        assert_eq!(written.text().len(), LINE_MOST + "...\n".len());
    }
}
