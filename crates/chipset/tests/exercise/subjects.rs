//! Each device of the chipset as a [`Subject`].

use super::{Log, Seen, Subject, Wall, from_text, to_text};
use chipset::{
    AcpiPm, ClockFn, DebugConsole, DebugExit, Device, GuestBytes, HypercallPorts, I8042,
    InterruptRouter, IoApic, MemoryDevice, Pic, Pit, PmTimerWidth, PortDevice, Rtc, Uart,
};
use std::sync::Arc;

macro_rules! saved_as_itself {
    ($field:ident) => {
        fn device(&mut self) -> &mut dyn Device {
            &mut self.$field
        }

        fn save(&self) -> String {
            to_text(&self.$field)
        }

        fn restore(&mut self, saved: &str) {
            from_text(&mut self.$field, saved);
        }
    };
}

pub struct UartSubject {
    uart: Uart,
}

impl Subject for UartSubject {
    fn new(log: &Log, _wall: &Wall) -> Self {
        let line = log.line("uart");
        Self { uart: Uart::new("uart0", Uart::COM1, line, Box::new(log.clone())) }
    }

    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]) {
        let answer = match which {
            0 => u64::from(self.uart.push_break()),
            1..=9 => self.uart.push(&bytes.repeat(100)) as u64,
            _ => self.uart.push(&bytes) as u64,
        };
        log.add(Seen::Answer(answer));
    }

    saved_as_itself!(uart);
}

pub struct PitSubject {
    pit: Pit,
}

impl Subject for PitSubject {
    fn new(log: &Log, _wall: &Wall) -> Self {
        Self { pit: Pit::new(log.line("timer")) }
    }

    fn outside(&mut self, log: &Log, _which: u8, _bytes: [u8; 8]) {
        log.add(Seen::Answer(self.pit.tone().unwrap_or(0)));
    }

    saved_as_itself!(pit);
}

pub struct RtcSubject {
    rtc: Rtc,
}

impl Subject for RtcSubject {
    fn new(log: &Log, wall: &Wall) -> Self {
        let wall = wall.clone();
        let clock = ClockFn(move || *wall.lock().unwrap());
        Self { rtc: Rtc::new(Box::new(clock), log.line("rtc")) }
    }

    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]) {
        let size = u64::from_le_bytes(bytes);
        match which % 4 {
            0 => self.rtc.set_memory(size, size.rotate_left(32)),
            1 => self.rtc.set_cell(bytes[0], bytes[1]),
            2 => self.rtc.set_processors(size as u32),
            _ => log.add(Seen::Answer(self.rtc.nmi_masked().into())),
        }
    }

    saved_as_itself!(rtc);
}

pub struct I8042Subject {
    controller: I8042,
}

impl Subject for I8042Subject {
    fn new(log: &Log, _wall: &Wall) -> Self {
        Self { controller: I8042::new(log.line("keyboard"), log.line("mouse"), log.events()) }
    }

    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]) {
        let [a, b, c, d, e, f, g, h] = bytes;
        if which % 2 == 0 {
            let key = u16::from_le_bytes([a, b % 2]);
            let taken = self.controller.push_key(key, c % 2 == 0);
            log.add(Seen::Answer(taken.into()));
        } else if which == 1 {
            let far = i32::from_le_bytes([a, b, c, d]);
            self.controller.push_mouse(far, far.wrapping_neg(), i32::from(e as i8), f);
        } else {
            let [right, down, wheel] = [g, h, e].map(|byte| i32::from(byte as i8));
            self.controller.push_mouse(right, down, wheel, f);
        }
        log.add(Seen::Answer(self.controller.leds().into()));
    }

    saved_as_itself!(controller);
}

pub struct AcpiPmSubject {
    pm: AcpiPm,
}

