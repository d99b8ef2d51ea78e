//! A breadth-first search through all states of a model: the first state found that breaks a promise is one of the nearest.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::hash::{Hash, Hasher};

/// All that can happen, and that must hold.
pub(super) trait Model {
    type State: Clone + Hash;
    type Step: Copy + Display;

    fn start(&self) -> Self::State;

    /// All that can happen next, in a fixed order. A step that changes nothing may be left out.
    fn steps(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;

    /// Whether a step is taken without any fault. At an end there is no such step.
    fn goes_on(&self, step: &Self::Step) -> bool;

    /// Checks a state. The error says which promise is broken.
    fn check(&self, state: &Self::State, is_end: bool) -> Result<(), String>;
}

/// The result of a search without a counterexample.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) states: usize,
    /// How many states are ends: nothing goes on there by itself.
    pub(super) ends: usize,
    /// The number of steps to the state that is farthest from the start.
    pub(super) depth: usize,
}

/// Where a state was found from: its predecessor, and the step from there. The start has none.
#[derive(Clone, Copy)]
struct From<S> {
    state: u32,
    step: Option<S>,
}

/// Visits every state that can be reached. States are kept as hashes of 64 bits: with ten million states, two hashes are
/// equal by chance in about one search of 300,000.
///
/// # Errors
///
/// The shortest list of steps to a state that breaks a promise, or from which no end can be reached.
pub(super) fn search<M: Model>(model: &M, most: usize) -> Result<Found, String> {
    search_with(model, most, |_| Ok(()))
}

/// Searches like [`search`], and calls `visit` with the shortest way to each state.
pub(super) fn search_with<M: Model>(
    model: &M,
    most: usize,
    mut visit: impl FnMut(&[M::Step]) -> Result<(), String>,
) -> Result<Found, String> {
    let mut known: HashMap<u64, u32> = HashMap::new();
    let mut from = Vec::new();
    let mut hashes_ahead: Vec<Option<u64>> = Vec::new();
    let mut open = VecDeque::new();

    let start = model.start();
    known.insert(hash(&start), 0);
    from.push(From { state: 0, step: None });
    open.push_back(start);
    let mut at = 0_u32;
    let mut depth = 0;
    while let Some(state) = open.pop_front() {
        let steps = model.steps(&state);
        let ahead = steps.iter().find(|(step, _)| model.goes_on(step)).map(|(_, next)| hash(next));
        let way = way_to(&from, at);
        depth = way.len();
        model
            .check(&state, ahead.is_none())
            .and_then(|()| visit(&way))
            .map_err(|why| told(&way, &why))?;
        hashes_ahead.push(ahead);
        for (step, next) in steps {
            let Entry::Vacant(place) = known.entry(hash(&next)) else { continue };
            place.insert(u32::try_from(from.len()).expect("fewer than four billion states"));
            from.push(From { state: at, step: Some(step) });
            open.push_back(next);
        }
        assert!(from.len() <= most, "more than {most} states: the bounds are too wide");
        at += 1;
    }
    let ends = hashes_ahead.iter().filter(|ahead| ahead.is_none()).count();
    match endless(&known, &hashes_ahead) {
        Some(state) => Err(told(&way_to(&from, state), "from here no end is reached")),
        None => Ok(Found { states: from.len(), ends, depth }),
    }
}

/// A state from which the steps ahead go in a circle.
fn endless(known: &HashMap<u64, u32>, ahead: &[Option<u64>]) -> Option<u32> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnTheWay,
        Ends,
    }
    let mut marks = vec![Mark::New; ahead.len()];
    for first in 0..ahead.len() {
        let mut way = Vec::new();
        let mut at = first;
        while marks[at] == Mark::New {
            marks[at] = Mark::OnTheWay;
            way.push(at);
            match ahead[at].and_then(|hash| known.get(&hash)) {
                Some(next) => at = *next as usize,
                None => break,
            }
        }
        if marks[at] == Mark::OnTheWay && way.last() != Some(&at) {
            return u32::try_from(at).ok();
        }
        way.into_iter().for_each(|at| marks[at] = Mark::Ends);
    }
    None
}

fn hash(state: &impl Hash) -> u64 {
    let mut hasher = Folding(0);
    state.hash(&mut hasher);
    hasher.finish()
}

/// A quick hash with a fixed seed, so that each run finds the same. No attacker chooses its input.
struct Folding(u64);

impl Folding {
    fn fold(&mut self, value: u64) {
        /// The fraction of the golden ratio in 64 bits, an odd number.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let wide = u128::from(self.0 ^ value ^ FACTOR) * u128::from(FACTOR);
        self.0 = (wide as u64 ^ (wide >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for Folding {
    fn finish(&self) -> u64 {
        let mut last = Self(self.0);
        last.fold(0);
        last.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut value = [0; 8];
            value[..piece.len()].copy_from_slice(piece);
            self.fold(u64::from_le_bytes(value));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.fold(value.into());
    }

    fn write_isize(&mut self, value: isize) {
        // The variant of an enumeration.
        self.fold(value as u64);
    }
}

fn way_to<S: Copy>(from: &[From<S>], mut at: u32) -> Vec<S> {
    let mut way = Vec::new();
    while let From { state, step: Some(step) } = from[at as usize] {
        way.push(step);
        at = state;
    }
    way.reverse();
    way
}

/// A way, one step a line, and the fault at its end.
fn told<S: Display>(way: &[S], why: &str) -> String {
    let steps = way.iter().enumerate();
    let steps: String = steps.map(|(at, step)| format!("{:3}. {step}\n", at + 1)).collect();
    format!("{steps}   => {why}\n")
}
