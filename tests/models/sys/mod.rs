//! The layer below the library's sources.

pub(crate) mod shared;

pub(crate) mod coroutine {
    //! The loan is the library's own.

    #[allow(unsafe_code, reason = "as in the library")]
    #[path = "../../../../src/sys/coroutine/lent.rs"]
    pub(crate) mod lent;
    pub(crate) mod stack;
    pub(crate) mod switch;
}
