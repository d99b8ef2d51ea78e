//! A subscriber for the facade `tracing` that a test can read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Fields by name, as text. The message is `message`.
pub type Fields = BTreeMap<&'static str, String>;

/// A span or an event.
#[derive(Clone, Debug)]
pub struct Told {
    pub name: &'static str,
    pub level: Level,
    pub target: &'static str,
    pub fields: Fields,
    /// The span that an event is in.
    pub span: Option<u64>,
    /// Whether the span is over.
    pub closed: bool,
}

/// All that this process has reported. A test looks for its own handler or client.
#[derive(Default)]
pub struct Log {
    spans: Mutex<BTreeMap<u64, Told>>,
    events: Mutex<Vec<Told>>,
    /// How many handles each span has, not counting its first.
    clones: Mutex<BTreeMap<u64, usize>>,
    last: AtomicU64,
}

thread_local! {
    /// The spans that this thread is in, the innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The subscriber of this process, installed by the first test that asks for it.
pub fn log() -> &'static Log {
    static LOG: LazyLock<Log> = LazyLock::new(Log::default);
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        tracing::subscriber::set_global_default(Shared(&LOG)).expect("it is the only one");
    });
    &LOG
}

impl Log {
    /// The spans with this value of a field.
    pub fn spans(&self, field: &str, value: &str) -> Vec<(u64, Told)> {
        let spans = self.spans.lock().unwrap();
        let has = |told: &Told| told.fields.get(field).is_some_and(|it| it == value);
        spans.iter().filter(|(_, told)| has(told)).map(|(id, told)| (*id, told.clone())).collect()
    }

    /// The events with this value of a field.
    pub fn events(&self, field: &str, value: &str) -> Vec<Told> {
        let events = self.events.lock().unwrap();
        let has = |told: &&Told| told.fields.get(field).is_some_and(|it| it == value);
        events.iter().filter(has).cloned().collect()
    }

    /// The events in a span.
    pub fn inside(&self, span: u64) -> Vec<Told> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|told| told.span == Some(span)).cloned().collect()
    }
}

struct Shared(&'static Log);

impl Subscriber for Shared {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.0.last.fetch_add(1, Ordering::SeqCst) + 1;
        let mut fields = Reading::default();
        attributes.record(&mut fields);
        let told = told(attributes.metadata(), fields, None);
        self.0.spans.lock().unwrap().insert(id, told);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Reading::default();
        values.record(&mut fields);
        if let Some(told) = self.0.spans.lock().unwrap().get_mut(&span.into_u64()) {
            told.fields.extend(fields.0);
        }
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Reading::default();
        event.record(&mut fields);
        let span = ENTERED.with(|entered| entered.borrow().last().copied());
        self.0.events.lock().unwrap().push(told(event.metadata(), fields, span));
    }

    fn enter(&self, span: &Id) {
        ENTERED.with(|entered| entered.borrow_mut().push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        let left = ENTERED.with(|entered| entered.borrow_mut().pop());
        assert_eq!(left, Some(span.into_u64()), "spans are left in their order");
    }

    fn clone_span(&self, span: &Id) -> Id {
        *self.0.clones.lock().unwrap().entry(span.into_u64()).or_default() += 1;
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        if let Some(clones @ 1..) = self.0.clones.lock().unwrap().get_mut(&span.into_u64()) {
            *clones -= 1;
            return false;
        }
        if let Some(told) = self.0.spans.lock().unwrap().get_mut(&span.into_u64()) {
            told.closed = true;
        }
        true
    }
}

fn told(metadata: &'static Metadata<'static>, fields: Reading, span: Option<u64>) -> Told {
    let (name, level, target) = (metadata.name(), *metadata.level(), metadata.target());
    Told { name, level, target, fields: fields.0, span, closed: false }
}

#[derive(Default)]
struct Reading(Fields);

impl Visit for Reading {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
