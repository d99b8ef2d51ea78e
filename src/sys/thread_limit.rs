//! The number of threads that a process can have.
//!
//! `Threading` without `max_threads` could reach that number in a rush of slow clients. Further requests are refused, as if
//! no thread could be started.

use std::sync::OnceLock;

/// The number of threads that this process can have.
///
/// On Linux a thread takes four memory mappings: its stack, its signal stack, and a guard page before each. A new
/// thread that cannot map its signal stack does not fail; it aborts the process. The kernel bounds the mappings of a
/// process (vm.max_map_count, 65,530 by default). An eighth is kept for everything else: 57,339 / 4 = 14,334 threads.
///
/// Elsewhere there is no such bound, and the number is `usize::MAX`.
///
/// The limit is read once: that of a running machine hardly ever changes, and each start of a thread asks for it.
pub(crate) fn most_threads() -> usize {
    static THREAD_LIMIT: OnceLock<usize> = OnceLock::new();
    *THREAD_LIMIT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        text.trim().parse().map_or(usize::MAX, threads_of)
    })
}

/// See [`most_threads`] for the arithmetic.
fn threads_of(mappings: usize) -> usize {
    (mappings - mappings / 8) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_process_has_room_for_the_usual_limit_of_requests() {
        assert_eq!(threads_of(65_530), 14_334);
        assert_eq!(threads_of(usize::MAX), (usize::MAX - usize::MAX / 8) / 4);
        assert!(most_threads() > 0);
    }
}
