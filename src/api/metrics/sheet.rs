//! Writing metrics: one call for a metric with all its series.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::metrics::{Histogram, Reading};

/// The labels of a series.
type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

/// Where metrics are written, in either format.
pub(super) struct Sheet<'a>(DescriptorEncoder<'a>);

impl<'a> Sheet<'a> {
    pub fn new(encoder: DescriptorEncoder<'a>) -> Sheet<'a> {
        Sheet(encoder)
    }

    /// What is always 1, for its labels.
    pub fn info<const N: usize>(&mut self, name: &str, help: &str, labels: &Labels<'_, N>) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }

    pub fn gauge(&mut self, name: &str, unit: Option<&Unit>, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge with several series. One without any is left out: its description alone says nothing.
    pub fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        series: impl Iterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        let mut series = series.peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut gauge = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in series {
            gauge.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A counter; its name gets the suffix `_total`.
    pub fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let mut counter = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    /// A counter with several series.
    pub fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut counter = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, count) in series {
            counter.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// A histogram of seconds with its series.
    pub fn histogram<'l, 'h, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l, N>, &'h Histogram)>,
    ) -> fmt::Result {
        let mut histogram = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, observed) in series {
            let Reading { sum, count, buckets } = observed.read();
            histogram.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
