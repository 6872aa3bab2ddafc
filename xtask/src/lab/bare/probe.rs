//! The probe (`tests/lab/core/probe.s`): an image that boots as the core does and says what the machine
//! is.

use crate::failure::Result;
use crate::process::{Output, Step};
use crate::workspace;
use std::path::PathBuf;

/// Assembles it.
pub(crate) fn build() -> Result<PathBuf> {
    let folder = workspace::folder("lab/images")?;
    let log = folder.join("probe.log");
    let _ = std::fs::remove_file(&log);
    let object = folder.join("probe.o");
    let image = folder.join("probe");
    Step::new("as")
        .arguments(["--32", "-o"])
        .argument(&object)
        .argument(workspace::root().join("tests/lab/core/probe.s"))
        .run(Output::Logged(log.clone()))?;
    // Linked where the core is. Multiboot2 3.1 wants the header in the first 32 KiB.
    Step::new("ld")
        .arguments([
            "-m",
            "elf_i386",
            "--build-id=none",
            "-z",
            "noseparate-code",
            "-Ttext-segment=0x1000000",
            "-o",
        ])
        .argument(&image)
        .argument(&object)
        .run(Output::Logged(log))?;
    Ok(image)
}
