//! The 4 KiB of configuration space of one function: what each bit reads, which bits a guest may
//! change, where the BARs point.

use crate::BarKind;
use serde::{Deserialize, Serialize};

/// Size of the configuration space of a PCI Express function (PCIe 6.0 7.2).
pub(crate) const SIZE: usize = 4096;
/// The part reached through 0xcf8/0xcfc; the capability list lives in it (PCI 3.0 6.1).
const CONVENTIONAL: usize = 256;

// Type 0 header (PCI 3.0 6.1).
pub(crate) const COMMAND: u16 = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const HEADER_TYPE: usize = 0x0e;
pub(crate) const BAR0: u16 = 0x10;
/// First byte after the six BARs.
pub(crate) const BARS_END: u16 = 0x28;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

// Command register bits (PCI 3.0 6.2.2).
pub(crate) const COMMAND_PORTS: u16 = 1 << 0;
pub(crate) const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SERR: u16 = 1 << 8;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status bit "capability list present" (PCI 3.0 6.2.3).
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Capability id "vendor specific" (PCI code and ID assignment 1.11, 2); virtio's capabilities.
pub const CAPABILITY_VENDOR: u8 = 0x09;
/// Capability id "PCI Express" (PCIe 6.0 7.5.3).
const CAPABILITY_EXPRESS: u8 = 0x10;

/// Who a function says it is (PCI 3.0 6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, sub-class and programming interface, as in bits 23:0.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// Why a configuration space cannot be laid out; a mistake of the device, never of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A BAR index past 5, taken, or a 64-bit one that has no slot for its upper half.
    #[error("BAR {0} is taken or does not exist (0 to 5; a 64-bit one takes two)")]
    BarIndex(u8),
    /// A BAR of a size that cannot be expressed.
    #[error("BAR {index} of {size:#x} bytes: must be a power of two, {least:#x} to {most:#x}")]
    BarSize {
        /// Which.
        index: u8,
        /// The size asked for.
        size: u64,
        /// The smallest its kind can have.
        least: u64,
        /// The largest its kind can have.
        most: u64,
    },
    /// No room left in the first 256 bytes.
    #[error("capability {id:#04x} of {length} bytes does not fit: {left} bytes are left")]
    CapabilitySpace {
        /// Its id.
        id: u8,
        /// Its length, header included.
        length: usize,
        /// What is left.
        left: usize,
    },
}

/// A saved configuration space does not fit this function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Saved by a version that this one does not know.
    #[error("{what}: saved as version {found}, this build reads version {known}")]
    Version {
        /// What was restored.
        what: &'static str,
        /// Version in the state.
        found: u32,
        /// Version this code reads.
        known: u32,
    },
    /// Another device than the one saved.
    #[error("{what}: saved {saved:#x}, this machine has {here:#x}")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// Value in the state.
        saved: u64,
        /// Value here.
        here: u64,
    },
}

/// What a guest changed in a configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    version: u32,
    identity: u32,
    /// Offset and value of every 32-bit register with a writable bit.
    registers: Vec<(u16, u32)>,
}

const STATE_VERSION: u32 = 1;

#[derive(Clone, Copy, Debug)]
struct Bar {
    kind: BarKind,
    size: u64,
}

/// Configuration space with a write mask for every bit. Built once by the device, then read and
/// written by the guest; [`ConfigSpace::reset`] gives back what was built.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    power_on: Vec<u8>,
    bars: [Option<Bar>; 6],
    next_capability: usize,
    last_link: usize,
}

