//! What a guest finds besides processors and memory: the legacy devices of a PC, at their ports and
//! addresses, and the two controllers their interrupts go through. The same devices as in the VMM;
//! here is only how they are wired.

mod ports;
mod wires;

pub use wires::{External, Happenings, Messages};

use crate::clock::Clock;
use crate::virtio::{Device as VirtioDevice, MmioBus};
use crate::{GuestRam, guest::Screen};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use chipset::{
    AcpiPm, ClockFn, DebugExit, Device, HypercallPorts, I8042, IOAPIC_SIZE, InterruptRouter,
    IoApic, Line, MachineEvents, MemoryDevice, Pic, Pit, PmTimerWidth, PortDevice, Rtc, Timed,
    Uart,
};
use layout::MemoryMap;
use ports::{Owner, Ports};
use spin::Mutex;
use wires::IsaLine;

/// ISA interrupts of a PC (ICH9 5.8.3, table 5-15).
const TIMER_IRQ: u8 = 0;
const KEYBOARD_IRQ: u8 = 1;
const COM1_IRQ: u8 = 4;
const RTC_IRQ: u8 = 8;
const MOUSE_IRQ: u8 = 12;

/// The interrupt controllers, which devices reach while their board is locked.
pub type SharedRouter = Arc<Mutex<InterruptRouter>>;

/// What a board is made of and wired to.
pub struct Parts<'a> {
    /// The guest's memory.
    pub ram: GuestRam,
    /// Where it lies.
    pub map: &'a MemoryMap,
    /// vCPUs.
    pub processors: u32,
    /// Where messages of the I/O APIC go.
    pub messages: Arc<Messages>,
    /// The output of the 8259 pair.
    pub external: Arc<External>,
    /// Where the guest's end is noted.
    pub happenings: Arc<Happenings>,
    /// Where its text goes.
    pub screen: Screen,
    /// The guest's time.
    pub clock: Clock,
    /// Nanoseconds since 1970 when the guest's time began.
    pub wall_clock: i128,
    /// Its virtio devices.
    pub virtio: Vec<Box<dyn VirtioDevice>>,
}

/// The board of one guest.
pub struct Board {
    router: SharedRouter,
    uart: Uart,
    hypercalls: HypercallPorts,
    debug_exit: DebugExit,
    pit: Pit,
    rtc: Rtc,
    keyboard: I8042,
    power: AcpiPm,
    virtio: MmioBus,
    ports: Ports,
    /// Last byte written to the POST port.
    post: u8,
    /// Console input goes to the hypercall ports (tiny guests).
    tiny: bool,
    clock: Clock,
    now: Arc<Mutex<u64>>,
}

impl Board {
    /// A board as after power-on, in ACPI mode.
    #[must_use]
    pub fn new(parts: Parts<'_>) -> Self {
        let Parts {
            ram,
            map,
            processors,
            messages,
            external,
            happenings,
            screen,
            clock,
            wall_clock,
            virtio,
        } = parts;
        let router = InterruptRouter::new(Pic::new(external), IoApic::new(messages));
        let router: SharedRouter = Arc::new(Mutex::new(router));
        let line = |irq| -> Arc<dyn Line> { Arc::new(IsaLine::new(Arc::clone(&router), irq)) };
        let events: Arc<dyn MachineEvents> = happenings;
        let now = Arc::new(Mutex::new(0));
        let wall = {
            let now = Arc::clone(&now);
            ClockFn(move || wall_clock + i128::from(*now.lock()))
        };
        let mut rtc = Rtc::new(Box::new(wall), line(RTC_IRQ));
        let low = map.low_ram_end().0;
        rtc.set_memory(low, map.ram_size().0 - low);
        rtc.set_processors(processors);
        let mut power = AcpiPm::new(PmTimerWidth::Bits32, line(layout::SCI), Arc::clone(&events));
        power.set_base(Some(layout::PM_BASE));
        power.enable_acpi();
        let mut board = Self {
            virtio: MmioBus::new(virtio, ram.clone()),
            uart: Uart::new("uart0", Uart::COM1, line(COM1_IRQ), Box::new(screen.clone())),
            hypercalls: HypercallPorts::new(Box::new(screen), Box::new(ram), Arc::clone(&events)),
            debug_exit: DebugExit::new(Arc::clone(&events)),
            pit: Pit::new(line(TIMER_IRQ)),
            rtc,
            keyboard: I8042::new(line(KEYBOARD_IRQ), line(MOUSE_IRQ), events),
            power,
            ports: Ports::default(),
            post: 0,
            tiny: false,
            clock,
            now,
            router,
        };
        board.claim();
        board
    }

    /// Console input goes to the hypercall ports, not to the serial line.
    pub fn be_tiny(&mut self) {
        self.tiny = true;
    }

    fn claim(&mut self) {
        let pic = self.router.lock().pic.ranges().to_vec();
        let mut all: Vec<_> = pic.into_iter().map(|range| (range, Owner::Pic)).collect();
        for owner in Owner::DEVICES {
            let device = self.device(owner).and_then(Device::ports);
            let ranges = device.map(|ports| ports.ranges().to_vec());
            all.extend(ranges.unwrap_or_default().into_iter().map(|r| (r, owner)));
        }
        self.ports = Ports::new(all);
    }

