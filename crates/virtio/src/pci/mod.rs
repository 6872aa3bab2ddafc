//! virtio over PCI (virtio 1.2, 4.1), modern only: a device becomes a [`pci::Function`].
//!
//! The VMM makes one per device and puts it on the bus; guest accesses come in through `Function`,
//! interrupts leave through [`pci::Msix`], doorbells are eventfds that the engine may signal
//! without an exit. The module `lifecycle` turns the driver's register writes into starts and stops of
//! the device's workers. Nothing here knows what the device does, and nothing a guest writes may
//! panic.
//!
//! Layout: BAR 0 holds the MSI-X table, BAR 4 one page each for common configuration, ISR, device
//! configuration and doorbells.

mod lifecycle;
mod registers;
mod save;
mod shared;

#[cfg(test)]
mod tests;

pub use save::{PciState, PciStateError};

use crate::{Device, DeviceId, GuestMemory, Running};
use lifecycle::QueueSetup;
use pci::{
    BarKind, CAPABILITY_VENDOR, ConfigError, ConfigSpace, Doorbell, Function, Identity, MsiSink,
    Msix, MsixLayout,
};
use registers::{
    COMMON, COMMON_SIZE, DEVICE, ISR, MOST_QUEUES, MSIX_BAR, NOTIFY, NOTIFY_MULTIPLIER, PAGE,
    VIRTIO_BAR, VIRTIO_BAR_SIZE,
};
use shared::Shared;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use virtio_bindings::bindings::virtio_config::{VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Vendor of virtio devices; device ids are this base plus the device type (virtio 1.2, 4.1.2).
const VENDOR: u16 = 0x1af4;
const MODERN_BASE: u16 = 0x1040;
/// Drivers for Windows look for this subsystem and revision (virtio 1.2, 4.1.2.1: any of 0x40 up).
const SUBSYSTEM: u16 = 0x1100;
const REVISION: u8 = 1;

/// Configuration types in the vendor capabilities (virtio 1.2, 4.1.4).
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;
/// Bytes of `struct virtio_pci_cap` (virtio 1.2, 4.1.4).
const CAP_SIZE: u8 = 16;

/// Why a device cannot become a PCI function; a mistake of the machine's maker, never of a guest.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// More queues than doorbells.
    #[error("{device}: {queues} queues, at most {MOST_QUEUES} have a doorbell")]
    Queues {
        /// Which device.
        device: String,
        /// How many it has.
        queues: usize,
    },
    /// The configuration space is full.
    #[error("{device}: {source}")]
    Config {
        /// Which device.
        device: String,
        /// What does not fit.
        source: ConfigError,
    },
    /// The kernel gives no eventfd.
    #[error("{device}: no eventfd for a doorbell: {source}")]
    Doorbell {
        /// Which device.
        device: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    device: Box<dyn Device>,
    memory: GuestMemory,
    config: ConfigSpace,
    shared: Arc<Shared>,
    /// Offset of the capability that opens BAR 4 to configuration accesses (virtio 1.2, 4.1.4.9).
    window: u16,
    offered: u64,
    driver_features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    queues: Vec<QueueSetup>,
    running: Option<Running>,
    paused: bool,
}

impl VirtioPci {
    /// Makes `device` a function whose interrupts go to `msi`.
    ///
    /// # Errors
    /// The device has too many queues, or the kernel gives no eventfd.
    pub fn new(
        device: Box<dyn Device>,
        memory: GuestMemory,
        msi: Arc<dyn MsiSink>,
    ) -> Result<Self, PciError> {
        let name = device.name().to_owned();
        let sizes = device.queue_sizes();
        if sizes.len() > MOST_QUEUES {
            return Err(PciError::Queues { device: name, queues: sizes.len() });
        }
        let in_config = |source| PciError::Config { device: name.clone(), source };
        let mut queues = Vec::new();
        for size in sizes {
            let kick = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
                .map_err(|source| PciError::Doorbell { device: name.clone(), source })?;
            queues.push(QueueSetup::new(size, kick));
        }
        let (config, msix, window) =
            configuration(device.id(), queues.len(), msi).map_err(in_config)?;
        Ok(Self {
            offered: device.features() | 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_RING_RESET,
            shared: Arc::new(Shared::new(msix, queues.len())),
            device,
            memory,
            config,
            window,
            driver_features: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues,
            running: None,
            paused: false,
        })
    }

    /// The device's control half.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// The device's control half.
    pub fn device_mut(&mut self) -> &mut dyn Device {
        self.device.as_mut()
    }

    /// The vectors, for a listener that follows them.
    #[must_use]
    pub fn msix(&self) -> &Msix {
        &self.shared.msix
    }

    /// The device's state in words.
    #[must_use]
    pub fn inspect(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("status", format!("{:#04x}", self.shared.status.load(SeqCst))),
            ("features", format!("{:#x} of {:#x}", self.driver_features, self.offered)),
            ("msi-x", self.shared.msix.enabled().to_string()),
        ];
        for (index, queue) in self.queues.iter().enumerate() {
            facts.push(("queue", format!("{index}: {}", queue.describe())));
        }
        facts.extend(self.device.inspect());
        facts
    }

    fn read_virtio(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let at = offset % PAGE;
        match offset - at {
            COMMON => {
                let bytes = self.common().bytes();
                for (n, byte) in (at..).zip(data) {
                    *byte =
                        usize::try_from(n).ok().and_then(|n| bytes.get(n)).copied().unwrap_or(0);
                }
            }
            // Reading takes the interrupt off (virtio 1.2, 4.1.4.5).
            ISR if at == 0 => {
                if let Some(first) = data.first_mut() {
                    *first = self.shared.isr.swap(0, SeqCst);
                }
            }
            DEVICE => self.device.read_config(at, data),
            _ => {}
        }
    }

    fn write_virtio(&mut self, offset: u64, data: &[u8]) {
        let at = offset % PAGE;
        match offset - at {
            COMMON => self.write_common(at, data),
            DEVICE => self.device.write_config(at, data),
            NOTIFY => self.ring(at),
            _ => {}
        }
    }

    /// The driver rings; what it writes repeats the queue's index (virtio 1.2, 4.1.5.2).
    fn ring(&self, offset: u64) {
        let index = usize::try_from(offset / u64::from(NOTIFY_MULTIPLIER)).unwrap_or(usize::MAX);
        if let Some(queue) = self.queues.get(index) {
            // Fails only when the counter is full: the bell is ringing already.
            let _ = queue.kick.write(1);
        }
    }

    /// What the window capability names now: BAR 4, an offset inside, 1, 2 or 4 bytes; `None` for
    /// anything else.
    fn window_target(&self) -> Option<(u64, usize)> {
        let bar = self.config.u32_at(self.window + 4) & 0xff;
        let offset = u64::from(self.config.u32_at(self.window + 8));
        let length = self.config.u32_at(self.window + 12);
        let inside = offset + u64::from(length) <= VIRTIO_BAR_SIZE;
        let aligned = matches!(length, 1 | 2 | 4) && offset % u64::from(length) == 0;
        (bar == u32::from(VIRTIO_BAR) && inside && aligned).then_some((offset, length as usize))
    }

    /// Whether an access touches the window's data register.
    fn touches_window(&self, offset: u16, length: usize) -> bool {
        let data = usize::from(self.window) + usize::from(CAP_SIZE);
        let offset = usize::from(offset);
        offset < data + 4 && data < offset + length
    }
}

