//! Where things are: the BARs and the common configuration structure.

/// BAR of the MSI-X table and pending bits.
pub(super) const MSIX_BAR: u8 = 0;
/// BAR of everything virtio.
pub(super) const VIRTIO_BAR: u8 = 4;
/// Each structure has a page of its own in [`VIRTIO_BAR`].
pub(super) const PAGE: u64 = 0x1000;
pub(super) const COMMON: u64 = 0;
pub(super) const ISR: u64 = PAGE;
pub(super) const DEVICE: u64 = 2 * PAGE;
pub(super) const NOTIFY: u64 = 3 * PAGE;
pub(super) const VIRTIO_BAR_SIZE: u64 = 4 * PAGE;
/// Bytes between the doorbells of two queues (virtio 1.2, 4.1.4.4).
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
/// So many doorbells fit their page.
pub(super) const MOST_QUEUES: usize = (PAGE / NOTIFY_MULTIPLIER as u64) as usize;

/// `struct virtio_pci_common_cfg` with the optional fields at its end, which read 0: notification
/// data is not offered, and the reset of a queue is over before the driver can look (virtio 1.2,
/// 4.1.4.3).
pub(super) const COMMON_SIZE: usize = 0x3c;

/// One field of the common configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    DeviceFeatureSelect,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    DeviceStatus,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueReset,
    QueueDescriptors(Part),
    QueueDriver(Part),
    QueueDevice(Part),
}

/// Which part of a 64-bit address; drivers write it in two halves (virtio 1.2, 4.1.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Low,
    High,
    Whole,
}

impl Part {
    /// `old` with this part replaced by `value`.
    pub(super) fn replace(self, old: u64, value: u64) -> u64 {
        match self {
            Self::Low => old & !0xffff_ffff | value & 0xffff_ffff,
            Self::High => old & 0xffff_ffff | value << 32,
            Self::Whole => value,
        }
    }
}

impl Field {
    /// The writable field that is exactly at `offset` with `length` bytes. Other writes have no
    /// meaning (virtio 1.2, 4.1.3.1) and are ignored.
    pub(super) fn writable(offset: u64, length: usize) -> Option<Self> {
        let address = |make: fn(Part) -> Self, start: u64| match (offset - start, length) {
            (0, 4) => Some(make(Part::Low)),
            (4, 4) => Some(make(Part::High)),
            (0, 8) => Some(make(Part::Whole)),
            _ => None,
        };
        match (offset, length) {
            (0x00, 4) => Some(Self::DeviceFeatureSelect),
            (0x08, 4) => Some(Self::DriverFeatureSelect),
            (0x0c, 4) => Some(Self::DriverFeature),
            (0x10, 2) => Some(Self::ConfigVector),
            (0x14, 1) => Some(Self::DeviceStatus),
            (0x16, 2) => Some(Self::QueueSelect),
            (0x18, 2) => Some(Self::QueueSize),
            (0x1a, 2) => Some(Self::QueueVector),
            (0x1c, 2) => Some(Self::QueueEnable),
            (0x3a, 2) => Some(Self::QueueReset),
            (0x20..0x28, _) => address(Self::QueueDescriptors, 0x20),
            (0x28..0x30, _) => address(Self::QueueDriver, 0x28),
            (0x30..0x38, _) => address(Self::QueueDevice, 0x30),
            _ => None,
        }
    }
}

/// The whole structure as a read sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Common {
    pub(super) device_feature_select: u32,
    pub(super) device_feature: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_feature: u32,
    pub(super) config_vector: u16,
    pub(super) num_queues: u16,
    pub(super) status: u8,
    pub(super) generation: u8,
    pub(super) queue_select: u16,
    pub(super) queue_size: u16,
    pub(super) queue_vector: u16,
    pub(super) queue_enable: u16,
    pub(super) queue_notify_offset: u16,
    pub(super) queue_descriptors: u64,
    pub(super) queue_driver: u64,
    pub(super) queue_device: u64,
}

impl Common {
    pub(super) fn bytes(&self) -> [u8; COMMON_SIZE] {
        let mut bytes = [0; COMMON_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0x00, &self.device_feature_select.to_le_bytes());
        put(0x04, &self.device_feature.to_le_bytes());
        put(0x08, &self.driver_feature_select.to_le_bytes());
        put(0x0c, &self.driver_feature.to_le_bytes());
        put(0x10, &self.config_vector.to_le_bytes());
        put(0x12, &self.num_queues.to_le_bytes());
        put(0x14, &[self.status, self.generation]);
        put(0x16, &self.queue_select.to_le_bytes());
        put(0x18, &self.queue_size.to_le_bytes());
        put(0x1a, &self.queue_vector.to_le_bytes());
        put(0x1c, &self.queue_enable.to_le_bytes());
        put(0x1e, &self.queue_notify_offset.to_le_bytes());
        put(0x20, &self.queue_descriptors.to_le_bytes());
        put(0x28, &self.queue_driver.to_le_bytes());
        put(0x30, &self.queue_device.to_le_bytes());
        bytes
    }
}
