//! Numbers that are added to from many places, and read as one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::time::Wall;

/// Counters with labels whose values are known from the start.
#[derive(Debug)]
pub struct Counters<K>(BTreeMap<K, AtomicU64>);

impl<K: Ord> Counters<K> {
    /// A counter, at 0, for each of these labels.
    pub fn new(labels: impl IntoIterator<Item = K>) -> Counters<K> {
        Counters(labels.into_iter().map(|labels| (labels, AtomicU64::new(0))).collect())
    }

    /// Adds to the counter with these labels. There is none for labels that were not named at the start: those are part
    /// of a closed set, or metrics would grow without a bound.
    pub fn add(&self, labels: &K, by: u64) {
        let counter = self.0.get(labels);
        debug_assert!(counter.is_some(), "every label is named at the start");
        if let Some(counter) = counter {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// What was counted, in the order of the labels.
    pub fn read(&self) -> impl Iterator<Item = (&K, u64)> {
        self.0.iter().map(|(labels, counter)| (labels, counter.load(Ordering::Relaxed)))
    }
}

/// Durations, sorted into buckets.
#[derive(Debug)]
pub struct Histogram {
    /// The upper bounds of all buckets but the last, in seconds, ascending.
    bounds: &'static [f64],
    /// One for each bound, and one for what is above.
    buckets: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

/// What a histogram holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// In seconds.
    pub sum: f64,
    pub count: u64,
    /// The upper bound of each bucket in seconds (the last is infinite), and how many are in it and in none before.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// An empty one with these upper bounds, in seconds, ascending.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum_micros: AtomicU64::new(0) }
    }

    /// Adds one duration. Answers in which bucket it is.
    pub fn observe(&self, took: Duration) -> usize {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        bucket
    }

    /// What it holds now. The sum may be ahead of the buckets by what is added at the same time.
    pub fn read(&self) -> Reading {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let micros = Duration::from_micros(self.sum_micros.load(Ordering::Relaxed));
        Reading { sum: micros.as_secs_f64(), count, buckets }
    }
}

/// Durations of what is traced: each bucket also has the last of its durations with its trace.
#[derive(Debug)]
pub struct Traced {
    durations: Histogram,
    last: Box<[Mutex<Option<Exemplar>>]>,
}

/// One duration, and the trace that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemplar {
    pub took: Duration,
    pub trace: [u8; 16],
    pub at: Wall,
}

impl Traced {
    /// An empty one with these upper bounds, in seconds, ascending.
    pub fn new(bounds: &'static [f64]) -> Traced {
        Traced { durations: Histogram::new(bounds), last: (0..=bounds.len()).map(|_| Mutex::default()).collect() }
    }

    /// Adds one duration.
    pub fn observe(&self, exemplar: Exemplar) {
        let bucket = self.durations.observe(exemplar.took);
        *self.last[bucket].lock().unwrap_or_else(PoisonError::into_inner) = Some(exemplar);
    }

    /// The durations alone.
    pub fn durations(&self) -> &Histogram {
        &self.durations
    }

    /// The last duration of each bucket.
    pub fn exemplars(&self) -> impl Iterator<Item = Option<Exemplar>> {
        self.last.iter().map(|last| last.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for millis in [0, 100, 101, 1_000, 5_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let expected = Reading { sum: 6.201, count: 5, buckets: vec![(0.1, 2), (1.0, 2), (f64::INFINITY, 1)] };
        assert_eq!(histogram.read(), expected);
    }
}
