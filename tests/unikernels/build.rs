//! Hands the linker script of a unikernel to the linker.

fn main() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("unikernel.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    // It runs where it is linked.
    println!("cargo::rustc-link-arg-bins=--no-pie");
}
