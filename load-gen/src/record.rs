//! Latencies as full histograms.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

/// Latencies in nanoseconds, from 1 ns to 10 minutes at three significant digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds"))
    }
}

/// The points of a latency distribution that reports show, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50_us: f64,
    /// 99 in 100 are no slower.
    pub p99_us: f64,
    /// 999 in 1000 are no slower.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// How many were recorded.
    pub count: u64,
}

impl Latency {
    /// Records one latency; those beyond ten minutes count as ten minutes.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Adds all that another recorded.
    pub fn add(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("equal bounds");
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// All of it as text: the histogram's serial form, in hexadecimal.
    pub fn to_hex(&self) -> String {
        let mut bytes = vec![];
        V2Serializer::new().serialize(&self.0, &mut bytes).expect("a vector takes it");
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// What [`Latency::to_hex`] gave.
    pub fn from_hex(text: &str) -> Option<Latency> {
        let pairs = text.as_bytes().chunks(2);
        let digits = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        let bytes = digits.collect::<Option<Vec<u8>>>()?;
        let mut all = Latency::default();
        all.0.add(Deserializer::new().deserialize::<u64, _>(&mut &bytes[..]).ok()?).ok()?;
        Some(all)
    }

    /// The points to report, or `None` if nothing was recorded.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |q| self.0.value_at_quantile(q) as f64 / 1e3;
        (!self.0.is_empty()).then(|| Quantiles {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max() as f64 / 1e3,
            count: self.0.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut l = Latency::default();
        assert_eq!(l.quantiles(), None);
        (1..=1000u64).for_each(|us| l.record(us * 1000));
        let q = l.quantiles().unwrap();
        assert!((q.p50_us - 500.0).abs() < 1.0 && (q.p99_us - 990.0).abs() < 1.0, "{q:?}");
        assert!((q.max_us - 1000.0).abs() < 1.0 && q.count == 1000);
        let mut sum = Latency::default();
        sum.add(&l);
        sum.add(&l);
        assert_eq!(sum.quantiles().unwrap().count, 2000);
        assert_eq!(Latency::from_hex(&sum.to_hex()).unwrap().quantiles(), sum.quantiles());
        assert!(Latency::from_hex("12345").is_none());
        sum.clear();
        assert_eq!(sum.quantiles(), None);
    }

    #[test]
    fn extremes_are_kept_within_bounds() {
        let mut l = Latency::default();
        l.record(0);
        l.record(u64::MAX);
        assert_eq!(l.quantiles().unwrap().count, 2);
    }
}
