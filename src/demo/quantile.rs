//! p50, p95 and p99: of samples, and of the router's own histogram.

use std::collections::BTreeMap;

use serde::Serialize;

/// `None` where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

impl Quantiles {
    fn of(quantile: impl Fn(f64) -> Option<f64>) -> Self {
        let rounded = |share| quantile(share).map(|value: f64| (value * 1_000.0).round() / 1_000.0);
        Quantiles { p50: rounded(0.50), p95: rounded(0.95), p99: rounded(0.99) }
    }

    /// Of samples in any order: the smallest one that at least the share does not exceed.
    pub fn of_samples(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self::of(|share| {
            let rank = (samples.len() as f64 * share).ceil() as usize;
            samples.get(rank.saturating_sub(1)).copied()
        })
    }
}

/// A Prometheus histogram: how many observations are in each bucket, by its upper bound.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Cumulative, as exposed; the key is the bound's bits, which order like the bounds do for
    /// numbers that are not negative.
    buckets: BTreeMap<u64, f64>,
}

impl Histogram {
    /// Adds what an exposition says under this name, all label sets together. Expositions of
    /// several processes, one after the other, add up.
    pub fn add(&mut self, exposition: &str, name: &str) {
        let prefix = format!("{name}_bucket{{");
        for line in exposition.lines() {
            let Some((labels, value)) =
                line.strip_prefix(&prefix).and_then(|rest| rest.split_once("} "))
            else {
                continue;
            };
            let bound = labels.split(',').find_map(|label| label.strip_prefix("le=\""));
            let bound = bound.and_then(|bound| bound.trim_end_matches('"').parse::<f64>().ok());
            let count = value.split(' ').next().and_then(|count| count.parse::<f64>().ok());
            if let (Some(bound), Some(count)) = (bound, count)
                && bound >= 0.0
            {
                *self.buckets.entry(bound.to_bits()).or_default() += count;
            }
        }
    }

    /// The quantiles, times `scale`; inside a bucket the observations are taken as evenly spread.
    pub fn quantiles(&self, scale: f64) -> Quantiles {
        let total = self.buckets.values().copied().last().unwrap_or_default();
        Quantiles::of(|share| {
            let rank = total * share;
            let (mut low, mut below) = (0.0, 0.0);
            for (bound, count) in &self.buckets {
                let bound = f64::from_bits(*bound);
                if *count >= rank && *count > 0.0 {
                    // Nothing is known beyond the last bound but that it was exceeded.
                    let high = if bound.is_finite() { bound } else { low };
                    let part = (rank - below) / (count - below).max(f64::MIN_POSITIVE);
                    return Some((low + (high - low) * part) * scale);
                }
                (low, below) = (bound, *count);
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantiles(p50: f64, p95: f64, p99: f64) -> Quantiles {
        Quantiles { p50: Some(p50), p95: Some(p95), p99: Some(p99) }
    }

    #[test]
    fn samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of_samples(samples), quantiles(100.0, 190.0, 198.0));
        assert_eq!(Quantiles::of_samples(vec![7.0]), quantiles(7.0, 7.0, 7.0));
        assert_eq!(Quantiles::of_samples(Vec::new()), Quantiles::default());
    }

    #[test]
    fn histograms_of_several_processes() {
        let exposition = "# TYPE decide histogram\n\
            decide_sum 1\n\
            decide_bucket{le=\"0.000001\"} 0\n\
            decide_bucket{le=\"0.000002\"} 90\n\
            decide_bucket{le=\"0.000004\"} 98\n\
            decide_bucket{le=\"+Inf\"} 100\n\
            decided_bucket{le=\"1\"} 1000\n";
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantiles(1.0), Quantiles::default());
        histogram.add(exposition, "decide");
        histogram.add(exposition, "decide");
        let expected = quantiles(1.556, 3.25, 4.0);
        assert_eq!(histogram.quantiles(1e6), expected);
        let mut labelled = Histogram::default();
        labelled.add("decide_bucket{lane=\"0\",le=\"2.0\"} 4 # {} 1\n", "decide");
        assert_eq!(labelled.quantiles(1.0), quantiles(1.0, 1.9, 1.98));
    }
}
