//! What a run wrote, as markup: colours become classes, `\r` overwrites, and every other sequence is dropped. Nothing that
//! a run writes becomes a tag.

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};
use maud::{Escaper, Markup, PreEscaped};

use super::words::visible;
use std::fmt::Write as _;

/// The widest line that is shown, in characters: what goes on beyond is cut, and marked.
pub(super) const COLUMNS_MOST: usize = 20_000;

/// How many cells sequences that erase a line may clear: the others are left out, or a text of nothing but such sequences
/// would take the processor for seconds.
const ERASED_MOST: usize = 2_000_000;

/// The text of a terminal as markup for a `pre`.
pub(super) fn markup(text: &str) -> Markup {
    PreEscaped(Screen::default().read(text))
}

/// The same as text for a terminal of which others decide the colours: nothing in it controls that terminal.
pub(crate) fn plain(text: &str) -> String {
    Screen { is_plain: true, ..Screen::default() }.read(text)
}

/// How a character looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Style {
    /// 0 to 15.
    fore: Option<u8>,
    back: Option<u8>,
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
    inverse: bool,
}

#[derive(Default)]
struct Screen {
    out: String,
    line: Vec<(char, Style)>,
    /// Where the next character goes.
    column: usize,
    style: Style,
    /// Characters of the line that were cut.
    cut: usize,
    /// Cells that were erased.
    erased: usize,
    /// What is made is text, not markup.
    is_plain: bool,
}

impl Screen {
    fn read(mut self, text: &str) -> String {
        let mut parser = Parser::<DefaultCharAccumulator>::new();
        for byte in text.bytes() {
            parser.advance(&mut self, byte);
        }
        self.end_line();
        self.out
    }

    fn put(&mut self, c: char) {
        if self.column >= COLUMNS_MOST {
            self.cut += 1;
            return;
        }
        let cell = (c, self.style);
        match self.line.get_mut(self.column) {
            Some(place) => *place = cell,
            None => self.line.push(cell),
        }
        self.column += 1;
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut rest = &line[..];
        while let Some((_, style)) = rest.first().copied() {
            let same = rest.iter().take_while(|(_, other)| *other == style).count();
            let text: String = rest[..same].iter().map(|(c, _)| *c).collect();
            self.push(style, &text);
            rest = &rest[same..];
        }
        if self.cut > 0 {
            let more = format!(" … {} more characters", self.cut);
            self.push(Style { dim: true, ..Style::default() }, &more);
        }
        // The room of the line is used again.
        self.line = line;
        self.line.clear();
        (self.column, self.cut) = (0, 0);
    }

    fn push(&mut self, style: Style, text: &str) {
        if self.is_plain { self.out.push_str(text) } else { push_styled(&mut self.out, style, text) }
    }

    fn colour(&mut self, params: &[u16]) {
        let mut rest = params.iter().copied();
        while let Some(code) = rest.next() {
            let style = &mut self.style;
            match code {
                0 => *style = Style::default(),
                1 => style.bold = true,
                2 => style.dim = true,
                3 => style.italic = true,
                4 => style.underline = true,
                7 => style.inverse = true,
                22 => (style.bold, style.dim) = (false, false),
                23 => style.italic = false,
                24 => style.underline = false,
                27 => style.inverse = false,
                30..=37 => style.fore = Some(low(code - 30)),
                38 => style.fore = extended(&mut rest).or(style.fore),
                39 => style.fore = None,
                40..=47 => style.back = Some(low(code - 40)),
                48 => style.back = extended(&mut rest).or(style.back),
                49 => style.back = None,
                90..=97 => style.fore = Some(low(code - 90) + 8),
                100..=107 => style.back = Some(low(code - 100) + 8),
                _ => {}
            }
        }
    }
}

fn low(code: u16) -> u8 {
    u8::try_from(code & 0xff).unwrap_or_default()
}

/// A colour of the 256, or of all, as the nearest of the 16.
fn extended(rest: &mut impl Iterator<Item = u16>) -> Option<u8> {
    match rest.next()? {
        5 => Some(match low(rest.next()?) {
            code @ 0..16 => code,
            code @ 16..232 => {
                let cube = code - 16;
                let part = |part: u8| [0, 95, 135, 175, 215, 255][usize::from(part)];
                nearest([part(cube / 36), part(cube / 6 % 6), part(cube % 6)])
            }
            code => nearest([8 + 10 * (code - 232); 3]),
        }),
        2 => {
            let (red, green, blue) = (rest.next()?, rest.next()?, rest.next()?);
            Some(nearest([low(red), low(green), low(blue)]))
        }
        _ => None,
    }
}

fn nearest(rgb: [u8; 3]) -> u8 {
    let most = rgb.into_iter().max().unwrap_or_default();
    if most < 50 {
        return 0;
    }
    let spread = most - rgb.into_iter().min().unwrap_or_default();
    if spread < 30 {
        return [8, 7, 15][usize::from(most > 110) + usize::from(most > 200)];
    }
    let bit = |part: u8, bit: u8| if u16::from(part) * 2 > u16::from(most) { bit } else { 0 };
    bit(rgb[0], 1) + bit(rgb[1], 2) + bit(rgb[2], 4) + if most > 200 { 8 } else { 0 }
}