    fn device(&mut self, owner: Owner) -> Option<&mut dyn Device> {
        Some(match owner {
            Owner::Uart => &mut self.uart,
            Owner::Hypercalls => &mut self.hypercalls,
            Owner::DebugExit => &mut self.debug_exit,
            Owner::Pit => &mut self.pit,
            Owner::Rtc => &mut self.rtc,
            Owner::Keyboard => &mut self.keyboard,
            Owner::Power => &mut self.power,
            Owner::Pic | Owner::Post | Owner::Nobody => return None,
        })
    }

    /// Lets `act` at the device at `port` at counter value `tsc`.
    fn at_port(&mut self, owner: Owner, tsc: u64, act: impl FnOnce(&mut dyn PortDevice)) {
        if owner == Owner::Pic {
            act(&mut self.router.lock().pic);
            return;
        }
        if owner.is_timed() {
            self.set_time(tsc);
        }
        let now = *self.now.lock();
        let Some(device) = self.device(owner) else {
            return;
        };
        if let Some(timed) = device.timed() {
            timed.advance(now);
        }
        if let Some(ports) = device.ports() {
            act(ports);
        }
    }

    fn set_time(&mut self, tsc: u64) {
        let mut now = self.now.lock();
        *now = (*now).max(self.clock.nanoseconds(tsc));
    }

    /// One item of an IN instruction. True when a timer may have moved.
    pub fn read_port(&mut self, port: u16, data: &mut [u8], tsc: u64) -> bool {
        let owner = self.ports.owner(port);
        let value = if owner == Owner::Post { self.post } else { 0xff };
        fill(data, value);
        self.at_port(owner, tsc, |device| device.read(port, data));
        owner.is_timed()
    }

    /// One item of an OUT instruction. True when a timer may have moved.
    pub fn write_port(&mut self, port: u16, data: &[u8], tsc: u64) -> bool {
        let owner = self.ports.owner(port);
        if let (Owner::Post, Some(byte)) = (owner, data.first()) {
            self.post = *byte;
        }
        self.at_port(owner, tsc, |device| device.write(port, data));
        owner.is_timed()
    }

    /// A read outside memory: ones where nothing is.
    pub fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        fill(data, 0xff);
        if let Some(offset) = ioapic_offset(address) {
            self.router.lock().ioapic.read(offset, data);
        } else {
            self.virtio.read(address, data);
        }
    }

    /// A write outside memory. True when it may have given something to another guest.
    pub fn write_memory(&mut self, address: u64, data: &[u8]) -> bool {
        if let Some(offset) = ioapic_offset(address) {
            self.router.lock().ioapic.write(offset, data);
            return false;
        }
        match self.virtio.write(address, data) {
            Some(written) => {
                self.router.lock().set_pci(written.device as u8, written.asserted);
                written.rang
            }
            None => false,
        }
    }

    /// A level-triggered interrupt ended.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        self.router.lock().ioapic.end_of_interrupt(vector);
    }

    /// The bootstrap processor acknowledges the 8259 pair: the vector to take.
    pub fn acknowledge(&mut self) -> u8 {
        self.router.lock().pic.acknowledge()
    }

    /// Time is `tsc`: whatever fell due happens.
    pub fn advance(&mut self, tsc: u64) {
        self.set_time(tsc);
        let now = *self.now.lock();
        for timed in self.timed() {
            timed.advance(now);
        }
        let router = &self.router;
        self.virtio.poll(|device, asserted| {
            router.lock().set_pci(device as u8, asserted);
        });
    }

    fn timed(&mut self) -> [&mut dyn Timed; 4] {
        [&mut self.pit, &mut self.rtc, &mut self.keyboard, &mut self.power]
    }

    /// The counter value at which [`Self::advance`] is needed next; `u64::MAX` for never.
    pub fn deadline(&mut self) -> u64 {
        let next = self.timed().into_iter().filter_map(|timed| timed.deadline());
        next.min().map_or(u64::MAX, |at| self.clock.tsc(at))
    }

    /// Somebody typed.
    pub fn typed(&mut self, bytes: &[u8]) {
        // What does not fit is lost, as on a serial line without flow control.
        if self.tiny {
            self.hypercalls.push(bytes);
        } else if self.virtio.typed(bytes) {
            let router = &self.router;
            self.virtio.poll(|device, asserted| {
                router.lock().set_pci(device as u8, asserted);
            });
        } else {
            self.uart.push(bytes);
        }
    }
}

/// Fills an item of an access. Most are of one byte, for which memset would cost more than all else here.
fn fill(data: &mut [u8], value: u8) {
    if let [byte] = data {
        *byte = value;
    } else {
        data.fill(value);
    }
}

fn ioapic_offset(address: u64) -> Option<u64> {
    address.checked_sub(layout::IOAPIC.0).filter(|offset| *offset < IOAPIC_SIZE)
}

#[cfg(test)]
mod tests;
