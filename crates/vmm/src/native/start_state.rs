//! The state in which the machine starts a processor: as after reset, with the registers firmware
//! would have left where a kernel is started without one.

use engine::{CpuidEntry, EngineError, Msr, Processor};
use loader::EntryPoint;
use processor::{guest_cpuid, is_amd, physical_bits};

/// IA32_MTRR_DEF_TYPE (SDM 3A 13.11.2.1): enabled, write-back where no range says otherwise.
const MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
/// IA32_MTRR_PHYSBASE0 and PHYSMASK0 (SDM 3A 13.11.2.3).
const MTRR_BASE_0: u32 = 0x200;
const MTRR_MASK_0: u32 = 0x201;
const MTRR_VALID: u64 = 1 << 11;
/// The hole below 4 GiB holds devices: uncacheable (type 0).
const HOLE: u64 = 0xc000_0000;
const HOLE_SIZE: u64 = 0x4000_0000;
/// IA32_MISC_ENABLE: fast string operations (SDM 4, table 2-2).
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;

/// Memory types as PC firmware leaves them.
fn memory_types(physical_bits: u32) -> [Msr; 3] {
    let address_mask = 1u64.checked_shl(physical_bits).map_or(u64::MAX, |n| n - 1);
    [
        Msr { index: MTRR_BASE_0, value: HOLE },
        Msr { index: MTRR_MASK_0, value: (address_mask & !(HOLE_SIZE - 1)) | MTRR_VALID },
        Msr { index: MTRR_DEFAULT, value: MTRR_ENABLED_WRITE_BACK },
    ]
}

/// What every processor of a machine starts from.
pub(super) struct StartState {
    /// What the engine can virtualize.
    pub(super) supported: Vec<CpuidEntry>,
    /// Processors in the machine.
    pub(super) count: u32,
}

impl StartState {
    /// Puts `processor` there; `entry` is where the bootstrap processor begins.
    pub(super) fn apply(
        &self,
        processor: &mut dyn Processor,
        entry: &EntryPoint,
        first: bool,
    ) -> Result<(), EngineError> {
        if first {
            let leaves = guest_cpuid(&self.supported, self.count, processor.index());
            processor.set_cpuid(&leaves)?;
        }
        processor.reset()?;
        let EntryPoint::State { registers, system } = entry else {
            return Ok(());
        };
        let mut msrs = memory_types(physical_bits(&self.supported)).to_vec();
        if !is_amd(&self.supported) {
            msrs.push(Msr { index: MISC_ENABLE, value: FAST_STRINGS });
        }
        // Advice to the guest; a guest without it works.
        if let Err(error) = processor.set_msrs(&msrs) {
            tracing::debug!(%error, "memory types are left as after reset");
        }
        if processor.index() == 0 {
            let mut system = *system;
            system.apic_base = processor.system_registers()?.apic_base;
            processor.set_system_registers(&system)?;
            processor.set_registers(registers)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_below_four_gib_is_uncacheable_and_the_rest_write_back() {
        let [base, mask, default] = memory_types(36);
        assert_eq!(base.value, 0xc000_0000);
        assert_eq!(mask.value, 0xf_c000_0800);
        assert_eq!(default.value, 0x806);
    }
}