impl ConfigSpace {
    /// An endpoint with no BAR and no capability yet; command and interrupt line are writable.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: vec![0; SIZE],
            writable: vec![0; SIZE],
            power_on: vec![0; SIZE],
            bars: [None; 6],
            next_capability: FIRST_CAPABILITY,
            last_link: CAPABILITIES,
        };
        space.define(0, &identity.vendor.to_le_bytes(), &[]);
        space.define(2, &identity.device.to_le_bytes(), &[]);
        let class = (identity.class << 8) | u32::from(identity.revision);
        space.define(REVISION, &class.to_le_bytes(), &[]);
        space.define(SUBSYSTEM, &identity.subsystem_vendor.to_le_bytes(), &[]);
        space.define(SUBSYSTEM + 2, &identity.subsystem.to_le_bytes(), &[]);
        let command = COMMAND_PORTS
            | COMMAND_MEMORY
            | COMMAND_BUS_MASTER
            | COMMAND_PARITY
            | COMMAND_SERR
            | COMMAND_INTX_DISABLE;
        space.define(usize::from(COMMAND), &[0, 0], &command.to_le_bytes());
        space.define(INTERRUPT_LINE, &[0], &[0xff]);
        space
    }

    /// Sets power-on bytes at `offset` and which of their bits a guest may write. Bytes past the
    /// end of the space are dropped; a missing mask byte means read-only.
    pub fn define(&mut self, offset: usize, value: &[u8], writable: &[u8]) {
        for (i, byte) in value.iter().enumerate() {
            let Some(at) = offset.checked_add(i).filter(|at| *at < SIZE) else {
                return;
            };
            self.bytes[at] = *byte;
            self.power_on[at] = *byte;
            self.writable[at] = writable.get(i).copied().unwrap_or(0);
        }
    }

    /// Marks function 0 of a device that has further functions (PCI 3.0 6.2.1, header type).
    pub fn set_multifunction(&mut self) {
        self.define(HEADER_TYPE, &[0x80], &[]);
    }

    /// Adds a base address register of `size` bytes.
    ///
    /// # Errors
    /// No such slot, or a size the kind cannot express.
    pub fn add_bar(&mut self, index: u8, kind: BarKind, size: u64) -> Result<(), ConfigError> {
        let slots: u8 = if is_64_bit(kind) { 2 } else { 1 };
        let free = |i: u8| {
            let taken_by_lower =
                i > 0 && self.bars[usize::from(i) - 1].is_some_and(|b| is_64_bit(b.kind));
            self.bars[usize::from(i)].is_none() && !taken_by_lower
        };
        if index + slots > 6 || !(index..index + slots).all(free) {
            return Err(ConfigError::BarIndex(index));
        }
        let (least, most) = match kind {
            BarKind::Port => (4, 256),
            BarKind::Memory32 => (16, 1 << 31),
            BarKind::Memory64 | BarKind::Prefetchable64 => (16, 1 << 46),
        };
        if !size.is_power_of_two() || !(least..=most).contains(&size) {
            return Err(ConfigError::BarSize { index, size, least, most });
        }
        // Kind bits (PCI 3.0 6.2.5.1).
        let kind_bits: u64 = match kind {
            BarKind::Port => 0b01,
            BarKind::Memory32 => 0b0000,
            BarKind::Memory64 => 0b0100,
            BarKind::Prefetchable64 => 0b1100,
        };
        let mask = match kind {
            BarKind::Port => !(size - 1) & 0xffff,
            BarKind::Memory32 => !(size - 1) & 0xffff_ffff,
            BarKind::Memory64 | BarKind::Prefetchable64 => !(size - 1),
        };
        let length = usize::from(slots) * 4;
        let at = usize::from(BAR0) + usize::from(index) * 4;
        self.define(at, &kind_bits.to_le_bytes()[..length], &mask.to_le_bytes()[..length]);
        self.bars[usize::from(index)] = Some(Bar { kind, size });
        Ok(())
    }

    /// Appends a capability: `body` is what follows the id and next pointer, `writable` its mask
    /// (missing bytes are read-only). Gives the offset of its id byte.
    ///
    /// # Errors
    /// The list is full.
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u16, ConfigError> {
        let at = self.next_capability;
        let length = 2 + body.len();
        let left = CONVENTIONAL - at;
        if length > left {
            return Err(ConfigError::CapabilitySpace { id, length, left });
        }
        // `at` is below 256, so its low byte is all of it.
        let link = at.to_le_bytes()[0];
        self.define(self.last_link, &[link], &[]);
        self.define(at, &[id, 0], &[]);
        self.define(at + 2, body, writable);
        let status = self.power_on[STATUS] | STATUS_CAPABILITIES;
        self.define(STATUS, &[status], &[]);
        self.last_link = at + 1;
        self.next_capability = (at + length).next_multiple_of(4).min(CONVENTIONAL);
        Ok(u16::from(link))
    }

    /// Appends the PCI Express capability of a root complex integrated endpoint (PCIe 6.0 7.5.3:
    /// version 2, type 9, no link), which makes the space 4 KiB for guests.
    ///
    /// # Errors
    /// The list is full.
    pub fn add_express_endpoint(&mut self) -> Result<u16, ConfigError> {
        // Offsets in the body, which starts 2 bytes into the capability.
        const FLAGS: usize = 0;
        const DEVICE_CAPABILITIES: usize = 0x04 - 2;
        const DEVICE_CONTROL: usize = 0x08 - 2;
        let mut body = [0; 0x3c - 2];
        let mut writable = [0; 0x3c - 2];
        body[FLAGS] = 2 | (9 << 4);
        // Role-based error reporting, mandatory since 1.1 (bit 15).
        body[DEVICE_CAPABILITIES + 1] = 0x80;
        // Error reporting enables, relaxed ordering, payload size, no snoop, read request size:
        // settings with nothing behind them here, kept as a real function keeps them.
        writable[DEVICE_CONTROL] = 0xff;
        writable[DEVICE_CONTROL + 1] = 0x78;
        // Power-on: relaxed ordering and no snoop enabled, read requests of 512 bytes.
        body[DEVICE_CONTROL] = 0x10;
        body[DEVICE_CONTROL + 1] = 0x28;
        self.add_capability(CAPABILITY_EXPRESS, &body, &writable)
    }

    /// Reads for the guest or the device; bytes past the space read as ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(usize::from(offset) + i).copied().unwrap_or(0xff);
        }
    }

    /// Writes for the guest: only writable bits change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            if let (Some(old), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = (*old & !mask) | (byte & mask);
            }
        }
    }

    /// Sets bytes for the device, read-only ones too; bytes past the space are dropped.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            if let Some(old) = self.bytes.get_mut(usize::from(offset) + i) {
                *old = *byte;
            }
        }
    }

    /// The 16-bit register at `offset`.
    #[must_use]
    pub fn u16_at(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The 32-bit register at `offset`.
    #[must_use]
    pub fn u32_at(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Whether the guest lets the function read and write memory and send MSI-X.
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.u16_at(COMMAND) & COMMAND_BUS_MASTER != 0
    }

    /// The BARs in use, as [`crate::Function::bars`] wants them.
    #[must_use]
    pub fn bars(&self) -> Vec<(u8, BarKind, u64)> {
        (0u8..)
            .zip(&self.bars)
            .filter_map(|(index, bar)| bar.map(|bar| (index, bar.kind, bar.size)))
            .collect()
    }

    /// Where BAR `index` decodes now: `None` while its decoding is off, while it holds 0, or while
    /// it is being sized (all writable bits ones).
    #[must_use]
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        let bar = (*self.bars.get(usize::from(index))?)?;
        let needed = if bar.kind == BarKind::Port { COMMAND_PORTS } else { COMMAND_MEMORY };
        if self.u16_at(COMMAND) & needed == 0 {
            return None;
        }
        let register = BAR0 + u16::from(index) * 4;
        let low = u64::from(self.u32_at(register));
        let (address, all_ones) = match bar.kind {
            BarKind::Port => (low & 0xfffc, 0xffff),
            BarKind::Memory32 => (low & !0xf, 0xffff_ffff),
            BarKind::Memory64 | BarKind::Prefetchable64 => {
                let high = u64::from(self.u32_at(register + 4));
                ((high << 32) | (low & !0xf), u64::MAX)
            }
        };
        let last = address.checked_add(bar.size - 1)?;
        (address != 0 && last != all_ones).then_some(address)
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.power_on);
    }

    /// What a guest changed, for a snapshot.
    #[must_use]
    pub fn save(&self) -> ConfigState {
        let registers = (0u16..)
            .step_by(4)
            .zip(self.writable.chunks_exact(4))
            .filter(|(_, mask)| mask.iter().any(|byte| *byte != 0))
            .map(|(offset, _)| (offset, self.u32_at(offset)))
            .collect();
        ConfigState { version: STATE_VERSION, identity: self.u32_at(0), registers }
    }

    /// Takes a snapshot back; only writable bits are taken from it.
    ///
    /// # Errors
    /// Another version or another device.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), StateError> {
        if state.version != STATE_VERSION {
            return Err(StateError::Version {
                what: "configuration space",
                found: state.version,
                known: STATE_VERSION,
            });
        }
        let here = self.u32_at(0);
        if state.identity != here {
            return Err(StateError::Mismatch {
                what: "PCI vendor and device id",
                saved: u64::from(state.identity),
                here: u64::from(here),
            });
        }
        for (offset, value) in &state.registers {
            self.write(*offset, &value.to_le_bytes());
        }
        Ok(())
    }
}

