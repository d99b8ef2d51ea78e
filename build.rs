//! Tells the code about the system, and whether it has `Green`: `cfg(linux_kernel)` and `cfg(has_green)`. What decides that is
//! named once, here.
//!
//! `linux_kernel` is Linux or Android. Everywhere else the library has the files of `src/sys/portable/`; `RUSTFLAGS="--cfg
//! portable_sys"` takes them on Linux as well, so that they are compiled and tested where no other system is at hand.
//!
//! `has_green` needs the feature, a system with epoll, and a processor whose stacks corosensei can switch. Cargo.toml has the
//! same list for corosensei.

use std::env::var;

/// The processors that corosensei knows on Linux with a stable compiler.
const PROCESSORS: [&str; 7] =
    ["x86_64", "x86", "aarch64", "arm", "riscv64", "riscv32", "loongarch64"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(has_green)");
    println!("cargo:rustc-check-cfg=cfg(linux_kernel)");
    let target = |name: &str| var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let is_linux = ["linux", "android"].contains(&target("OS").as_str());
    // Cargo passes each `--cfg` of the flags on.
    if !is_linux || var("CARGO_CFG_PORTABLE_SYS").is_ok() {
        return;
    }
    println!("cargo:rustc-cfg=linux_kernel");
    let is_asked_for = var("CARGO_FEATURE_GREEN").is_ok();
    if is_asked_for && PROCESSORS.contains(&target("ARCH").as_str()) {
        println!("cargo:rustc-cfg=has_green");
    }
}