/// The configuration space of a device, its MSI-X, and where its window capability is.
fn configuration(
    id: DeviceId,
    queues: usize,
    msi: Arc<dyn MsiSink>,
) -> Result<(ConfigSpace, Msix, u16), ConfigError> {
    let mut config = ConfigSpace::new(&Identity {
        vendor: VENDOR,
        device: MODERN_BASE + id as u16,
        class: class(id),
        revision: REVISION,
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    });
    // One vector per queue and one for configuration changes; MOST_QUEUES + 1 fits 16 bits.
    let vectors = u16::try_from(queues + 1).unwrap_or(u16::MAX);
    let table = Msix::table_size(vectors);
    let msix_size = (table + Msix::pending_size(vectors)).next_power_of_two().max(PAGE);
    config.add_bar(MSIX_BAR, BarKind::Memory32, msix_size)?;
    config.add_bar(VIRTIO_BAR, BarKind::Memory32, VIRTIO_BAR_SIZE)?;
    config.add_express_endpoint()?;
    let layout =
        MsixLayout { bar: MSIX_BAR, table: 0, pending: u32::try_from(table).unwrap_or(u32::MAX) };
    let msix = Msix::new(&mut config, vectors, layout, msi)?;
    let page = PAGE as u32;
    let doorbells = queues as u32 * NOTIFY_MULTIPLIER;
    for (kind, offset, length) in
        [(CAP_COMMON, COMMON, COMMON_SIZE as u32), (CAP_ISR, ISR, 1), (CAP_DEVICE, DEVICE, page)]
    {
        config.add_capability(
            CAPABILITY_VENDOR,
            &capability(kind, CAP_SIZE, offset, length),
            &[],
        )?;
    }
    let mut notify = capability(CAP_NOTIFY, CAP_SIZE + 4, NOTIFY, doorbells.max(4)).to_vec();
    notify.extend(NOTIFY_MULTIPLIER.to_le_bytes());
    config.add_capability(CAPABILITY_VENDOR, &notify, &[])?;
    let mut window = capability(CAP_PCI, CAP_SIZE + 4, 0, 0).to_vec();
    window.extend([0; 4]);
    let mut writable = [0xff; CAP_SIZE as usize + 4 - 2];
    // Length, type and the padding after the BAR stay.
    writable[..2].fill(0);
    writable[3..6].fill(0);
    let window = config.add_capability(CAPABILITY_VENDOR, &window, &writable)?;
    Ok((config, msix, window))
}

