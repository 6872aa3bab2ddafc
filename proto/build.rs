//! Generates the gRPC code from the .proto files without an installed `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const FILES: [&str; 5] = [
        "proto/macrohard/v1/clipboard.proto",
        "proto/macrohard/v1/control.proto",
        "proto/macrohard/v1/guest.proto",
        "proto/macrohard/v1/host.proto",
        "proto/macrohard/v1/windows.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        // A mebibyte in pieces is neither copied into them nor out of what came.
        .bytes(".macrohard.v1.ClipboardChunk.data")
        // Read under limits (src/lists.rs).
        .extern_path(".macrohard.v1.ApplicationList", "crate::v1::ApplicationList")
        .compile_fds(descriptors.clone())?;
    let apart = std::path::Path::new(&std::env::var("OUT_DIR")?).join("stand_in");
    std::fs::create_dir_all(&apart)?;
    tonic_prost_build::configure()
        .extern_path(".macrohard.v1", "crate::v1")
        .build_client(false)
        .generate_default_stubs(true)
        .out_dir(apart)
        .compile_fds(descriptors)?;
    Ok(())
}
