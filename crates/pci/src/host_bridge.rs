//! Device 0: the DRAM controller of Intel's Q35 chipset (Intel 3 Series Express Chipset datasheet,
//! document 316966, chapter 5), which firmware recognizes the platform by.
//!
//! Kept true to what this machine does: RAM lies behind every PAM segment and cannot be taken away,
//! and there is no system management mode, so SMRAM reads locked and disabled.

use crate::{ConfigSpace, ConfigState, Identity, Region, Space, StateError, address_space::Owner};

/// Its device number.
pub(crate) const HOST_BRIDGE_DEVICE: u8 = 0;

/// PCI Express register range base address (316966 5.1.16).
const PCIEXBAR: u16 = 0x60;
const PCIEXBAR_ENABLE: u64 = 1;
/// Programmable attribute map (5.1.19 to 5.1.25): bits 0/1 and 4/5 are read and write enable.
const PAM0: usize = 0x90;
/// System management RAM control (5.1.28): locked (bit 4), compatible segment 0b010.
const SMRAM: usize = 0x9d;
const SMRAM_LOCKED: u8 = 0x12;
/// Extended SMRAM control (5.1.29): cache bits 5:3 read as ones, TSEG disabled.
const ESMRAMC: usize = 0x9e;
const ESMRAMC_CLOSED: u8 = 0x38;

/// The host bridge.
#[derive(Clone, Debug)]
pub(crate) struct HostBridge {
    config: ConfigSpace,
}

impl Default for HostBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x8086,
            device: 0x29c0,
            class: 0x06_00_00,
            revision: 0,
            // Firmware tells a virtual Q35 from a physical one by QEMU's subsystem ids
            // (QEMU docs/specs/pci-ids).
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        // Enable, length, base bits 35:26; which base bits count depends on the length.
        config.define(
            usize::from(PCIEXBAR),
            &[0; 8],
            &(PCIEXBAR_ENABLE | 0b110 | 0xf_fc00_0000).to_le_bytes(),
        );
        config.define(PAM0, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33], &[]);
        config.define(SMRAM, &[SMRAM_LOCKED], &[]);
        config.define(ESMRAMC, &[ESMRAMC_CLOSED], &[]);
        Self { config }
    }
}

impl HostBridge {
    /// The configuration window now decoded, if one is.
    #[must_use]
    pub(crate) fn ecam(&self) -> Option<Region> {
        let low = u64::from(self.config.u32_at(PCIEXBAR));
        let value = (u64::from(self.config.u32_at(PCIEXBAR + 4)) << 32) | low;
        // Length field: 256, 128 or 64 MiB; 0b11 is reserved and decodes nothing.
        let size = match (value >> 1) & 0b11 {
            0b00 => 256 << 20,
            0b01 => 128 << 20,
            0b10 => 64 << 20,
            _ => return None,
        };
        let base = value & 0xf_fc00_0000 & !(size - 1);
        (value & PCIEXBAR_ENABLE != 0 && base != 0).then_some(Region {
            space: Space::Memory,
            base,
            size,
            owner: Owner::Ecam,
        })
    }

    /// Puts the 256 MiB configuration window at `base`, a multiple of its size, as firmware does.
    pub(crate) fn set_ecam(&mut self, base: u64) {
        self.config.write(PCIEXBAR, &(base | PCIEXBAR_ENABLE).to_le_bytes());
    }

    pub(crate) fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    pub(crate) fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
    }

    pub(crate) fn reset(&mut self) {
        self.config.reset();
    }

    pub(crate) fn save(&self) -> ConfigState {
        self.config.save()
    }

    pub(crate) fn restore(&mut self, state: &ConfigState) -> Result<(), StateError> {
        self.config.restore(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_register() {
        let mut bridge = HostBridge::default();
        assert_eq!(bridge.ecam(), None);
        bridge.set_ecam(0xb000_0000);
        assert_eq!(bridge.ecam().map(|r| (r.base, r.size)), Some((0xb000_0000, 256 << 20)));
        bridge.write_config(PCIEXBAR, &0xbc00_0005u32.to_le_bytes());
        assert_eq!(bridge.ecam().map(|r| (r.base, r.size)), Some((0xbc00_0000, 64 << 20)));
        bridge.write_config(PCIEXBAR, &0xbc00_0007u32.to_le_bytes());
        assert_eq!(bridge.ecam(), None, "reserved length");
        bridge.write_config(PCIEXBAR, &[0xff; 8]);
        bridge.write_config(PCIEXBAR, &[0x01]);
        let top = bridge.ecam().unwrap();
        assert_eq!(top.base.checked_add(top.size), Some(1 << 36));
    }

    #[test]
    fn ram_behind_pam_cannot_be_taken_away_nor_smram_opened() {
        let mut bridge = HostBridge::default();
        let mut before = [0; 16];
        bridge.read_config(0x90, &mut before);
        bridge.write_config(0x90, &[0; 16]);
        bridge.write_config(0x9d, &[0x4a]);
        let mut after = [0; 16];
        bridge.read_config(0x90, &mut after);
        assert_eq!(before, after);
        assert_eq!(after[..7], [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        assert_eq!(after[13], 0x12);
    }
}
