//! Generates the gRPC code from the .proto files without an installed `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const FILES: [&str; 4] = [
        "proto/macrohard/v1/clipboard.proto",
        "proto/macrohard/v1/control.proto",
        "proto/macrohard/v1/guest.proto",
        "proto/macrohard/v1/host.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        // A mebibyte in pieces is neither copied into them nor out of what came.
        .bytes(".macrohard.v1.ClipboardChunk.data")
        // Read under limits (src/lists.rs).
        .extern_path(".macrohard.v1.ApplicationList", "crate::v1::ApplicationList")
        .compile_fds(descriptors)?;
    Ok(())
}