fn push_styled(out: &mut String, style: Style, text: &str) {
    if style == Style::default() {
        return escape(out, text);
    }
    let (fore, back) =
        if style.inverse { (style.back.or(Some(16)), style.fore.or(Some(16))) } else { (style.fore, style.back) };
    out.push_str("<span class=\"");
    let before = out.len();
    let mut class = |name: std::fmt::Arguments<'_>| {
        if out.len() > before {
            out.push(' ');
        }
        out.write_fmt(name).expect("a String takes all that is written");
    };
    if let Some(fore) = fore {
        class(format_args!("f{fore}"));
    }
    if let Some(back) = back {
        class(format_args!("b{back}"));
    }
    for (is_on, name) in [(style.bold, "bo"), (style.dim, "di"), (style.italic, "it"), (style.underline, "ul")] {
        if is_on {
            class(format_args!("{name}"));
        }
    }
    out.push_str("\">");
    escape(out, text);
    out.push_str("</span>");
}

fn escape(out: &mut String, text: &str) {
    Escaper::new(out).write_str(text).expect("a String takes all that is written");
}

impl Perform for Screen {
    fn print(&mut self, c: char) {
        self.put(visible(c));
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                self.end_line();
                self.out.push('\n');
            }
            b'\r' => self.column = 0,
            b'\t' => self.put('\t'),
            8 => self.column = self.column.saturating_sub(1),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: u8) {
        if ignore || !intermediates.is_empty() {
            return;
        }
        let numbers: Vec<u16> = params.iter().flatten().copied().collect();
        match action {
            b'm' if numbers.is_empty() => self.style = Style::default(),
            b'm' => self.colour(&numbers),
            // Erase to the end of the line, or all of it.
            b'K' if numbers.first().is_none_or(|which| *which == 0) => self.line.truncate(self.column),
            b'K' if self.erased < ERASED_MOST => {
                self.erased += self.line.len();
                self.line.iter_mut().for_each(|cell| *cell = (' ', Style::default()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        markup(text).into_string()
    }

    #[test]
    fn colours_become_classes() {
        assert_eq!(text("a \u{1b}[1;31mred\u{1b}[0m b"), "a <span class=\"f1 bo\">red</span> b");
        assert_eq!(text("\u{1b}[97;44mx"), "<span class=\"f15 b4\">x</span>");
        assert_eq!(
            text("\u{1b}[38;5;196mx\u{1b}[38;2;0;200;0my"),
            "<span class=\"f9\">x</span><span class=\"f2\">y</span>"
        );
        assert_eq!(text("\u{1b}[7mx"), "<span class=\"f16 b16\">x</span>");
    }

    #[test]
    fn a_line_that_is_erased_without_end_costs_no_more_than_a_bound() {
        let mut screen = Screen::default();
        let mut parser = Parser::<DefaultCharAccumulator>::new();
        let long = "x".repeat(COLUMNS_MOST) + &"\u{1b}[1K".repeat(27_000);
        long.bytes().for_each(|byte| parser.advance(&mut screen, byte));
        assert!(screen.erased <= ERASED_MOST + COLUMNS_MOST, "{}", screen.erased);
    }

    #[test]
    fn a_carriage_return_overwrites() {
        assert_eq!(text("  1%\r 10%\r100%\ndone\r\n"), "100%\ndone\n");
        assert_eq!(text("long line\rab\u{1b}[K\n"), "ab\n");
    }

    #[test]
    fn other_sequences_are_dropped_and_marks_of_direction_are_seen() {
        assert_eq!(text("a\u{1b}]0;title\u{7}b\u{1b}[2J\u{1b}[10;10Hc\u{7}"), "abc");
        assert_eq!(text("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(text("<script>&\""), "&lt;script&gt;&amp;&quot;");
    }

    #[test]
    fn a_line_is_cut_at_its_most() {
        let shown = text(&"x".repeat(COLUMNS_MOST + 5));
        assert!(shown.ends_with("x<span class=\"di\"> … 5 more characters</span>"), "{}", &shown[shown.len() - 80..]);
    }

    #[test]
    fn whatever_is_written_there_are_no_tags_but_our_own() {
        let words = proptest::collection::vec("\\PC|<b>|\u{1b}\\[[0-9;]{0,8}[mKJ]|\r|\n", 0..40);
        proptest::proptest!(|(bytes: Vec<u8>, words in words)| {
            for written in [String::from_utf8_lossy(&bytes).into_owned(), words.concat()] {
                let shown = text(&written);
                let rest = shown.replace("</span>", "");
                for tag in rest.split('<').skip(1) {
                    let class = tag.strip_prefix("span class=\"").and_then(|tag| tag.split_once("\">"));
                    let is_ours = class.is_some_and(|(class, _)| {
                        class.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == ' ')
                    });
                    proptest::prop_assert!(is_ours, "{tag:?} of {written:?}");
                }
            }
        });
    }
}
