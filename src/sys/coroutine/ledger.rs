//! `Ledger`: which stacks of a slab are free, which of the free ones hold memory, and what goes back to the system.
//!
//! It knows stacks by their numbers only and touches no memory, so it is safe code, and its tests run under Miri.
//!
//! ```text
//!            take                 give_back
//!   Fresh ---------->  Live  ------------------>  Warm, the youngest at the back
//!     (gets its guard)  ^  ^                        |   |
//!                       |  +------------------------+   |  next_release: the oldest, from the front
//!                       |      take: from the back      v
//!                       +----------------------------  Cold
//!                           take: if none is warm         (its memory is the system's again)
//! ```
//!
//! A stack that is never given back stays live for ever: nobody is handed it again, and its memory is left alone.
//!
//! `StackSlab` is its only caller, on the worker's thread. `take` and `give_back` run once for each request: each is a
//! step at the end of a vector and one write into `chunks`, and takes memory only when a vector grows.
//!
//! `order` never has more entries than there are stacks, entries of None included. Giving a stack back adds one entry, and
//! taking it has made room for that: the youngest warm stack is taken together with its entry, and a cold or fresh one only
//! while `order` is empty.

use std::collections::VecDeque;
use std::ops::Range;

/// This many free stacks keep their memory, whatever the load was: a burst of as many connections finds warm stacks. An
/// echo handler's stack holds 4 KiB, so this is 4 MiB for each worker.
pub(super) const WARM_STACKS: usize = 1_024;

/// A release goes on across this many stacks in a row that are cold already. To pass one costs about a tenth of a separate
/// call.
const MAX_COLD_GAP: usize = 8;

/// A stack of a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StackId {
    /// The chunk of the slab that the stack belongs to.
    pub(super) chunk: usize,
    /// The number of the stack in that chunk.
    pub(super) index: usize,
}

/// The result of [`Ledger::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The stack was used before, and has its guard.
    Used(StackId),
    /// Nobody has used the stack, and it has no guard yet.
    Fresh(StackId),
}

/// The state of a stack: see the diagram at the top of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StackState {
    /// Nobody has used it. It has no guard, and its pages have no memory.
    Fresh,
    /// A coroutine has it, or had it and was leaked.
    Live,
    /// Free, and its pages still have memory, with the remains of its last coroutine in them. The number is its place in
    /// the order in which stacks became free: see [`Ledger::first`].
    Warm(u64),
    /// Free, and the system has its memory again. Its guard is still there.
    Cold,
}

/// The states of all stacks of a slab: see the [module](self).
#[derive(Debug)]
pub(super) struct Ledger {
    /// [`WARM_STACKS`], or fewer in tests.
    keep: usize,
    /// The states of all stacks, chunk by chunk.
    /// A stack's state is the truth about it; `order`, `cold` and `fresh` are ways to find one in that state.
    chunks: Vec<Vec<StackState>>,
    /// Stacks that were taken and not given back.
    live: usize,
    /// How many stacks are `Warm`.
    warm: usize,
    /// The warm stacks by the time at which they became free, the oldest first. None: the stack was released with a neighbour.
    order: VecDeque<Option<StackId>>,
    /// The place of the first of `order`: places count up for ever, so that a state can say where its stack stands.
    first: u64,
    /// The cold stacks.
    cold: Vec<StackId>,
    /// The stacks of the last chunk that nobody has used.
    fresh: Range<usize>,
}

impl Ledger {
    /// A ledger without stacks. `keep` is [`WARM_STACKS`], except in tests.
    pub(super) fn new(keep: usize) -> Self {
        Self {
            keep,
            chunks: Vec::new(),
            live: 0,
            warm: 0,
            order: VecDeque::new(),
            first: 0,
            cold: Vec::new(),
            fresh: 0..0,
        }
    }

    /// Adds a chunk of this many fresh stacks. Called only if [`take`](Self::take) has found none.
    pub(super) fn add_chunk(&mut self, stacks: usize) {
        debug_assert!(self.fresh.is_empty(), "fresh stacks are left");
        self.chunks.push(vec![StackState::Fresh; stacks]);
        self.fresh = 0..stacks;
    }

