//! Logs: `tracing` to stderr, for people or for programs.

mod queue;

use std::fmt;
use std::io::{self, IsTerminal};

use chrono::SecondsFormat;
use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub(super) use queue::Queue;

use super::Failure;
use super::terminal::is_coloured;
use crate::time::Clock;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// The target of what jobs write.
const OUTPUT: &str = "fencron::output";

/// Begins to log what FENCRON_LOG or RUST_LOG says, or else `default`: through `queue`, or without one, in which case
/// each line waits for the reader of stderr.
pub(super) fn start(format: LogFormat, default: &str, clock: Clock, queue: Option<Queue>) -> Result<(), Failure> {
    let filter = filter(default)?;
    let time = Time(clock);
    let writer = match queue {
        Some(queue) => BoxMakeWriter::new(move || queue.clone()),
        None => BoxMakeWriter::new(io::stderr),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_timer(time).init(),
        LogFormat::Text => {
            let coloured = is_coloured(io::stderr().is_terminal());
            let events = Format::default().with_timer(time.clone()).with_target(false);
            builder.with_ansi(coloured).event_format(Text { time, events }).init();
        }
    }
    Ok(())
}

/// The queue of a program that must not wait for the reader of its stderr.
pub(super) fn queue(format: LogFormat, clock: Clock) -> io::Result<Queue> {
    Queue::start(io::stderr(), move |lost| lost_lines(format, lost, &clock))
}

/// A line like the others, that says how many of them are missing.
fn lost_lines(format: LogFormat, lost: u64, clock: &Clock) -> String {
    let time = clock.wall().to_utc().to_rfc3339_opts(SecondsFormat::Millis, true);
    let message = "lines are missing here: the reader of stderr was too slow, and a node does not wait for it";
    match format {
        LogFormat::Text => format!("{time}  WARN {message} lost={lost}\n"),
        LogFormat::Json => {
            let line = serde_json::json!({"timestamp": time, "level": "WARN", "message": message, "lost": lost});
            format!("{line}\n")
        }
    }
}

/// Targets that are not logged below INFO: HTTP clients log the names of hosts, which may come from a secret; and
/// `notify` logs each change in the directory of the jobs file, which is one line more for each line of a log that is
/// kept there.
const HELD_AT_INFO: [&str; 4] = ["reqwest=info", "hyper_util=info", "rustls=info", "notify=info"];

fn filter(default: &str) -> Result<EnvFilter, Failure> {
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    let filter = match ["FENCRON_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, set(name)?))) {
        None => EnvFilter::new(default),
        Some((name, text)) => EnvFilter::try_new(&text)
            .map_err(|error| Failure::wrong(format!("{name}: {error}: write it like info, or fencron=debug,warn")))?,
    };
    // Only where more would be logged, so that a filter that wants less of all stays as it is.
    if filter.max_level_hint().is_some_and(|most| most <= LevelFilter::INFO) {
        return Ok(filter);
    }
    let quiet = HELD_AT_INFO.iter().map(|text| text.parse().expect("a directive of ours is one"));
    Ok(quiet.fold(filter, EnvFilter::add_directive))
}

/// Writes the time of an event in UTC with milliseconds, always of the same width.
#[derive(Clone)]
struct Time(Clock);

impl FormatTime for Time {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&self.0.wall().to_utc().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// Events for people: what jobs write as `job | line`, the rest as usual.
struct Text {
    time: Time,
    events: Format<Full, Time>,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = OutputLine::default();
        if event.metadata().target() == OUTPUT && *event.metadata().level() == tracing::Level::INFO {
            event.record(&mut line);
        }
        let OutputLine { job: Some(job), text } = line else {
            return self.events.format_event(context, writer, event);
        };
        self.time.format_time(&mut writer)?;
        writeln!(writer, "      {job} | {}", super::terminal::visible(&text))
    }
}

/// A line that a job wrote.
#[derive(Default)]
struct OutputLine {
    job: Option<String>,
    text: String,
}

impl Visit for OutputLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "job" => self.job = Some(format!("{value:?}")),
            "message" => self.text = format!("{value:?}"),
            _ => {}
        }
    }
}
