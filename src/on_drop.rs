//! [`OnDrop`]: the last step of a section, also where a panic ends it.

/// Calls its closure when it is dropped. Bound to a name (`let _end = ..`), it takes back what the lines before it did.
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