    /// How many stacks there are, in all chunks.
    pub(super) fn stacks(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// A stack that nobody has. The one that became free last comes first: its memory is in the processor's caches. None:
    /// a chunk has to be added.
    ///
    /// Warm stacks come first, because they cost no page faults; then cold ones, which cost some; then fresh ones, which
    /// also need a guard.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let taken = if let Some(id) = self.youngest() {
            Taken::Used(id)
        } else if let Some(id) = self.cold.pop() {
            Taken::Used(id)
        } else {
            let index = self.fresh.next()?;
            Taken::Fresh(StackId { chunk: self.chunks.len() - 1, index })
        };
        let (Taken::Used(id) | Taken::Fresh(id)) = taken;
        self.chunks[id.chunk][id.index] = StackState::Live;
        self.live += 1;
        Some(taken)
    }

    /// Takes the youngest warm stack out of the order.
    fn youngest(&mut self) -> Option<StackId> {
        while let Some(last) = self.order.pop_back() {
            if last.is_some() {
                self.warm -= 1;
                return last;
            }
        }
        None
    }

    /// Undoes the last `take`, of a fresh stack that could not get its guard.
    pub(super) fn not_taken(&mut self, id: StackId) {
        debug_assert_eq!((id.chunk + 1, id.index + 1), (self.chunks.len(), self.fresh.start));
        self.chunks[id.chunk][id.index] = StackState::Fresh;
        self.fresh.start = id.index;
        self.live -= 1;
    }

    /// Notes that a stack is free again.
    pub(super) fn give_back(&mut self, id: StackId) {
        let state = &mut self.chunks[id.chunk][id.index];
        debug_assert_eq!(*state, StackState::Live);
        *state = StackState::Warm(self.first + self.order.len() as u64);
        self.order.push_back(Some(id));
        self.warm += 1;
        self.live -= 1;
    }

    /// How many free stacks may be warm: as many as are in use, and at least [`WARM_STACKS`]. So a load that goes up and
    /// down does not give memory back and fetch it again; and beyond `WARM_STACKS` the slab holds at most twice the memory
    /// that is in use.
    ///
    /// For 10,000 requests that end one after the other, with none to follow: while more than 5,000 are live, all free
    /// stacks stay warm. From then on the oldest ones become cold, neighbours in one call, and about [`WARM_STACKS`] are warm
    /// in the end.
    fn most_warm(&self) -> usize {
        self.live.max(self.keep)
    }

    /// Stacks side by side, of one chunk, whose memory is to go back to the system. From here on they are cold. None if
    /// no more are warm than [may be](Self::most_warm).
    ///
    /// The release begins with the oldest stack, and takes its neighbours along, up to one that is in use or among the
    /// youngest. One call for a whole chunk costs a tenth of one for each of its stacks.
    ///
    /// The caller should then give the memory back. If it does not, a stack that counts as cold still holds memory, and
    /// nothing else goes wrong.
    pub(super) fn next_release(&mut self) -> Option<(usize, Range<usize>)> {
        if self.warm <= self.most_warm() {
            return None;
        }
        let id = loop {
            self.first += 1;
            if let Some(id) = self.order.pop_front()? {
                break id;
            }
        };
        self.warm -= 1;
        self.chunks[id.chunk][id.index] = StackState::Cold;
        self.cold.push(id);
        let below = self.cool(id.chunk, (0..id.index).rev()).unwrap_or(id.index);
        let above = self.cool(id.chunk, id.index + 1..self.chunks[id.chunk].len());
        Some((id.chunk, below..above.unwrap_or(id.index) + 1))
    }

    /// Goes along one side of a released stack and makes warm stacks cold, up to one that has to stay as it is. Returns the
    /// last one that was warm.
    fn cool(&mut self, chunk: usize, side: impl Iterator<Item = usize>) -> Option<usize> {
        // The youngest stacks stay in any case, because they are taken next.
        let end = (self.first + self.order.len() as u64).saturating_sub(self.keep as u64);
        let (mut last, mut across) = (None, 0);
        for index in side {
            let state = &mut self.chunks[chunk][index];
            match *state {
                StackState::Warm(place) if place < end => {
                    *state = StackState::Cold;
                    // The order begins with place `first`.
                    self.order[(place - self.first) as usize] = None;
                    self.warm -= 1;
                    self.cold.push(StackId { chunk, index });
                    (last, across) = (Some(index), 0);
                }
                StackState::Cold if across < MAX_COLD_GAP => across += 1,
                StackState::Warm(_) | StackState::Cold | StackState::Live | StackState::Fresh => {
                    break;
                }
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A ledger, used as a slab uses it, together with the simplest description of the state that it must have.
    struct Model {
        ledger: Ledger,
        /// The sizes of the chunks, in the order in which they are added. After the last size comes the first again.
        sizes: Vec<usize>,
        live: Vec<StackId>,
        /// Free stacks that hold memory, in the order in which they became free.
        warm: Vec<StackId>,
        /// Free stacks without memory.
        cold: BTreeSet<(usize, usize)>,
        /// For each number of stacks, how many calls have released as many.
        released: BTreeMap<usize, usize>,
    }

    impl Model {
        fn new(keep: usize, sizes: &[usize]) -> Self {
            Self {
                ledger: Ledger::new(keep),
                sizes: sizes.to_vec(),
                live: Vec::new(),
                warm: Vec::new(),
                cold: BTreeSet::new(),
                released: BTreeMap::new(),
            }
        }

        fn take(&mut self) {
            let taken = self.ledger.take().unwrap_or_else(|| {
                assert!(self.warm.is_empty() && self.cold.is_empty(), "a free stack is not found");
                self.ledger.add_chunk(self.sizes[self.ledger.chunks.len() % self.sizes.len()]);
                self.ledger.take().unwrap()
            });
            match taken {
                Taken::Used(id) => match self.warm.pop() {
                    Some(youngest) => assert_eq!(id, youngest),
                    None => assert!(self.cold.remove(&(id.chunk, id.index)), "{id:?} is not free"),
                },
                Taken::Fresh(id) => {
                    assert!(self.warm.is_empty() && self.cold.is_empty());
                    assert!(!self.live.contains(&id), "{id:?} is live");
                }
            }
            let (Taken::Used(id) | Taken::Fresh(id)) = taken;
            self.live.push(id);
        }

        fn give_back(&mut self, place: usize) {
            let id = self.live.swap_remove(place);
            self.ledger.give_back(id);
            self.warm.push(id);
            while let Some((chunk, stacks)) = self.ledger.next_release() {
                self.release(chunk, &stacks);
            }
            let most = self.ledger.keep.max(self.live.len());
            assert!(self.warm.len() <= most, "{} warm stacks of {most}", self.warm.len());
        }

        fn release(&mut self, chunk: usize, stacks: &Range<usize>) {
            let is_in = |id: &StackId| id.chunk == chunk && stacks.contains(&id.index);
            assert!(!self.live.iter().any(is_in), "memory of a live stack is released");
            assert!(is_in(&self.warm[0]), "the oldest one stays");
            let kept = self.warm.len().saturating_sub(self.ledger.keep).max(1);
            assert!(!self.warm[kept..].iter().any(is_in), "a young one is released");
            let before = self.warm.len();
            let cooled: Vec<_> = self.warm.iter().copied().filter(is_in).collect();
            self.warm.retain(|id| !is_in(id));
            self.cold.extend(cooled.iter().map(|id| (id.chunk, id.index)));
            for index in stacks.clone() {
                assert!(
                    self.cold.contains(&(chunk, index)),
                    "a stack that nobody has used is released"
                );
            }
            // The first and the last stack of the range hold memory.
            for end in [stacks.start, stacks.end - 1] {
                assert!(cooled.contains(&StackId { chunk, index: end }), "in vain");
            }
            *self.released.entry(before - self.warm.len()).or_default() += 1;
        }

        fn is_consistent(&self) {
            let ledger = &self.ledger;
            assert_eq!(ledger.live, self.live.len());
            assert_eq!(ledger.warm, self.warm.len());
            assert_eq!(ledger.cold.len(), self.cold.len());
            let used = self.live.len() + self.warm.len() + self.cold.len();
            assert_eq!(used + ledger.fresh.len(), ledger.stacks());
        }
    }

    /// Tries every sequence of this many steps. Each step takes a stack, or gives back one of those that are live.
    fn all_sequences(model: &mut Vec<usize>, steps: usize, tried: &mut usize) {
        let mut now = Model::new(1, &[2, 3]);
        for step in &*model {
            if *step == 0 {
                now.take();
            } else {
                now.give_back(step - 1);
            }
            now.is_consistent();
        }
        *tried += 1;
        if steps == 0 {
            return;
        }
        for next in 0..=now.live.len() {
            model.push(next);
            all_sequences(model, steps - 1, tried);
            model.pop();
        }
    }

    #[test]
    fn every_short_sequence_agrees_with_the_model() {
        let (steps, sequences) = if cfg!(miri) { (6, 120) } else { (10, 13_232) };
        let mut tried = 0;
        all_sequences(&mut Vec::new(), steps, &mut tried);
        assert_eq!(tried, sequences);
    }

    /// A number below `bound`: xorshift64, so that a run can be repeated.
    fn next(seed: &mut u64, bound: usize) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed % bound as u64) as usize
    }

    #[test]
    fn loads_that_come_and_go_agree_with_the_model() {
        let (rounds, steps) = if cfg!(miri) { (2, 150) } else { (50, 2_000) };
        for round in 1..=rounds {
            let mut seed = round;
            let mut model = Model::new(8, &[4, 8, 32]);
            for step in 0..steps {
                // The load rises and falls.
                let rises = step / 100 % 2 == 0;
                let chance = next(&mut seed, 10);
                if model.live.is_empty() || (chance < 7) == rises {
                    model.take();
                } else {
                    let place = next(&mut seed, model.live.len());
                    model.give_back(place);
                }
                model.is_consistent();
            }
        }
    }

    #[test]
    fn after_a_peak_neighbours_go_back_by_one_call() {
        let count = if cfg!(miri) { 100 } else { 10_000 };
        let mut model = Model::new(count / 10, &[count]);
        for _ in 0..count {
            model.take();
        }
        let mut seed = 1;
        while !model.live.is_empty() {
            let place = next(&mut seed, model.live.len());
            model.give_back(place);
        }
        let calls: usize = model.released.values().sum();
        let stacks: usize = model.released.iter().map(|(stacks, calls)| stacks * calls).sum();
        assert_eq!(stacks, count - count / 10);
        // Connections that close in any order leave runs of free stacks behind.
        assert!(calls * 3 < stacks * 2, "{:?}", model.released);
    }

    #[test]
    fn a_stack_without_a_guard_is_fresh_again() {
        let mut ledger = Ledger::new(0);
        ledger.add_chunk(2);
        let Some(Taken::Fresh(id)) = ledger.take() else { panic!() };
        ledger.not_taken(id);
        assert_eq!((ledger.take(), ledger.live), (Some(Taken::Fresh(id)), 1));
    }
}
