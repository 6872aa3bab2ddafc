//! Device 31: the LPC bridge of Intel's ICH9 south bridge (ICH9 family datasheet, document 316972,
//! chapter 13), through which firmware places the ACPI power management block.

use crate::{ConfigSpace, ConfigState, Identity, Region, Space, StateError, address_space::Owner};

/// Its device number.
pub(crate) const LPC_BRIDGE_DEVICE: u8 = 31;

/// ACPI base address (ICH9 13.1.13): bits 15:7, bit 0 reads one.
const PMBASE: u16 = 0x40;
/// ACPI control (13.1.14): enable in bit 7, SCI interrupt select in bits 2:0.
const ACPI_CNTL: u16 = 0x44;
const ACPI_ENABLE: u8 = 1 << 7;
/// PIRQ[A-D] and PIRQ[E-H] routing (13.1.17, 13.1.19); power-on 0x80, routed nowhere.
const PIRQ_A: usize = 0x60;
const PIRQ_E: usize = 0x68;
/// Serial interrupt control (13.1.18).
const SERIRQ_CNTL: usize = 0x64;
/// LPC I/O decode ranges and enables (13.1.21, 13.1.22).
const LPC_IO_DEC: usize = 0x80;
/// General power management configuration 1 (13.8.1.1): of its bits only SMI_LOCK exists here.
const GEN_PMCON_1: usize = 0xa0;
/// Root complex base address (13.1.34): bits 31:14, enable in bit 0. Nothing answers there: this
/// machine has none of the registers it would show.
const RCBA: usize = 0xf0;
/// Ports of the power management block.
const PM_PORTS: u64 = 128;
/// Blocks of 128 ports where it cannot be: below 0x400 sit the fixed PC/AT devices, at 0x510 the
/// firmware configuration ports, at 0xcf8 those of this bus.
const PM_FIRST_FREE: u16 = 0x400;
const PM_TAKEN: [u16; 2] = [0x500, 0xc80];

/// The LPC bridge.
#[derive(Clone, Debug)]
pub(crate) struct LpcBridge {
    config: ConfigSpace,
}

impl Default for LpcBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x8086,
            device: 0x2918,
            class: 0x06_01_00,
            revision: 2,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.define(usize::from(PMBASE), &[1, 0, 0, 0], &[0x80, 0xff, 0, 0]);
        config.define(usize::from(ACPI_CNTL), &[0], &[ACPI_ENABLE | 0b111]);
        for pirq in [PIRQ_A, PIRQ_E] {
            config.define(pirq, &[0x80; 4], &[0x8f; 4]);
        }
        config.define(SERIRQ_CNTL, &[0x10], &[0xff]);
        config.define(LPC_IO_DEC, &[0; 4], &[0x77, 0x13, 0x0f, 0x3f]);
        config.define(GEN_PMCON_1, &[0, 0], &[0x10, 0]);
        config.define(RCBA, &[0; 4], &0xffff_c001u32.to_le_bytes());
        Self { config }
    }
}

impl LpcBridge {
    /// The ports of the power management block, while enabled and not laid over fixed devices.
    #[must_use]
    pub(crate) fn power_management(&self) -> Option<Region> {
        let base = self.config.u16_at(PMBASE) & 0xff80;
        let mut control = [0];
        self.config.read(ACPI_CNTL, &mut control);
        let free = base >= PM_FIRST_FREE && !PM_TAKEN.contains(&base);
        (control[0] & ACPI_ENABLE != 0 && free).then_some(Region {
            space: Space::Port,
            base: u64::from(base),
            size: PM_PORTS,
            owner: Owner::PowerManagement,
        })
    }

    /// Places and enables the power management block at port `base`, a multiple of 128, with the
    /// SCI on interrupt 9 (select 0), as firmware does.
    pub(crate) fn set_power_management(&mut self, base: u16) {
        self.config.write(PMBASE, &base.to_le_bytes());
        self.config.write(ACPI_CNTL, &[ACPI_ENABLE]);
    }

    pub(crate) fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    pub(crate) fn write_config(&mut self, offset: u16, data: &[u8]) {
        let mut lock = [0];
        self.config.read(0xa0, &mut lock);
        self.config.write(offset, data);
        if lock[0] & 0x10 != 0 {
            // SMI_LOCK stays set until reset.
            self.config.write(0xa0, &lock);
        }
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
    fn the_power_management_block_appears_when_enabled() {
        let mut bridge = LpcBridge::default();
        bridge.write_config(PMBASE, &0x0601u16.to_le_bytes());
        assert_eq!(bridge.power_management(), None);
        bridge.write_config(ACPI_CNTL, &[ACPI_ENABLE]);
        assert_eq!(bridge.power_management().map(|r| (r.base, r.size)), Some((0x600, 128)));
        let mut low = [0];
        bridge.read_config(PMBASE, &mut low);
        assert_eq!(low, [1], "bit 0 is wired to one");
        for taken in [0x0001u16, 0x0381, 0x0501, 0x0c81] {
            bridge.write_config(PMBASE, &taken.to_le_bytes());
            assert_eq!(bridge.power_management(), None, "over fixed devices");
        }
    }

    #[test]
    fn smi_lock_stays_until_reset() {
        let mut bridge = LpcBridge::default();
        let mut lock = [0];
        for value in [0x10, 0] {
            bridge.write_config(0xa0, &[value]);
            bridge.read_config(0xa0, &mut lock);
            assert_eq!(lock, [0x10]);
        }
        bridge.reset();
        bridge.read_config(0xa0, &mut lock);
        assert_eq!(lock, [0]);
    }
}