impl Subject for AcpiPmSubject {
    fn new(log: &Log, _wall: &Wall) -> Self {
        Self { pm: AcpiPm::new(PmTimerWidth::Bits24, log.line("sci"), log.events()) }
    }

    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]) {
        match which % 4 {
            0 => log.add(Seen::Answer(self.pm.press_power_button().into())),
            1 => self.pm.raise_gpe(bytes[0]),
            2 => self.pm.enable_acpi(),
            _ => {
                let base = u16::from_le_bytes([bytes[0], bytes[1]]);
                self.pm.set_base((bytes[2] != 0).then_some(base));
            }
        }
    }

    saved_as_itself!(pm);
}

/// Router and both controllers; the bus sees the 8259 pair.
pub struct PicSubject {
    router: InterruptRouter,
}

/// Router and both controllers; the bus sees the I/O APIC.
pub struct IoApicSubject {
    inner: PicSubject,
}

impl Subject for PicSubject {
    fn new(log: &Log, _wall: &Wall) -> Self {
        let (pic, ioapic) = (Pic::new(log.line("intr")), IoApic::new(Arc::new(log.clone())));
        Self { router: InterruptRouter::new(pic, ioapic) }
    }

    fn device(&mut self) -> &mut dyn Device {
        &mut self.router.pic
    }

    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]) {
        let (number, high) = (bytes[0] % 32, bytes[1] % 2 == 0);
        match which % 8 {
            0..=2 => self.router.set_isa(number, high),
            3 => self.router.set_pci(number, high),
            4 => self.router.set_pirq_route(number, (bytes[1] % 4 != 0).then_some(bytes[2] % 20)),
            5 => self.router.ioapic.end_of_interrupt(bytes[0]),
            _ => log.add(Seen::Answer(self.router.pic.acknowledge().into())),
        }
    }

    fn save(&self) -> String {
        [to_text(&self.router), to_text(&self.router.pic), to_text(&self.router.ioapic)].join("\n")
    }

    fn restore(&mut self, saved: &str) {
        let mut parts = saved.lines();
        from_text(&mut self.router, parts.next().unwrap());
        from_text(&mut self.router.pic, parts.next().unwrap());
        from_text(&mut self.router.ioapic, parts.next().unwrap());
    }
}

impl Subject for IoApicSubject {
    fn new(log: &Log, wall: &Wall) -> Self {
        Self { inner: PicSubject::new(log, wall) }
    }

    fn device(&mut self) -> &mut dyn Device {
        &mut self.inner.router.ioapic
    }

    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]) {
        // Most random indexes name no register: aim at the entries half of the time.
        if which % 2 == 0 {
            self.inner.router.ioapic.write(0x00, &[0x10 + bytes[7] % 0x30]);
        }
        self.inner.outside(log, which / 2, bytes);
    }

    fn save(&self) -> String {
        self.inner.save()
    }

    fn restore(&mut self, saved: &str) {
        self.inner.restore(saved);
    }
}

/// Guest memory of 64 KiB whose bytes follow from their address, with a NUL now and then.
struct Pattern;

impl GuestBytes for Pattern {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let length = usize::try_from(0x1_0000u64.saturating_sub(address)).unwrap_or(0);
        let length = length.min(into.len());
        for (at, byte) in into.iter_mut().take(length).enumerate() {
            *byte = ((address + at as u64) * 7 >> 3) as u8;
        }
        length
    }
}

/// Hypercall ports, with the debug ports beside them.
pub struct DebugSubject {
    ports: HypercallPorts,
    exit: DebugExit,
    console: DebugConsole,
}

impl Subject for DebugSubject {
    fn new(log: &Log, _wall: &Wall) -> Self {
        let sink = || Box::new(log.clone());
        Self {
            ports: HypercallPorts::new(sink(), Box::new(Pattern), log.events()),
            exit: DebugExit::new(log.events()),
            console: DebugConsole::new(sink()),
        }
    }

    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]) {
        match which % 4 {
            0 => self.exit.write(DebugExit::PORT, &bytes[..1 << (bytes[7] % 3)]),
            1 => self.console.write(DebugConsole::PORT, &bytes[..1 << (bytes[7] % 3)]),
            _ => log.add(Seen::Answer(self.ports.push(&bytes.repeat(50)) as u64)),
        }
    }

    saved_as_itself!(ports);
}