/// `struct virtio_pci_cap` after its id and link (virtio 1.2, 4.1.4): length, type, BAR, id, two
/// bytes of padding, offset, length.
fn capability(kind: u8, size: u8, offset: u64, length: u32) -> [u8; CAP_SIZE as usize - 2] {
    let mut body = [0; CAP_SIZE as usize - 2];
    body[0] = size;
    body[1] = kind;
    body[2] = VIRTIO_BAR;
    // Offsets are pages of a BAR of a few KiB.
    body[6..10].copy_from_slice(&(offset as u32).to_le_bytes());
    body[10..14].copy_from_slice(&length.to_le_bytes());
    body
}

/// Class code, sub-class and interface (PCI code and ID assignment 1.11, 1).
fn class(id: DeviceId) -> u32 {
    match id {
        DeviceId::Net => 0x02_0000,
        DeviceId::Block | DeviceId::FileSystem => 0x01_8000,
        DeviceId::Console => 0x07_8000,
        DeviceId::Plan9 | DeviceId::Vsock => 0x02_8000,
        DeviceId::Gpu => 0x03_8000,
        DeviceId::Input => 0x09_8000,
        DeviceId::Rng | DeviceId::Balloon => 0xff_0000,
    }
}

impl Function for VirtioPci {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((at, length)) = self.window_target()
        {
            let mut value = [0; 4];
            self.read_virtio(at, &mut value[..length]);
            self.config.set(self.window + u16::from(CAP_SIZE), &value);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.shared.msix.config_written(&self.config);
        if self.touches_window(offset, data.len())
            && let Some((at, length)) = self.window_target()
        {
            let value = self.config.u32_at(self.window + u16::from(CAP_SIZE)).to_le_bytes();
            self.write_virtio(at, &value[..length]);
        }
    }

    fn bars(&self) -> Vec<(u8, BarKind, u64)> {
        self.config.bars()
    }

    fn bar_address(&self, index: u8) -> Option<u64> {
        self.config.bar_address(index)
    }

    fn read_bar(&mut self, index: u8, offset: u64, data: &mut [u8]) {
        match index {
            VIRTIO_BAR => self.read_virtio(offset, data),
            MSIX_BAR if self.shared.msix.read(offset, data) => {}
            _ => data.fill(0),
        }
    }

    fn write_bar(&mut self, index: u8, offset: u64, data: &[u8]) {
        match index {
            VIRTIO_BAR => self.write_virtio(offset, data),
            MSIX_BAR => {
                self.shared.msix.write(offset, data);
            }
            _ => {}
        }
    }

    #[allow(unsafe_code)]
    fn doorbells(&self) -> Vec<Doorbell<'_>> {
        let bell = |(index, queue): (usize, &QueueSetup)| Doorbell {
            bar: VIRTIO_BAR,
            offset: NOTIFY + index as u64 * u64::from(NOTIFY_MULTIPLIER),
            // SAFETY: the eventfd is a field of `self`, which the returned lifetime borrows.
            event: unsafe { BorrowedFd::borrow_raw(queue.kick.as_raw_fd()) },
        };
        self.queues.iter().enumerate().map(bell).collect()
    }

    fn reset(&mut self) {
        self.reset_device();
        self.config.reset();
        self.shared.msix.reset();
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.stop();
    }
}
