//! The layer below the library's sources.

pub(crate) mod sync;

pub(crate) mod coroutine {
    //! Coroutines without stacks.

    pub(crate) mod stack;
    pub(crate) mod switch;
}
