//! The registers of virtio devices in memory (virtio 1.2, 4.2.2), one page per device.

use super::queue::{Broken, MOST_ENTRIES, Queue};
use super::{Device, Session};
use crate::GuestRam;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Where the first device's page is: between PCI memory and the I/O APIC.
pub const MMIO_BASE: u64 = 0xfd00_0000;
/// Bytes of one device's page.
pub const MMIO_SIZE: u64 = 0x1000;
/// The most devices: each has an interrupt of its own, and the I/O APIC has that many pins beyond
/// the ISA interrupts.
pub const MOST_DEVICES: usize = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"MHV1");
const FEATURE_VERSION_1: u64 = 1 << 32;

// Register offsets (4.2.2).
const MAGIC_VALUE: u64 = 0x000;
const DEVICE_VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SELECT: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_SIZE_MOST: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESCRIPTORS: u64 = 0x080;
const QUEUE_AVAILABLE: u64 = 0x090;
const QUEUE_USED: u64 = 0x0a0;
const CONFIG_GENERATION: u64 = 0x0fc;
const CONFIG: u64 = 0x100;

// Device status (2.1).
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_NEEDS_RESET: u32 = 64;

const INTERRUPT_USED: u32 = 1 << 0;
const INTERRUPT_CONFIG: u32 = 1 << 1;

/// One device with its registers.
struct Slot {
    device: Box<dyn Device>,
    queues: Vec<Queue>,
    status: u32,
    driver_features: u64,
    device_select: u32,
    driver_select: u32,
    queue_select: usize,
    interrupts: u32,
}

impl Slot {
    fn new(device: Box<dyn Device>) -> Self {
        Self {
            queues: (0..device.queues()).map(|_| Queue::default()).collect(),
            device,
            status: 0,
            driver_features: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            interrupts: 0,
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | FEATURE_VERSION_1
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.queue_select)
    }

    fn runs(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0 && self.status & STATUS_NEEDS_RESET == 0
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            MAGIC_VALUE => MAGIC,
            DEVICE_VERSION => VERSION,
            DEVICE_ID => self.device.kind() as u32,
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => half(self.offered(), self.device_select),
            QUEUE_SIZE_MOST => self.queue().map_or(0, |_| MOST_ENTRIES.into()),
            QUEUE_READY => self.queue().map_or(0, |queue| queue.ready.into()),
            INTERRUPT_STATUS => self.interrupts,
            STATUS => self.status,
            CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32, ram: &GuestRam) {
        match offset {
            DEVICE_FEATURES_SELECT => self.device_select = value,
            DRIVER_FEATURES_SELECT => self.driver_select = value,
            DRIVER_FEATURES if self.status & STATUS_FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_select, value);
            }
            QUEUE_SELECT => self.queue_select = value as usize,
            QUEUE_NOTIFY => {
                let index = value as usize;
                self.work(ram, |device, session| device.ring(index, session));
            }
            INTERRUPT_ACK => self.interrupts &= !value,
            STATUS => self.set_status(value),
            _ => self.write_queue(offset, value),
        }
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queues.get_mut(self.queue_select) else {
            return;
        };
        if offset == QUEUE_READY {
            queue.ready = value & 1 != 0 && queue.is_possible();
            return;
        }
        // A queue that is on does not move under the device (4.2.2.2).
        if queue.ready {
            return;
        }
        let (field, high) = (offset & !4, u32::from(offset & 4 != 0));
        match field {
            QUEUE_SIZE => queue.size = u16::try_from(value).unwrap_or(0),
            QUEUE_DESCRIPTORS => set_half(&mut queue.descriptors, high, value),
            QUEUE_AVAILABLE => set_half(&mut queue.available, high, value),
            QUEUE_USED => set_half(&mut queue.used, high, value),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.device.reset();
            self.queues.fill(Queue::default());
            self.status = 0;
            self.interrupts = 0;
            self.driver_features = 0;
            return;
        }
        let needs_reset = self.status & STATUS_NEEDS_RESET;
        self.status = value & 0xff | needs_reset;
        // Features the device does not have, or without VERSION_1, are refused (2.2.2).
        let wrong = self.driver_features & !self.offered() != 0
            || self.driver_features & FEATURE_VERSION_1 == 0;
        if self.status & STATUS_FEATURES_OK != 0 && wrong {
            self.status &= !STATUS_FEATURES_OK;
        }
    }

    /// Lets the device work while its driver runs.
    fn work(
        &mut self,
        ram: &GuestRam,
        act: impl FnOnce(&mut dyn Device, &mut Session<'_>) -> Result<(), Broken>,
    ) {
        if !self.runs() {
            return;
        }
        let mut interrupt = false;
        let mut session = Session {
            ram,
            queues: &mut self.queues,
            interrupt: &mut interrupt,
            budget: MOST_ENTRIES,
        };
        let outcome = act(&mut *self.device, &mut session);
        if interrupt {
            self.interrupts |= INTERRUPT_USED;
        }
        if outcome.is_err() {
            self.status |= STATUS_NEEDS_RESET;
            self.interrupts |= INTERRUPT_CONFIG;
        }
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, part: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(part),
        1 => *value = *value & 0xffff_ffff | u64::from(part) << 32,
        _ => {}
    }
}

