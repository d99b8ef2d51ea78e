//! The mixin `Green`, which not every system and processor has.

use std::env::consts::{ARCH, OS};

use socketserver::mixin::Mixin;

/// Of so many workers, or of as many as there are processors. None where there is no such mixin; the page of `Green` says where.
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "riscv32",
        target_arch = "loongarch64"
    )
))]
pub(crate) fn green(workers: Option<usize>) -> Option<Box<dyn Mixin>> {
    let green = socketserver::Green::new();
    Some(Box::new(match workers {
        Some(count) => green.workers(count),
        None => green,
    }))
}

/// See the form above.
#[cfg(not(all(
    any(target_os = "linux", target_os = "android"),
    any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "riscv32",
        target_arch = "loongarch64"
    )
)))]
pub(crate) fn green(_workers: Option<usize>) -> Option<Box<dyn Mixin>> {
    None
}

/// Told where there is none.
pub(crate) fn no_green() -> String {
    format!(
        "--mixin green: no coroutines on {OS} on {ARCH}; --mixin threading runs the same handlers"
    )
}
