//! Tells the code whether it has `Green`: `cfg(has_green)`. Three things decide that, and so they are named once, here: the
//! feature, a system with epoll, and a processor whose stacks corosensei can switch. Cargo.toml has the same list for corosensei.

use std::env::var;

/// The processors that corosensei knows on Linux with a stable compiler.
const PROCESSORS: [&str; 7] =
    ["x86_64", "x86", "aarch64", "arm", "riscv64", "riscv32", "loongarch64"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(has_green)");
    let target = |name: &str| var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let is_asked_for = var("CARGO_FEATURE_GREEN").is_ok();
    let has_epoll = ["linux", "android"].contains(&target("OS").as_str());
    if is_asked_for && has_epoll && PROCESSORS.contains(&target("ARCH").as_str()) {
        println!("cargo:rustc-cfg=has_green");
    }
}
