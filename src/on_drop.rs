//! [`OnDrop`]: the last step of a section, also where a panic ends it.

/// A guard that calls its closure when it is dropped: at the end of the block, if it is bound to a name (`let _end = ..`).
///
/// The closure may run while a panic unwinds, so it must not panic itself: a second panic ends the process.
#[must_use = "the closure is called when this is dropped"]
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    #[inline]
    fn drop(&mut self) {
        (self.0)();
    }
}
