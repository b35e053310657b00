//! Drawings, as SVG without a style of its own: classes give the colours, and a title gives the words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, PreEscaped, html};

use super::words::{Look, took};

/// How wide a mark of a strip is, with the gap behind it.
const MARK: usize = 4;

/// How high charts are, in their own units.
const CHART_HEIGHT: u64 = 48;

/// The verdicts of the last runs, the newest at the right: a mark each. Marks of one kind in a row are one line, which the
/// stylesheet dashes, so that a strip stays small.
pub(super) fn strip(letters: &str, places: usize) -> Markup {
    let letters: Vec<char> = letters.chars().collect();
    let first = places.saturating_sub(letters.len());
    // One path for each kind, so that a strip stays small.
    let mut paths: BTreeMap<&str, String> = BTreeMap::new();
    let mut at = 0;
    while let Some(letter) = letters.get(at) {
        let same = letters[at..].iter().take_while(|other| *other == letter).count();
        let (from, length) = ((first + at) * MARK, same * MARK);
        let path = paths.entry(class_of(*letter)).or_default();
        write!(path, "M{from} 6h{length}").expect("a String takes all that is written");
        at += same;
    }
    html! {
        svg.strip viewBox={ "0 0 " (places * MARK) " 12" } role="img" {
            title { (said(&letters)) }
            @for (class, path) in paths { (PreEscaped(format!("<path class=\"{class}\" d=\"{path}\"/>"))) }
        }
    }
}

fn class_of(letter: char) -> &'static str {
    match letter {
        's' => "s",
        'f' | 't' => "f",
        'u' => "u",
        'c' => "c",
        _ => "k",
    }
}

/// What a strip says, in words: how many ended how.
fn said(letters: &[char]) -> String {
    const WORDS: [(char, &str); 6] = [
        ('u', "unknown"),
        ('f', "failed"),
        ('t', "timed out"),
        ('c', "cancelled"),
        ('k', "skipped"),
        ('s', "succeeded"),
    ];
    let count = |letter: char| letters.iter().filter(|other| **other == letter).count();
    let parts = WORDS.iter().map(|(letter, word)| (count(*letter), word)).filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, word)| format!("{count} {word}")).collect();
    if parts.is_empty() { "no runs".to_owned() } else { format!("last {}: {}", letters.len(), parts.join(", ")) }
}

/// One bar of a chart.
pub(super) struct Bar {
    pub look: Look,
    /// `None`: there is nothing to show for it.
    pub length: Option<Duration>,
    pub title: String,
}

/// Durations as bars, the newest at the right, from zero to the longest of them.
/// There are at least `places`, so that a few bars are no wider than many.
pub(super) fn bars(label: &str, bars: &[Bar], places: usize) -> Markup {
    const WIDTH: usize = 8;
    let most = bars.iter().filter_map(|bar| bar.length).max().unwrap_or_default();
    let height = |length: Duration| {
        let share = length.as_millis() * u128::from(CHART_HEIGHT) / most.as_millis().max(1);
        u64::try_from(share).unwrap_or(CHART_HEIGHT).clamp(1, CHART_HEIGHT)
    };
    let first = places.saturating_sub(bars.len());
    html! {
        figure.chart {
            figcaption { (label) span.most { "longest " (took(most)) } }
            @let width = bars.len().max(places) * WIDTH;
            svg viewBox={ "0 0 " (width) " " (CHART_HEIGHT) } preserveAspectRatio="none" role="img" {
                title { (label) ", the newest at the right; the longest is " (took(most)) }
                @for (index, bar) in bars.iter().enumerate() {
                    @if let Some(length) = bar.length {
                        rect class=(bar.look.class()) x=((index + first) * WIDTH + 1) y=(CHART_HEIGHT - height(length))
                            width=(WIDTH - 2) height=(height(length)) { title { (bar.title) } }
                    }
                }
            }
        }
    }
}

/// One column of a small chart.
pub(super) struct Column {
    pub look: Look,
    pub height: u64,
    pub title: String,
}

/// Numbers as columns beside each other, from zero to the greatest of them. A number that is not zero can be seen.
pub(super) fn columns(label: &str, columns: &[Column]) -> Markup {
    const WIDTH: usize = 8;
    const HEIGHT: u64 = 20;
    let most = columns.iter().map(|column| column.height).max().unwrap_or_default().max(1);
    let height = |of: u64| {
        let share = u128::from(of) * u128::from(HEIGHT) / u128::from(most);
        u64::try_from(share).unwrap_or(HEIGHT).clamp(2, HEIGHT)
    };
    html! {
        svg.columns viewBox={ "0 0 " (columns.len() * WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" {
            title { (label) ", the latest hour at the right" }
            @for (index, column) in columns.iter().enumerate().filter(|(_, column)| column.height > 0) {
                rect class=(column.look.class()) x=(index * WIDTH + 1) y=(HEIGHT - height(column.height))
                    width=(WIDTH - 2) height=(height(column.height)) { title { (column.title) } }
            }
        }
    }
}

/// A stretch of time.
pub(super) struct Span {
    pub look: Look,
    pub length: Duration,
    pub title: String,
}

/// Stretches of time one behind the other, each as wide as its share, and never so narrow that it cannot be seen.
pub(super) fn spans(label: &str, spans: &[Span]) -> Markup {
    const WIDTH: f64 = 600.0;
    const LEAST: f64 = 3.0;
    let all: f64 = spans.iter().map(|span| span.length.as_secs_f64()).sum::<f64>().max(f64::MIN_POSITIVE);
    let room = (WIDTH - LEAST * spans.len() as f64).max(0.0);
    let mut at = 0.0;
    let placed: Vec<(f64, f64, &Span)> = spans
        .iter()
        .map(|span| {
            let (from, width) = (at, LEAST + room * span.length.as_secs_f64() / all);
            at += width;
            (from, width, span)
        })
        .collect();
    html! {
        svg.spans viewBox="0 0 600 12" preserveAspectRatio="none" role="img" {
            title { (label) @for span in spans { "; " (span.title) } }
            @for (from, width, span) in placed {
                @let (x, width) = (format!("{from:.1}"), format!("{:.1}", width - 1.0));
                rect class=(span.look.class()) x=(x) y="1" width=(width) height="10" { title { (span.title) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_says_in_words_what_it_shows_and_is_small() {
        let drawn = strip("ssfu", 20).into_string();
        assert!(drawn.contains("<title>last 4: 1 unknown, 1 failed, 2 succeeded</title>"), "{drawn}");
        for path in [r#"class="s" d="M64 6h8""#, r#"class="f" d="M72 6h4""#, r#"class="u" d="M76 6h4""#] {
            assert!(drawn.contains(path), "{drawn}");
        }
        assert!(strip(&"s".repeat(20), 20).into_string().len() < 200);
        assert!(strip("", 20).into_string().contains("<title>no runs</title>"));
    }

    #[test]
    fn the_longest_bar_is_as_high_as_the_chart() {
        let bar =
            |millis: u64| Bar { look: Look::Good, length: Some(Duration::from_millis(millis)), title: String::new() };
        let drawn = bars("took", &[bar(0), bar(500), bar(1_000)], 50).into_string();
        for height in ["height=\"1\"", "height=\"24\"", "height=\"48\""] {
            assert!(drawn.contains(height), "{height}: {drawn}");
        }
    }
}
