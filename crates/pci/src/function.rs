//! One function on the bus, and where its interrupts go.

use std::os::fd::{BorrowedFd, OwnedFd};

/// A message-signalled interrupt as programmed into an MSI-X table entry (PCIe 6.0 7.7.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// Takes the interrupts of functions to the engine.
pub trait MsiSink: Send + Sync {
    /// Delivers one message; a message no APIC accepts is dropped, as on real hardware.
    fn send(&self, message: MsiMessage);

    /// A descriptor through which another process sends messages without us; none where the engine has no such
    /// thing.
    fn line(&self) -> Option<Box<dyn MsiLine>> {
        None
    }
}

/// A descriptor whose signals the engine turns into messages. Masked at first.
pub trait MsiLine: Send + Sync {
    /// The descriptor, an eventfd, to be given away; none when the system gives no more.
    fn descriptor(&self) -> Option<OwnedFd>;

    /// What a signal sends from now on. None masks it: what is signalled then waits until a message is set.
    fn set(&self, message: Option<MsiMessage>);

    /// A signal waits.
    fn waits(&self) -> bool;
}

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Port,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two register slots.
    Memory64,
    /// Memory anywhere, prefetchable: takes two slots.
    Prefetchable64,
}

/// A place in a BAR where a write, whatever its value, does nothing but signal a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell<'a> {
    /// The BAR.
    pub bar: u8,
    /// Offset inside the BAR.
    pub offset: u64,
    /// An eventfd; the same one as long as the function lives.
    pub event: BorrowedFd<'a>,
}

/// A PCI function. Accesses come one at a time, under the bus's lock for this function.
pub trait Function: Send {
    /// Short name for logs and `inspect`, e.g. `virtio-blk`.
    fn name(&self) -> &str;

    /// Reads configuration space; `offset + data.len()` is at most 4096.
    fn read_config(&mut self, offset: u16, data: &mut [u8]);

    /// Writes configuration space. The root complex looks at the BARs and the command register
    /// afterwards and moves mappings itself.
    fn write_config(&mut self, offset: u16, data: &[u8]);

    /// The BARs in use: index, kind, size in bytes (a power of two).
    fn bars(&self) -> Vec<(u8, BarKind, u64)>;

    /// The address now programmed in BAR `index`, `None` while decoding is off or none is set.
    fn bar_address(&self, index: u8) -> Option<u64>;

    /// Reads inside BAR `index`; 1 to 8 bytes.
    fn read_bar(&mut self, index: u8, offset: u64, data: &mut [u8]);

    /// Writes inside BAR `index`; 1 to 8 bytes.
    fn write_bar(&mut self, index: u8, offset: u64, data: &[u8]);

    /// Its doorbells. Whoever maps the BARs may have the engine watch them
    /// (`Partition::doorbell`), so that a ring needs no exit; [`Self::write_bar`] does the same for
    /// a write that still comes this way.
    fn doorbells(&self) -> Vec<Doorbell<'_>> {
        Vec::new()
    }

    /// Back to the state after power-on; stops all work first.
    fn reset(&mut self);
}
