//! Tells the tests that they run under `Green`.

fn main() {
    println!("cargo:rustc-cfg=under_green");
    println!("cargo:rerun-if-changed=build.rs");
}
