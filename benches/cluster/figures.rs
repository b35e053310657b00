//! The figures reached, beside their targets.

use std::fmt;
use std::time::Duration;

/// A table of figures.
#[derive(Default)]
pub struct Figures(Vec<Figure>);

struct Figure {
    what: String,
    reached: String,
    target: Option<Target>,
}

struct Target {
    text: String,
    met: bool,
}

impl Figures {
    /// A figure that is only told.
    pub fn note(&mut self, what: impl Into<String>, reached: impl Into<String>) {
        self.0.push(Figure { what: what.into(), reached: reached.into(), target: None }.shown());
    }

    /// A figure that has a target.
    pub fn judge(&mut self, what: impl Into<String>, reached: impl Into<String>, target: &str, met: bool) {
        let target = Some(Target { text: target.to_owned(), met });
        self.0.push(Figure { what: what.into(), reached: reached.into(), target }.shown());
    }

    /// How many targets were missed.
    pub fn missed(&self) -> usize {
        self.0.iter().filter(|figure| figure.target.as_ref().is_some_and(|target| !target.met)).count()
    }
}

impl Figure {
    fn shown(self) -> Figure {
        eprintln!("  {self}");
        self
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | ", self.what, self.reached)?;
        match &self.target {
            None => f.write_str("|"),
            Some(Target { text, met: true }) => write!(f, "{text} |"),
            Some(Target { text, met: false }) => write!(f, "{text}: **missed** |"),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("| measured | reached | target |\n| --- | --- | --- |\n")?;
        self.0.iter().try_for_each(|figure| writeln!(f, "{figure}"))
    }
}

/// How measurements are spread. Not empty.
pub struct Spread(Vec<Duration>);

impl Spread {
    pub fn of(mut samples: Vec<Duration>) -> Spread {
        assert!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable();
        Spread(samples)
    }

    /// The smallest sample that so many percent of all do not exceed.
    pub fn percent(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }

    pub fn most(&self) -> Duration {
        *self.0.last().expect("it is not empty")
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, most_of_them, most] = [self.percent(50), self.percent(99), self.most()].map(millis);
        write!(f, "p50 {median}, p99 {most_of_them}, max {most} ({} samples)", self.len())
    }
}

/// A duration in milliseconds, as it is shown.
pub fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
