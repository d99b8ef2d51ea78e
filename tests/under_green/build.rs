//! Tells the tests that they run under `Green`, which there is.

fn main() {
    println!("cargo:rustc-cfg=under_green");
    println!("cargo:rustc-check-cfg=cfg(has_green)");
    println!("cargo:rustc-cfg=has_green");
    println!("cargo:rerun-if-changed=build.rs");
}
