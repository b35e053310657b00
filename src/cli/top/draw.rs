//! Drawing: the head, the list of the screen, and the keys.

use ratatui::Frame as Canvas;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::rows::{Ink, fit, wrapped};
use super::state::{Screen, Top};
use crate::page::frame::{Frame, Pill};
use crate::page::words::{Look, close_distance, count, grouped, shown};
use crate::time::{Boot, Wall};

/// The least that the screens are legible on: columns and lines.
const LEAST: (u16, u16) = (72, 12);

/// How many lines what is wrong with the store or the firing may take.
const NOTICE_MOST: usize = 4;

pub(super) fn draw(canvas: &mut Canvas<'_>, top: &mut Top, now: (Boot, Wall)) {
    let area = canvas.area();
    let buffer = canvas.buffer_mut();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        return too_small(buffer, area);
    }
    let frame = top.frame(now);
    let ink = Ink { is_coloured: top.is_coloured };
    let mut head = vec![status(&frame, ink, usize::from(area.width)), tabs(top, ink, usize::from(area.width))];
    head.extend(notices(top, &frame, ink, usize::from(area.width)));
    let mut y = area.y;
    for line in &head {
        buffer.set_line(area.x, y, line, area.width);
        y += 1;
    }
    let list = Rect { y, height: area.bottom().saturating_sub(y + 1), ..area };
    // One column is the mark of the chosen row.
    top.size = (list.width.saturating_sub(1), list.height);
    if top.shows_help {
        help(buffer, list, ink);
    } else {
        rows(buffer, list, top, now);
    }
    footer(buffer, Rect { y: area.bottom() - 1, height: 1, ..area }, top, ink);
}

fn too_small(buffer: &mut Buffer, area: Rect) {
    let text = format!(
        "This terminal has {} columns and {} lines. `fencron top` takes {} and {}: enlarge it, or press q to quit.",
        area.width, area.height, LEAST.0, LEAST.1
    );
    for (y, line) in (area.y..area.bottom()).zip(wrapped(&text, usize::from(area.width))) {
        buffer.set_line(area.x, y, &Line::raw(line), area.width);
    }
}

/// Whether jobs are fired, and under which leader.
fn status(frame: &Frame, ink: Ink, width: usize) -> Line<'static> {
    let (word, _, sign) = frame.firing.look();
    let look = match &frame.firing {
        Pill::Firing => Look::Good,
        Pill::Degraded(_) => Look::Late,
        Pill::NotFiring(_) => Look::Bad,
        Pill::Unclear(_) => Look::Unknown,
    };
    let leader = match &frame.leader {
        Some(leader) => {
            let node = leader.node.as_deref().map_or_else(|| "a node that is gone".to_owned(), shown);
            let fence = leader.fence.map_or_else(String::new, |fence| format!(", fence {fence}"));
            format!("{node}{fence}")
        }
        None => "no leader".to_owned(),
    };
    let time = frame.view().written(frame.now, false);
    let left = vec![
        Span::styled("fencron ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("{}  ", shown(&frame.namespace))),
        Span::styled(format!("{sign} {word}"), ink.of(look).add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {leader}")),
    ];
    apart(left, Span::raw(time), width)
}

/// The screens, and how many jobs there are.
fn tabs(top: &Top, ink: Ink, width: usize) -> Line<'static> {
    let mut left = Vec::new();
    for (index, (screen, name)) in Screen::ALL.iter().enumerate() {
        let is_here = *screen == top.screen;
        let text = if is_here { format!("[{} {name}]", index + 1) } else { format!(" {} {name} ", index + 1) };
        let style = if is_here { Style::new().add_modifier(Modifier::BOLD) } else { ink.muted() };
        left.push(Span::styled(text, style));
    }
    apart(left, Span::styled(shown(&top.store), ink.muted()), width)
}

/// A line with something at its right end, as far as there is room for it.
fn apart(mut left: Vec<Span<'static>>, right: Span<'static>, width: usize) -> Line<'static> {
    let taken: usize = left.iter().map(Span::width).sum();
    let room = width.saturating_sub(taken + 2);
    let text = fit(&right.content, room);
    let gap = (width - taken.min(width)).saturating_sub(Span::raw(text.as_str()).width());
    left.push(Span::raw(" ".repeat(gap)));
    left.push(Span::styled(text, right.style));
    Line::from(left)
}

/// What is wrong with what is shown, or with the firing.
fn notices(top: &Top, frame: &Frame, ink: Ink, width: usize) -> Vec<Line<'static>> {
    let mut notices = Vec::new();
    if let Some(why) = top.seen.away() {
        let old = match frame.heard_at {
            Some(heard) => format!(
                "What stands here is as of {}, {}.",
                frame.view().written(heard, false),
                close_distance(heard, frame.now)
            ),
            None => "Nothing has been read yet.".to_owned(),
        };
        notices.push((Look::Unknown, format!("The store does not answer: {}. {old} Trying again.", shown(why))));
    }
    // A store that is away explains why nothing is known.
    let is_explained = top.seen.away().is_some() && matches!(frame.firing, Pill::Unclear(_));
    if let Some(why) = frame.firing.why().filter(|_| !is_explained) {
        let look = if matches!(frame.firing, Pill::NotFiring(_)) { Look::Bad } else { Look::Late };
        notices.push((look, shown(why)));
    }
    let lines = notices.into_iter().flat_map(|(look, text)| {
        let lines = wrapped(&format!("{} {text}", look.sign()), width);
        lines.into_iter().map(move |line| Line::styled(line, ink.of(look)))
    });
    lines.take(NOTICE_MOST).collect()
}

