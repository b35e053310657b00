//! How far measured values lie apart.

use serde::Serialize;

/// Values of a kind, in the order of their size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// `None`: there are no values.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        // The smallest value that so many percent are not above.
        let at = |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Spread { p50: at(50)?, p95: at(95)?, p99: at(99)?, max: at(100)?, count: values.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred = Spread::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((hundred.p50, hundred.p95, hundred.p99, hundred.max, hundred.count), (50.0, 95.0, 99.0, 100.0, 100));
        let three = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((three.p50, three.p95, three.max), (2.0, 3.0, 3.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
