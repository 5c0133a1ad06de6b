//! A histogram for a thread that observes thousands of values at once: counted locally, added
//! with one atomic each bucket. (The library's takes a lock for each value.)

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Sums are kept in billionths: enough for nanoseconds, and 584 years of seconds fit.
const SUM_PARTS: f64 = 1e9;

#[derive(Debug, Clone)]
pub struct Histogram {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bounds: &'static [f64],
    /// One for each bound, and one for what exceeds the last; not cumulative.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    /// Upper bounds, ascending, at most 31.
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.len() < LOCAL_BUCKETS && bounds.is_sorted());
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { inner: Arc::new(Inner { bounds, counts, sum: AtomicU64::new(0) }) }
    }

    pub fn observe(&self, value: f64) {
        self.observe_all(std::iter::once(value));
    }

    /// Observes the same value so many times.
    pub fn observe_many(&self, value: f64, times: u64) {
        let bucket = self.inner.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.inner.counts.get(bucket) {
            count.fetch_add(times, Ordering::Relaxed);
        }
        self.inner.sum.fetch_add((value * times as f64 * SUM_PARTS) as u64, Ordering::Relaxed);
    }

    pub fn observe_all(&self, values: impl Iterator<Item = f64>) {
        let mut counts = [0_u64; LOCAL_BUCKETS];
        let mut sum = 0.0;
        for value in values {
            counts[self.inner.bounds.partition_point(|bound| *bound < value)] += 1;
            sum += value;
        }
        for (total, count) in self.inner.counts.iter().zip(counts) {
            if count > 0 {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
        self.inner.sum.fetch_add((sum * SUM_PARTS) as u64, Ordering::Relaxed);
    }
}

const LOCAL_BUCKETS: usize = 32;

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = self.inner.bounds.iter().copied().chain(std::iter::once(f64::INFINITY));
        let buckets: Vec<(f64, u64)> = bounds
            .zip(self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.inner.sum.load(Ordering::Relaxed) as f64 / SUM_PARTS;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}
