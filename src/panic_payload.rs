//! The payload of a panic that was caught: [`drop_payload`].

use std::any::Any;
use std::mem;
use std::panic::{self, AssertUnwindSafe};

/// How many payloads in a row may panic when they are dropped. One is a bad drop; a second, the payload of that panic, is
/// hardly ever of such a type again.
const MOST: usize = 4;

/// Drops a payload. Its drop is code of the program and may panic as well, with a payload of its own, which is dropped in its
/// turn. The last of many is leaked, so that this ends.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    let mut payload = payload;
    for _ in 0..MOST {
        match panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return,
            Err(next) => payload = next,
        }
    }
    mem::forget(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Panics when it is dropped, with the next smaller one.
    struct Bomb(usize, Arc<()>);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 {
                panic::resume_unwind(Box::new(Bomb(self.0 - 1, Arc::clone(&self.1))));
            }
        }
    }

    #[test]
    fn what_the_drop_of_a_payload_panics_with_is_dropped_as_well() {
        for (bombs, leaked) in [(0, 0), (1, 0), (MOST - 1, 0), (MOST, 1), (100, 1)] {
            let owners = Arc::new(());
            drop_payload(Box::new(Bomb(bombs, Arc::clone(&owners))));
            assert_eq!(Arc::strong_count(&owners) - 1, leaked, "{bombs}");
        }
    }
}
