//! The machine's own virtio disk, network card and console, by crate `virtio-drivers`. Polled: their
//! interrupts are off, and each request is waited for.

use super::port;
use crate::console::Output;
use crate::virtio::{Storage, Uplink};
use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use units::Sector;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Configuration mechanism #1 (PCI 3.0 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const CONFIG_ENABLE: u32 = 1 << 31;
/// Entries of each of the network card's queues.
const NET_QUEUE: usize = 64;
/// Room for a frame with its header.
const NET_BUFFER: usize = 2048;

/// The monitor's memory is the machine's, one to one; there is nothing to map or share.
struct Identity;

fn pages(count: usize) -> Layout {
    // A count that does not fit is more than the heap has: an empty layout is refused below.
    Layout::from_size_align(count.saturating_mul(PAGE_SIZE), PAGE_SIZE)
        .unwrap_or(Layout::new::<()>())
}

// SAFETY: memory comes from the allocator, zeroed and page-aligned; addresses are the same for
// processor and devices.
unsafe impl Hal for Identity {
    fn dma_alloc(count: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = pages(count);
        if layout.size() == 0 {
            return (0, NonNull::dangling());
        }
        // SAFETY: the layout has a size.
        let pointer = unsafe { alloc_zeroed(layout) };
        match NonNull::new(pointer) {
            Some(pointer) => (pointer.as_ptr() as PhysAddr, pointer),
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, pointer: NonNull<u8>, count: usize) -> i32 {
        // SAFETY: it came from `dma_alloc` with this count.
        unsafe { dealloc(pointer.as_ptr(), pages(count)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Configuration space by ports.
struct Ports;

impl Ports {
    fn select(function: DeviceFunction, register: u8) {
        let address = CONFIG_ENABLE
            | u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8
            | u32::from(register & !3);
        port::write_u32(CONFIG_ADDRESS, address);
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        port::read_u32(CONFIG_DATA)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        Self::select(function, register);
        port::write_u32(CONFIG_DATA, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

/// What the machine has.
#[derive(Default)]
pub struct Devices {
    /// Its first virtio disk.
    pub disk: Option<Box<dyn Storage>>,
    /// Its first virtio network card.
    pub network: Option<Box<dyn Uplink>>,
    /// Its first virtio console, of which only the output is used.
    pub console: Option<Output>,
}

/// Looks for virtio devices on PCI bus 0. One that does not answer as its specification says counts
/// as absent.
#[must_use]
pub fn find() -> Devices {
    let mut devices = Devices::default();
    let mut root = PciRoot::new(Ports);
    let found: Vec<_> = root.enumerate_bus(0).collect();
    for (function, information) in found {
        let kind = virtio_device_type(&information);
        let wanted = match kind {
            Some(DeviceType::Block) => devices.disk.is_none(),
            Some(DeviceType::Network) => devices.network.is_none(),
            Some(DeviceType::Console) => devices.console.is_none(),
            _ => false,
        };
        if !wanted {
            continue;
        }
        let command = Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE;
        root.set_command(function, command);
        let Ok(transport) = PciTransport::new::<Identity, Ports>(&mut root, function) else {
            continue;
        };
        match kind {
            Some(DeviceType::Block) => {
                if let Ok(mut driver) = VirtIOBlk::new(transport) {
                    driver.disable_interrupts();
                    devices.disk = Some(Box::new(Disk(driver)));
                }
            }
            Some(DeviceType::Network) => {
                if let Ok(mut driver) = VirtIONet::new(transport, NET_BUFFER) {
                    driver.disable_interrupts();
                    devices.network = Some(Box::new(Card(driver)));
                }
            }
            _ => {
                if let Ok(driver) = VirtIOConsole::new(transport) {
                    let mut terminal = Terminal(driver);
                    devices.console = Some(Box::new(move |text| terminal.write(text)));
                }
            }
        }
    }
    devices
}

struct Disk(VirtIOBlk<Identity, PciTransport>);

// SAFETY: the driver is used by one processor at a time, under its guest's lock; nothing in it
// belongs to a processor.
unsafe impl Send for Disk {}

fn block(offset: u64) -> usize {
    usize::try_from(offset / Sector::SIZE).unwrap_or(usize::MAX)
}

impl Storage for Disk {
    fn size(&self) -> u64 {
        self.0.capacity().saturating_mul(Sector::SIZE)
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        self.0.read_blocks(block(offset), into).is_ok()
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        self.0.write_blocks(block(offset), bytes).is_ok()
    }

    fn flush(&mut self) -> bool {
        self.0.flush().is_ok()
    }
}

struct Terminal(VirtIOConsole<Identity, PciTransport>);

// SAFETY: as for `Disk`; it is used under the console's lock.
unsafe impl Send for Terminal {}

impl Terminal {
    fn write(&mut self, text: &[u8]) {
        // What the device does not take is lost; the serial line has it.
        let _ = self.0.send_bytes(text);
    }
}

struct Card(VirtIONet<Identity, PciTransport, NET_QUEUE>);

// SAFETY: as for `Disk`; it is used under the switch's lock.
unsafe impl Send for Card {}

impl Uplink for Card {
    fn send(&mut self, frame: &[u8]) {
        let mut buffer = self.0.new_tx_buffer(frame.len());
        buffer.packet_mut().copy_from_slice(frame);
        // A frame the card does not take is lost, as frames are.
        let _ = self.0.send(buffer);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let buffer = self.0.receive().ok()?;
        let frame = buffer.packet().to_vec();
        // A buffer the driver does not take back is one less.
        let _ = self.0.recycle_rx_buffer(buffer);
        Some(frame)
    }
}
