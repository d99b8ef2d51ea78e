//! The figures of a measurement, their medians, and the histogram behind the percentiles.

use std::collections::BTreeMap;
use std::time::Duration;

/// A kind of figure. The order is that of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Operations in a second.
    Rate,
    /// Microseconds of CPU time of the whole server for one operation.
    Cpu,
    /// Half of the operations took no longer than this many microseconds.
    P50,
    /// 99 % of the operations took no longer than this many microseconds.
    P99,
    /// 99.9 % of the operations took no longer than this many microseconds.
    P999,
    /// Datagrams that were not answered, per million.
    Lost,
    /// KiB of memory of the whole server for one connection, shared pages by their share.
    Pss,
    /// KiB of kernel memory of the whole machine for one connection, both ends of it.
    Kernel,
    /// Threads of the whole server.
    Threads,
}

impl Figure {
    /// Whether less of it is better.
    pub fn less_is_better(self) -> bool {
        self != Self::Rate
    }
}

/// The figures of one measurement.
pub type Figures = BTreeMap<Figure, f64>;

/// The middle value, or the mean of the two in the middle. `None` without values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The 95 % confidence interval of the median, by the sign test with the normal distribution in place of the binomial. Its
/// ends are two of the values, equally far from the middle of their order. With fewer than six values these are the least
/// and the largest, and the confidence is lower.
pub fn interval(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let outside = ((count - 1.96 * count.sqrt()) / 2.0).max(0.0) as usize;
    Some((*values.get(outside)?, *values.get(values.len() - 1 - outside)?))
}

/// The number of parts of each power of two: a time is exact to a 32nd, about 3 %.
const PARTS: u64 = 32;

/// Counts times in classes that grow with the time.
pub struct Histogram(Vec<u64>);

impl Histogram {
    pub fn new() -> Self {
        Self(vec![0; class_of(u64::MAX) + 1])
    }

    pub fn record(&mut self, time: Duration) {
        self.0[class_of(time.as_nanos() as u64)] += 1;
    }

    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// The time that this share of all operations does not exceed, in microseconds.
    fn percentile(&self, share: f64) -> f64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let reaches = |count: &u64| {
            seen += count;
            seen >= wanted
        };
        time_of(self.0.iter().position(reaches).unwrap_or(0)) as f64 / 1_000.0
    }

    pub fn add_to(&self, figures: &mut Figures) {
        for (figure, share) in [(Figure::P50, 0.5), (Figure::P99, 0.99), (Figure::P999, 0.999)] {
            figures.insert(figure, self.percentile(share));
        }
    }
}

fn class_of(nanos: u64) -> usize {
    if nanos < PARTS {
        return nanos as usize;
    }
    let power = u64::from(nanos.ilog2() - PARTS.ilog2());
    (power * PARTS + (nanos >> power)) as usize
}

/// The shortest time of a class.
fn time_of(class: usize) -> u64 {
    let class = class as u64;
    if class < PARTS {
        return class;
    }
    let power = class / PARTS - 1;
    (class % PARTS + PARTS) << power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn the_interval_of_the_median_is_around_it() {
        let upto = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(interval(upto(0)), None);
        assert_eq!(interval(upto(1)), Some((1.0, 1.0)));
        assert_eq!(interval(upto(5)), Some((1.0, 5.0)));
        assert_eq!(interval(upto(30)), Some((10.0, 21.0)));
    }

    #[test]
    fn classes_are_in_order_and_close_to_their_times() {
        for nanos in (0..100_000).chain([1 << 40, u64::MAX]) {
            let class = class_of(nanos);
            let time = time_of(class);
            assert!(time <= nanos && nanos - time <= nanos / PARTS, "{nanos} {class} {time}");
            assert_eq!(class_of(time), class);
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut histogram = Histogram::new();
        (1..=1_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        assert!((histogram.percentile(0.5) - 500.0).abs() < 16.0);
        assert!((histogram.percentile(0.99) - 990.0).abs() < 32.0);
    }
}
