//! What the transport shares with the workers: the way of interrupts, and the status they set when
//! the driver is broken.

use crate::Interrupts;
use pci::Msix;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering::SeqCst};
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET};

/// VIRTIO_MSI_NO_VECTOR (virtio 1.2, 4.1.5.1.2.1).
pub(super) const NO_VECTOR: u16 = 0xffff;
/// ISR bits (virtio 1.2, 4.1.4.5).
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;

pub(super) struct Shared {
    pub(super) msix: Msix,
    pub(super) status: AtomicU8,
    pub(super) generation: AtomicU8,
    pub(super) isr: AtomicU8,
    pub(super) config_vector: AtomicU16,
    pub(super) queue_vectors: Vec<AtomicU16>,
}

impl Shared {
    pub(super) fn new(msix: Msix, queues: usize) -> Self {
        Self {
            msix,
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    /// After a reset by the driver. The generation goes on: a driver may compare across resets.
    pub(super) fn reset(&self) {
        self.status.store(0, SeqCst);
        self.isr.store(0, SeqCst);
        self.config_vector.store(NO_VECTOR, SeqCst);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, SeqCst);
        }
    }

    pub(super) fn has(&self, status: u32) -> bool {
        u32::from(self.status.load(SeqCst)) & status != 0
    }

    fn raise(&self, vector: &AtomicU16, isr: u8) {
        // With MSI-X on, the ISR stays untouched (virtio 1.2, 4.1.5.3.1). There is no INTx line;
        // a driver without MSI-X reads the ISR by polling.
        if self.msix.enabled() {
            let vector = vector.load(SeqCst);
            if vector != NO_VECTOR {
                self.msix.raise(vector);
            }
        } else {
            self.isr.fetch_or(isr, SeqCst);
        }
    }
}

impl Interrupts for Shared {
    fn queue(&self, index: u16) {
        if let Some(vector) = self.queue_vectors.get(usize::from(index)) {
            self.raise(vector, ISR_QUEUE);
        }
    }

    fn descriptor(&self, index: u16) -> Option<OwnedFd> {
        // No vector has this number: MOST_QUEUES is below it.
        self.msix.descriptor(self.queue_vectors.get(usize::from(index))?.load(SeqCst))
    }

    fn config_changed(&self) {
        self.generation.fetch_add(1, SeqCst);
        if self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            self.raise(&self.config_vector, ISR_CONFIG);
        }
    }

    fn needs_reset(&self) {
        let bit = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
        let before = self.status.fetch_or(bit, SeqCst);
        // The driver hears of it if it got as far as DRIVER_OK (virtio 1.2, 2.1.2).
        if before & bit == 0 && self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            self.raise(&self.config_vector, ISR_CONFIG);
        }
    }
}
