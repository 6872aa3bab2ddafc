//! Root loads microcode. The processor reads an update at a linear address, and what a guest's linear
//! address leads to is not sure to be what it reads: the core copies the update and gives its own
//! address. The kernel has stopped the processor's sibling for that (SDM 3A 10.11.6.3).
//!
//! `unsafe` here: the write itself.
#![allow(unsafe_code)]

use super::RootCpu;
use super::apic::Memory;
use crate::cpu::{exceptions, msr};
use crate::memory::Frames;
use crate::processor::{Cpu, has_vmx};
use crate::walk::Access;
use units::PAGE_SIZE;

/// Bytes before the address that IA32_BIOS_UPDT_TRIG takes: Intel's header (SDM 3A table 10-7).
const INTEL_HEADER: u64 = 48;
/// Where the header says how long the whole update is, 0 for [`INTEL_USUAL`].
const INTEL_TOTAL: usize = 32;
const INTEL_USUAL: u64 = 2048;
/// The longest that are taken. AMD's do not say; family 1Ah's have 14368 bytes.
const INTEL_MOST: u64 = 1 << 20;
const AMD_MOST: u64 = 16 << 10;

/// The register that loads an update.
pub(super) fn register() -> u32 {
    if has_vmx() { msr::BIOS_UPDATE } else { msr::PATCH_LOADER }
}

/// Bytes of an update of Intel's whose header is this; `None` for one that is none.
fn intel_size(header: &[u8; INTEL_HEADER as usize]) -> Option<u64> {
    let word = |at: usize| header[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    let total = match u64::from(word(INTEL_TOTAL)) {
        0 => INTEL_USUAL,
        total => total,
    };
    // Header version 1, and whole kilobytes of 32-bit words (SDM 3A table 10-7).
    (word(0) == 1 && total > INTEL_HEADER && total <= INTEL_MOST && total % 4 == 0).then_some(total)
}

/// Loads the update at `address`, root's linear one. False when there is none, or the processor refuses.
pub(super) fn load(root: &RootCpu, cpu: &mut Cpu, address: u64) -> bool {
    let memory = Memory::of(root);
    let before = if has_vmx() { INTEL_HEADER } else { 0 };
    let Some(start) = address.checked_sub(before) else { return false };
    let size = if has_vmx() {
        let mut header = [0; INTEL_HEADER as usize];
        if memory.read(&mut cpu.window, start, &mut header) < header.len() {
            return false;
        }
        let Some(size) = intel_size(&header) else { return false };
        size
    } else {
        AMD_MOST
    };
    let Some(mut copy) = Frames::allocate(size.div_ceil(PAGE_SIZE)) else {
        crate::log!("out of memory for a microcode update of {size} bytes");
        return false;
    };
    let found = memory.read(&mut cpu.window, start, &mut copy.bytes_mut()[..size as usize]);
    if found == 0 || has_vmx() && found < size as usize {
        return false;
    }
    // SAFETY: the update lies in the core's own memory, which nobody changes meanwhile; the processor
    // takes only what its maker has signed.
    let taken = unsafe { exceptions::try_write_msr(register(), copy.physical().0 + before) };
    if cpu.shared.index == 0 {
        let outcome = if taken { "loaded" } else { "refused by the processor" };
        crate::log!("a microcode update of root's: {outcome}");
    }
    taken
}

impl Memory {
    /// Copies what root has from `linear` on, as far as it has it; says how many bytes that is.
    fn read(&self, window: &mut crate::memory::Window, linear: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(at) = linear.checked_add(done as u64) else { break };
            let count = (into.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            let physical = self.translate(window, at, Access::Read);
            let Some(host) = physical.and_then(|physical| self.host(physical)) else { break };
            window.read(host, &mut into[done..done + count]);
            done += count;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::{INTEL_HEADER, INTEL_TOTAL, intel_size};

    #[test]
    fn the_size_of_an_update_is_its_header_s() {
        let mut header = [0; INTEL_HEADER as usize];
        assert_eq!(intel_size(&header), None, "no header");
        header[0] = 1;
        assert_eq!(intel_size(&header), Some(2048));
        header[INTEL_TOTAL..INTEL_TOTAL + 4].copy_from_slice(&0x1_9000_u32.to_le_bytes());
        assert_eq!(intel_size(&header), Some(0x1_9000));
        header[INTEL_TOTAL..INTEL_TOTAL + 4].copy_from_slice(&0x7fff_ff00_u32.to_le_bytes());
        assert_eq!(intel_size(&header), None, "a lie");
        header[INTEL_TOTAL..INTEL_TOTAL + 4].copy_from_slice(&40_u32.to_le_bytes());
        assert_eq!(intel_size(&header), None, "shorter than its header");
    }
}