fn rows(buffer: &mut Buffer, area: Rect, top: &mut Top, now: (Boot, Wall)) {
    let rows = top.rows(now);
    let (first, chosen) = top.settle(&rows);
    for (y, (index, row)) in (area.y..area.bottom()).zip(rows.iter().enumerate().skip(first)) {
        buffer.set_line(area.x + 1, y, &row.line, area.width - 1);
        if chosen == Some(index) {
            buffer.set_string(area.x, y, ">", Style::new());
            buffer.set_style(Rect { y, height: 1, ..area }, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// The keys, by what they do.
const HELP: [(&str, &str); 13] = [
    ("1 2 3 4", "the screens: Now, Jobs, Run, Leadership"),
    ("Tab, Shift-Tab", "the next screen, the one before"),
    ("j k, ↓ ↑", "move down, up"),
    ("Page Down, Page Up", "move by a page; Home and End: to the ends"),
    ("Enter", "open the run, or the last run of the job"),
    ("Esc", "back; on Jobs first: show all jobs again"),
    ("/", "find jobs by a text in their names or descriptions, owner:… or label:…"),
    ("f", "on Jobs: only those that fail, are late, run, are paused; all"),
    ("h l, ← →", "on Run: the next newer run of the job, the next older one"),
    ("?", "this help; any key closes it"),
    ("q, Ctrl-C", "quit"),
    ("", ""),
    ("", "It only reads. The commands in the lists change things: enter them in a shell."),
];

/// How wide the column of the keys is.
const KEYS: usize = 20;

fn help(buffer: &mut Buffer, area: Rect, ink: Ink) {
    let lines = HELP.iter().flat_map(|(keys, what)| {
        let texts = wrapped(what, usize::from(area.width).saturating_sub(1 + KEYS)).into_iter().enumerate();
        texts.map(move |(nth, text)| {
            let keys = if nth == 0 { *keys } else { "" };
            Line::from(vec![Span::styled(format!(" {keys:<KEYS$}"), ink.strong()), Span::raw(text)])
        })
    });
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        buffer.set_line(area.x, y, &line, area.width);
    }
}

fn footer(buffer: &mut Buffer, area: Rect, top: &Top, ink: Ink) {
    let line = if top.is_finding {
        let room = usize::from(area.width).saturating_sub("Find: _  Enter keeps it  Esc shows all jobs".len());
        let text = shown(&top.text);
        // The end of a long text is where it is being written.
        let skipped = text.chars().count().saturating_sub(room);
        let text: String = text.chars().skip(skipped).collect();
        Line::from(vec![
            Span::styled("Find: ", ink.strong()),
            Span::raw(text),
            Span::styled("_", ink.strong()),
            Span::styled("  Enter keeps it  Esc shows all jobs", ink.muted()),
        ])
    } else {
        let mut keys: Vec<(&str, &str)> = match top.screen {
            Screen::Run => vec![("h/l ←→", "newer, older"), ("j/k ↓↑", "move")],
            Screen::Jobs => vec![("/", "find"), ("f", "filter"), ("Enter", "open"), ("j/k ↓↑", "move")],
            Screen::Now | Screen::Leadership => vec![("/", "find"), ("Enter", "open"), ("j/k ↓↑", "move")],
        };
        let always = [("Esc", "back"), ("1-4", "screens"), ("?", "help"), ("q", "quit")];
        let line = |keys: &[(&str, &str)]| {
            let spans = keys.iter().chain(&always).enumerate().flat_map(|(nth, (key, what))| {
                let gap = if nth == 0 { "" } else { "  " };
                [Span::styled(format!("{gap}{key}"), ink.strong()), Span::styled(format!(" {what}"), ink.muted())]
            });
            Line::from(spans.collect::<Vec<_>>())
        };
        // Of the keys for which there is no room, the help has the rest.
        while line(&keys).width() > usize::from(area.width) && keys.pop().is_some() {}
        line(&keys)
    };
    buffer.set_line(area.x, area.y, &line, area.width);
}

/// How many jobs there are and in which states, in a line.
pub(super) fn counts(frame: &Frame) -> String {
    let counts = frame.counts;
    format!(
        "{}: {} failing, {} late, {} running, {} paused",
        count(counts.jobs, "job"),
        grouped(counts.failing),
        grouped(counts.late),
        grouped(counts.running),
        grouped(counts.paused)
    )
}
