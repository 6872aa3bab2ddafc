//! Writes the tiny guests to a folder, with what each prints and how it ends, for scripts.

use crate::Result;
use std::path::Path;
use tiny_guests::{ALL, EXITS, Ending, SMP, smp_lines};

/// Processors the expectation of the `smp` program is written for.
const PROCESSORS: [u32; 2] = [2, 4];

/// `NAME.bin`, `NAME.output` and `NAME.status` for each that ends; `smp.image` with `smp-N.output` (sorted
/// lines); `exits.image`.
pub(crate) fn write(folder: &Path) -> Result {
    std::fs::create_dir_all(folder)?;
    for guest in ALL {
        std::fs::write(folder.join(guest.name).with_extension("bin"), guest.image)?;
        std::fs::write(folder.join(guest.name).with_extension("output"), guest.output)?;
        if let Ending::Exits(status) = guest.ending {
            std::fs::write(folder.join(guest.name).with_extension("status"), status.to_string())?;
        }
    }
    std::fs::write(folder.join("smp.image"), SMP.image)?;
    std::fs::write(folder.join("exits.image"), EXITS.image)?;
    for processors in PROCESSORS {
        let mut lines = smp_lines(processors);
        lines.sort();
        std::fs::write(folder.join(format!("smp-{processors}.output")), lines.join("\n") + "\n")?;
    }
    Ok(())
}
