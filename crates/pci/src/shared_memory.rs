//! Memory that host and guest share, as a function of its own: the ids, BARs and registers of
//! ivshmem-plain (QEMU docs/specs/ivshmem-spec), so that Linux maps BAR 2 through sysfs with no driver and
//! Windows has a signed one. It raises no interrupts.

use crate::{BarKind, ConfigError, ConfigSpace, Function, Identity};

/// Its vendor id.
pub const SHARED_MEMORY_VENDOR: u16 = 0x1af4;
/// Its device id.
pub const SHARED_MEMORY_DEVICE: u16 = 0x1110;

const REGISTERS: u8 = 0;
const REGISTERS_SIZE: u64 = 256;
const MEMORY: u8 = 2;
/// "Interrupt Mask", the one register that holds what is written: there are no interrupts to mask.
const INTERRUPT_MASK: u64 = 0;

/// The memory itself. Offsets are inside it.
pub trait SharedBytes: Send {
    /// Bytes; a power of two.
    fn size(&self) -> u64;
    /// Reads what the guest reads where the memory is not mapped for it.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes likewise.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The function. Whoever maps BARs maps the memory at BAR [`SharedMemory::BAR`]; an access that comes
/// here instead does the same.
pub struct SharedMemory<B> {
    config: ConfigSpace,
    bytes: B,
    mask: u32,
}

impl<B: SharedBytes> SharedMemory<B> {
    /// The BAR that decodes the memory.
    pub const BAR: u8 = MEMORY;

    /// A function that shows `bytes`.
    ///
    /// # Errors
    /// The size is no power of two that a BAR can have.
    pub fn new(bytes: B) -> Result<Self, ConfigError> {
        let mut config = ConfigSpace::new(&Identity {
            vendor: SHARED_MEMORY_VENDOR,
            device: SHARED_MEMORY_DEVICE,
            // RAM controller (PCI code and ID assignment 1.11, 1.6).
            class: 0x05_00_00,
            // Of ivshmem 2.6 and later, which "ivshmem-plain" is.
            revision: 1,
            subsystem_vendor: SHARED_MEMORY_VENDOR,
            subsystem: 0x1100,
        });
        config.add_bar(REGISTERS, BarKind::Memory32, REGISTERS_SIZE)?;
        config.add_bar(MEMORY, BarKind::Prefetchable64, bytes.size())?;
        Ok(Self { config, bytes, mask: 0 })
    }

    /// Whether all of `length` bytes at `offset` are in the memory.
    fn inside(&self, offset: u64, length: usize) -> bool {
        offset.checked_add(length as u64).is_some_and(|end| end <= self.bytes.size())
    }
}

impl<B: SharedBytes> Function for SharedMemory<B> {
    fn name(&self) -> &'static str {
        "shared-memory"
    }

    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn bars(&self) -> Vec<(u8, BarKind, u64)> {
        self.config.bars()
    }

    fn bar_address(&self, index: u8) -> Option<u64> {
        self.config.bar_address(index)
    }

    fn read_bar(&mut self, index: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match index {
            MEMORY if self.inside(offset, data.len()) => self.bytes.read(offset, data),
            // Status, position and doorbell read zero: no interrupt, no peer.
            REGISTERS if offset == INTERRUPT_MASK && data.len() == 4 => {
                data.copy_from_slice(&self.mask.to_le_bytes());
            }
            _ => {}
        }
    }

    fn write_bar(&mut self, index: u8, offset: u64, data: &[u8]) {
        match index {
            MEMORY if self.inside(offset, data.len()) => self.bytes.write(offset, data),
            REGISTERS if offset == INTERRUPT_MASK => {
                if let Ok(mask) = data.try_into() {
                    self.mask = u32::from_le_bytes(mask);
                }
            }
            _ => {}
        }
    }

    /// The memory keeps what it holds, as RAM does over a reset.
    fn reset(&mut self) {
        self.config.reset();
        self.mask = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What lies outside would fail to index.
    struct Bytes(RefCell<Vec<u8>>);

    impl SharedBytes for Bytes {
        fn size(&self) -> u64 {
            self.0.borrow().len() as u64
        }
        fn read(&self, offset: u64, data: &mut [u8]) {
            let from = usize::try_from(offset).unwrap();
            data.copy_from_slice(&self.0.borrow()[from..from + data.len()]);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            let from = usize::try_from(offset).unwrap();
            self.0.borrow_mut()[from..from + data.len()].copy_from_slice(data);
        }
    }

    fn function() -> SharedMemory<Bytes> {
        SharedMemory::new(Bytes(RefCell::new(vec![0; 1 << 20]))).unwrap()
    }

    fn u32_of(function: &mut SharedMemory<Bytes>, bar: u8, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        function.read_bar(bar, offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_says_that_it_is_ivshmem_plain() {
        let mut function = function();
        let mut header = [0; 16];
        function.read_config(0, &mut header);
        assert_eq!(header[..4], [0xf4, 0x1a, 0x10, 0x11]);
        assert_eq!(header[8..12], [1, 0, 0, 5]);
        let bars = [(0, BarKind::Memory32, 256), (2, BarKind::Prefetchable64, 1 << 20)];
        assert_eq!(function.bars(), bars);
    }

    #[test]
    fn what_is_written_to_the_memory_is_read_from_it_and_outlives_a_reset() {
        let mut function = function();
        function.write_bar(2, 0xf_fffc, &7_u32.to_le_bytes());
        assert_eq!(u32_of(&mut function, 2, 0xf_fffc), 7);
        function.reset();
        assert_eq!(u32_of(&mut function, 2, 0xf_fffc), 7);
    }

    #[test]
    fn accesses_past_the_end_and_to_bars_that_are_not_there_read_zero_and_change_nothing() {
        let mut function = function();
        for (bar, offset) in [
            (2, (1 << 20) - 3),
            (2, 1 << 20),
            (2, u64::MAX),
            (0, 256),
            (0, u64::MAX),
            (1, 0),
            (7, 0),
        ] {
            function.write_bar(bar, offset, &[0xaa; 8]);
            function.write_bar(bar, offset, &[0xaa; 4]);
            assert_eq!(u32_of(&mut function, bar, offset), 0, "{bar} {offset:#x}");
        }
        assert!(function.bytes.0.borrow().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn only_the_mask_holds_what_is_written() {
        let mut function = function();
        for register in [0, 4, 8, 12, 16, 252] {
            function.write_bar(0, register, &0x1234_5678_u32.to_le_bytes());
        }
        assert_eq!(u32_of(&mut function, 0, 0), 0x1234_5678);
        for register in [4, 8, 12, 16, 252] {
            assert_eq!(u32_of(&mut function, 0, register), 0, "{register}");
        }
        function.reset();
        assert_eq!(u32_of(&mut function, 0, 0), 0);
    }

    #[test]
    fn a_size_that_is_no_power_of_two_is_refused() {
        let odd = SharedMemory::new(Bytes(RefCell::new(vec![0; 3 << 12])));
        assert!(matches!(odd.err(), Some(ConfigError::BarSize { index: 2, .. })));
    }
}
