//! A recorder for the facade `metrics` that a test can read.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// All that servers of this process have reported. A test looks for the label `server` of its own server.
#[derive(Default)]
pub struct Recorded {
    series: Mutex<HashMap<String, Arc<Series>>>,
    units: Mutex<HashMap<String, Unit>>,
}

/// A counter, a gauge, or the values of a histogram.
#[derive(Default)]
struct Series {
    value: Mutex<f64>,
    values: Mutex<Vec<f64>>,
}

impl CounterFn for Series {
    fn increment(&self, value: u64) {
        *self.value.lock().unwrap() += value as f64;
    }

    fn absolute(&self, _value: u64) {
        panic!("two servers may have the same labels");
    }
}

impl GaugeFn for Series {
    fn increment(&self, value: f64) {
        *self.value.lock().unwrap() += value;
    }

    fn decrement(&self, value: f64) {
        *self.value.lock().unwrap() -= value;
    }

    fn set(&self, value: f64) {
        *self.value.lock().unwrap() = value;
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        self.values.lock().unwrap().push(value);
    }
}

/// The recorder of this process, installed by the first test that asks for it.
pub fn recorded() -> &'static Recorded {
    static RECORDED: LazyLock<Recorded> = LazyLock::new(Recorded::default);
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        metrics::set_global_recorder(Shared(&RECORDED)).expect("it is the only one");
    });
    &RECORDED
}

/// A series as text, with its labels in their order: `name{a=1,b=2}`.
fn written(key: &Key) -> String {
    let mut labels: Vec<_> =
        key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    labels.sort();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

impl Recorded {
    fn series(&self, key: &Key) -> Arc<Series> {
        Arc::clone(self.series.lock().unwrap().entry(written(key)).or_default())
    }

    /// The value of a counter or a gauge with these labels, which are sorted.
    pub fn value(&self, name: &str, labels: &str) -> Option<f64> {
        let series = self.series.lock().unwrap();
        let found = series.get(&format!("{name}{{{labels}}}"))?;
        Some(*found.value.lock().unwrap())
    }

    /// The values of a histogram.
    pub fn values(&self, name: &str, labels: &str) -> Vec<f64> {
        let series = self.series.lock().unwrap();
        let found = series.get(&format!("{name}{{{labels}}}"));
        found.map_or(Vec::new(), |found| found.values.lock().unwrap().clone())
    }

    /// All series, each as its name and its labels.
    pub fn all(&self) -> Vec<String> {
        self.series.lock().unwrap().keys().cloned().collect()
    }

    /// The unit that a figure was described with.
    pub fn unit(&self, name: &str) -> Option<Unit> {
        self.units.lock().unwrap().get(name).copied()
    }

    fn describe(&self, name: &KeyName, unit: Option<Unit>, text: &SharedString) {
        assert!(!text.is_empty() && !text.ends_with('.'), "{text}");
        self.units.lock().unwrap().insert(name.as_str().to_owned(), unit.expect("a unit"));
    }
}

struct Shared(&'static Recorded);

impl Recorder for Shared {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe(&key, unit, &text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe(&key, unit, &text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe(&key, unit, &text);
    }

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.series(key))
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.0.series(key))
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.0.series(key))
    }
}