/// True for BARs that take two slots.
pub(crate) fn is_64_bit(kind: BarKind) -> bool {
    matches!(kind, BarKind::Memory64 | BarKind::Prefetchable64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1042,
            class: 0x01_80_00,
            revision: 1,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        })
    }

    #[test]
    fn identity_reads_back_and_cannot_be_written() {
        let mut space = space();
        space.write(0, &[0; 64]);
        assert_eq!(space.u32_at(0), 0x1042_1af4);
        assert_eq!(space.u32_at(8), 0x0180_0001);
        assert_eq!(space.u32_at(0x2c), 0x1100_1af4);
    }

    #[test]
    fn sizing_a_bar_gives_its_size_and_decodes_nowhere_meanwhile() {
        let mut space = space();
        space.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
        space.add_bar(2, BarKind::Prefetchable64, 0x4_0000_0000).unwrap();
        space.add_bar(4, BarKind::Port, 32).unwrap();
        space.write(COMMAND, &3u16.to_le_bytes());
        for slot in 0..5 {
            space.write(BAR0 + slot * 4, &[0xff; 4]);
        }
        assert_eq!(space.u32_at(0x10), 0xffff_f000);
        assert_eq!(space.u32_at(0x18), 0x0000_000c);
        assert_eq!(space.u32_at(0x1c), 0xffff_fffc);
        assert_eq!(space.u32_at(0x20), 0x0000_ffe1);
        assert_eq!(space.u32_at(0x24), 0, "an absent BAR is wired to zero");
        for bar in [0, 2, 4] {
            assert_eq!(space.bar_address(bar), None);
        }
        space.write(0x18, &0x8000_0000u32.to_le_bytes());
        space.write(0x1c, &8u32.to_le_bytes());
        assert_eq!(space.bar_address(2), Some(8 << 32), "low bits of a large BAR are wired");
        space.write(COMMAND, &1u16.to_le_bytes());
        assert_eq!(space.bar_address(2), None, "memory decoding is off");
    }

    #[test]
    fn a_64_bit_bar_takes_two_slots() {
        let mut space = space();
        space.add_bar(0, BarKind::Memory64, 0x1000).unwrap();
        assert_eq!(space.add_bar(1, BarKind::Memory32, 0x1000), Err(ConfigError::BarIndex(1)));
        assert_eq!(space.add_bar(5, BarKind::Memory64, 0x1000), Err(ConfigError::BarIndex(5)));
        assert!(matches!(
            space.add_bar(2, BarKind::Memory32, 0x1800),
            Err(ConfigError::BarSize { index: 2, .. })
        ));
    }

    #[test]
    fn no_write_changes_a_read_only_bit() {
        let mut space = space();
        space.add_bar(0, BarKind::Memory64, 0x4000).unwrap();
        space.add_express_endpoint().unwrap();
        let built = space.clone();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let [low, high, length, ..] = seed.to_le_bytes();
            let data = seed.rotate_left(17).to_le_bytes();
            let offset = u16::from_le_bytes([low, high & 0x1f]);
            space.write(offset, &data[..usize::from(length % 9)]);
        }
        let fixed = |space: &ConfigSpace| {
            space.bytes.iter().zip(&space.writable).map(|(b, w)| b & !w).collect::<Vec<_>>()
        };
        assert_eq!(fixed(&space), fixed(&built));
        assert_ne!(space.bytes, built.bytes);
        space.reset();
        assert_eq!(space.bytes, built.bytes);
    }

    #[test]
    fn capabilities_form_a_list_that_ends() {
        let mut space = space();
        assert_eq!(space.u16_at(6) & 0x10, 0);
        let first = space.add_capability(CAPABILITY_VENDOR, &[14, 1, 0], &[]).unwrap();
        let second = space.add_express_endpoint().unwrap();
        assert_eq!(space.u16_at(6) & 0x10, 0x10);
        let mut found = Vec::new();
        let mut at = space.u16_at(0x34) & 0xff;
        while at != 0 {
            found.push((at, space.u16_at(at).to_le_bytes()[0]));
            at = space.u16_at(at) >> 8;
        }
        assert_eq!(found, [(first, CAPABILITY_VENDOR), (second, CAPABILITY_EXPRESS)]);
        let left = space.add_capability(CAPABILITY_VENDOR, &[0; 250], &[]);
        assert!(matches!(left, Err(ConfigError::CapabilitySpace { length: 252, .. })));
    }

    #[test]
    fn a_snapshot_goes_back_only_into_the_same_device() {
        let mut space = space();
        space.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
        space.write(COMMAND, &6u16.to_le_bytes());
        space.write(0x10, &0xc000_0000u32.to_le_bytes());
        let state = space.save();
        space.reset();
        assert_eq!(space.bar_address(0), None);
        space.restore(&state).unwrap();
        assert_eq!(space.bar_address(0), Some(0xc000_0000));
        assert!(space.bus_master());
        let mut other = ConfigSpace::new(&Identity { vendor: 1, ..Identity::default() });
        assert!(matches!(other.restore(&state), Err(StateError::Mismatch { .. })));
    }
}
