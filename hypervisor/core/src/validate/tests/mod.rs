mod control;
mod ranges;
mod state;

use crate::cpuid::{Features, Vendor};

/// A processor with everything the core gives guests, but for 57-bit addresses.
fn features() -> Features {
    Features {
        vendor: Vendor::Intel,
        physical_bits: 40,
        five_levels: false,
        gigabyte_pages: true,
        cr4: 0x0077_0fff,
        efer: 0xd01,
        xcr0: 0x2e7,
        tsc_aux: true,
        arch_capabilities: false,
    }
}
