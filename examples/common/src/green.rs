//! The mixin `Green`, which not every system and processor has.

use std::env::consts::{ARCH, OS};

use socketserver::mixin::Mixin;

/// Makes the mixin with this many workers, or with one for each processor. Returns `None` on systems and processors
/// without it; the page of `Green` lists those that have it.
#[allow(unreachable_code, unused_variables, reason = "only one of the two results is compiled")]
pub(crate) fn green(workers: Option<usize>) -> Option<Box<dyn Mixin>> {
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
    return Some(Box::new(match workers {
        Some(count) => socketserver::Green::new().workers(count),
        None => socketserver::Green::new(),
    }));
    None
}

/// The refusal of `--mixin green` where there is none.
pub(crate) fn no_green() -> String {
    format!(
        "--mixin green: no coroutines on {OS} on {ARCH}; --mixin threading runs the same handlers"
    )
}
