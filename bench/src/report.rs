//! How long messages took.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Quantiles, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// One in ten is slower.
    pub p90: f64,
    /// One in a hundred is slower.
    pub p99: f64,
    /// One in a thousand is slower.
    pub p999: f64,
    /// None is slower.
    pub max: f64,
}

impl Latency {
    /// Of times in nanoseconds.
    #[must_use]
    pub fn of(nanos: &Histogram<u64>) -> Self {
        let micros = |quantile| nanos.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: micros(0.5),
            p90: micros(0.9),
            p99: micros(0.99),
            p999: micros(0.999),
            max: nanos.max() as f64 / 1e3,
        }
    }

    /// How many times as large as `other`, quantile by quantile.
    #[must_use]
    pub fn by(&self, other: &Self) -> Self {
        Self {
            p50: self.p50 / other.p50,
            p90: self.p90 / other.p90,
            p99: self.p99 / other.p99,
            p999: self.p999 / other.p999,
            max: self.max / other.max,
        }
    }
}
