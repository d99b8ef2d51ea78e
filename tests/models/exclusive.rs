//! A value that one thread at a time may use: the checker fails if two threads use it at once, or one after the other
//! without synchronization.
//!
//! All threads of a model are one thread of the system, and so a thread-local is shared by them.

use std::cell::RefCell;
use std::rc::Rc;

use loom::cell::UnsafeCell;

thread_local! {
    static IT: RefCell<Option<Rc<UnsafeCell<()>>>> = const { RefCell::new(None) };
}

/// Begins a model. The model ends with the guard, which is its last value.
pub(crate) fn begin() -> End {
    IT.set(Some(Rc::new(UnsafeCell::new(()))));
    End
}

pub(crate) fn used() {
    let it = IT.with_borrow(Clone::clone).expect("the model has begun");
    it.with_mut(|_| loom::thread::yield_now());
}

pub(crate) struct End;

impl Drop for End {
    fn drop(&mut self) {
        IT.set(None);
    }
}