/// What a write to a device did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The device's number.
    pub device: usize,
    /// Its interrupt is asserted.
    pub asserted: bool,
    /// It was a doorbell.
    pub rang: bool,
}

/// All virtio devices of a guest.
#[derive(Default)]
pub struct MmioBus {
    slots: Vec<Slot>,
    ram: Option<GuestRam>,
}

impl MmioBus {
    /// These devices, which work in `ram`.
    #[must_use]
    pub fn new(devices: Vec<Box<dyn Device>>, ram: GuestRam) -> Self {
        Self {
            slots: devices.into_iter().take(MOST_DEVICES).map(Slot::new).collect(),
            ram: Some(ram),
        }
    }

    fn find(address: u64) -> Option<(usize, u64)> {
        let offset = address.checked_sub(MMIO_BASE)?;
        Some(((offset / MMIO_SIZE) as usize, offset % MMIO_SIZE))
    }

    /// Reads at `address`; false when no device is there.
    pub fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        let Some((index, offset)) = Self::find(address) else {
            return false;
        };
        let Some(slot) = self.slots.get(index) else {
            return false;
        };
        data.fill(0);
        if offset >= CONFIG {
            let config = slot.device.config();
            let from = usize::try_from(offset - CONFIG).unwrap_or(usize::MAX);
            for (to, byte) in data.iter_mut().zip(config.iter().skip(from)) {
                *to = *byte;
            }
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&slot.read_register(offset).to_le_bytes());
        }
        true
    }

    /// Writes at `address`; `None` when no device is there.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Option<Written> {
        let (index, offset) = Self::find(address)?;
        let slot = self.slots.get_mut(index)?;
        if let (Some(ram), Ok(value)) = (&self.ram, <[u8; 4]>::try_from(data))
            && offset < CONFIG
        {
            slot.write_register(offset, u32::from_le_bytes(value), ram);
        }
        Some(Written {
            device: index,
            asserted: slot.interrupts != 0,
            rang: offset == QUEUE_NOTIFY,
        })
    }

    /// Lets every device take what came from elsewhere; `line` is told each device's interrupt.
    pub fn poll(&mut self, mut line: impl FnMut(usize, bool)) {
        let Some(ram) = &self.ram else {
            return;
        };
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.work(ram, |device, session| device.poll(session));
            line(index, slot.interrupts != 0);
        }
    }

    /// Offers typed text to the devices; false when none wants it.
    pub fn typed(&mut self, bytes: &[u8]) -> bool {
        self.slots.iter_mut().any(|slot| slot.runs() && slot.device.typed(bytes))
    }
}
