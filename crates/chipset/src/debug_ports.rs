//! Ports with which a guest talks to whoever tests it: debug exit (0xf4), debug console (0xe9), and
//! the hypercall ports of the tiny guests (0xe9 to 0xec). None of them exists on a real PC.

use crate::device::{ByteSink, Device, GuestBytes, PortDevice, PortRange, read_bytes, write_bytes};
use crate::event::{MachineEvent, MachineEvents};
use crate::state::{SaveRestore, Saved, StateError, check_field, check_version};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

/// What a read of the console port answers, so that a guest can tell that it is there.
const CONSOLE_PRESENT: u8 = 0xe9;
/// The longest string one `puts` prints, in bytes; the rest is cut off.
pub const PUTS_LIMIT: usize = 4096;
/// Input kept for `getchar`.
const INPUT_DEPTH: usize = 4096;

/// Ends the machine with a code: the first byte written to port 0xf4, whatever the width.
pub struct DebugExit {
    events: Arc<dyn MachineEvents>,
}

impl DebugExit {
    /// First of the four ports, so that writes of every width fit.
    pub const PORT: u16 = 0xf4;
    const RANGES: [PortRange; 1] = [PortRange::new(Self::PORT, 4)];

    /// Raises [`MachineEvent::Exit`] through `events`.
    #[must_use]
    pub fn new(events: Arc<dyn MachineEvents>) -> Self {
        Self { events }
    }
}

impl Device for DebugExit {
    fn name(&self) -> &'static str {
        "debug-exit"
    }

    fn reset(&mut self) {}

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }
}

impl PortDevice for DebugExit {
    fn ranges(&self) -> &[PortRange] {
        &Self::RANGES
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |_| 0xff);
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        if let (Self::PORT, Some(&code)) = (port, data.first()) {
            self.events.raise(MachineEvent::Exit(code));
        }
    }
}

/// The one-port debug console of Bochs and QEMU: bytes written appear, reads give 0xe9.
pub struct DebugConsole {
    sink: Box<dyn ByteSink>,
}

impl DebugConsole {
    /// The port.
    pub const PORT: u16 = 0xe9;
    const RANGES: [PortRange; 1] = [PortRange::new(Self::PORT, 1)];

    /// A console that prints to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn ByteSink>) -> Self {
        Self { sink }
    }
}

impl Device for DebugConsole {
    fn name(&self) -> &'static str {
        "debug-console"
    }

    fn reset(&mut self) {}

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }
}

impl PortDevice for DebugConsole {
    fn ranges(&self) -> &[PortRange] {
        &Self::RANGES
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| if port == Self::PORT { CONSOLE_PRESENT } else { 0xff });
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        if port == Self::PORT {
            self.sink.write(data.get(..1).unwrap_or_default());
        }
    }
}

/// The hypercall ports of the tiny guests; takes the place of [`DebugConsole`].
///
/// | port | access | meaning |
/// | --- | --- | --- |
/// | 0xe9 | OUT AL | prints one byte |
/// | 0xe9 | IN AL | 0xe9: the ports are there |
/// | 0xea | OUT EAX | prints the NUL-terminated string at that guest-physical address |
/// | 0xeb | IN AL | the next byte of input, 0xff when none waits |
/// | 0xeb | IN AX, EAX | the same zero-extended, all ones when none waits |
/// | 0xec | OUT AL | ends the machine with that status |
pub struct HypercallPorts {
    sink: Box<dyn ByteSink>,
    memory: Box<dyn GuestBytes>,
    events: Arc<dyn MachineEvents>,
    input: VecDeque<u8>,
    refused: bool,
}

impl HypercallPorts {
    /// Prints one byte.
    pub const PUTCHAR: u16 = 0xe9;
    /// Prints a string.
    pub const PUTS: u16 = 0xea;
    /// Gives input.
    pub const GETCHAR: u16 = 0xeb;
    /// Ends the machine.
    pub const EXIT: u16 = 0xec;
    const RANGES: [PortRange; 1] = [PortRange::new(Self::PUTCHAR, 4)];

    /// Ports that print to `sink`, read strings from `memory` and end the machine through `events`.
    #[must_use]
    pub fn new(
        sink: Box<dyn ByteSink>,
        memory: Box<dyn GuestBytes>,
        events: Arc<dyn MachineEvents>,
    ) -> Self {
        Self { sink, memory, events, input: VecDeque::new(), refused: false }
    }

    /// Gives the guest input and says how many of `bytes` were taken. When that is not all of
    /// them, [`ByteSink::input_wanted`] tells when to offer the rest.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(INPUT_DEPTH.saturating_sub(self.input.len()));
        self.refused |= taken < bytes.len();
        self.input.extend(bytes.iter().take(taken));
        taken
    }

    fn next_input(&mut self) -> Option<u8> {
        let byte = self.input.pop_front();
        if self.refused && self.input.len() <= INPUT_DEPTH / 2 {
            self.refused = false;
            self.sink.input_wanted();
        }
        byte
    }

    fn put_string(&mut self, address: u64) {
        let (mut chunk, mut at, mut left) = ([0; 256], address, PUTS_LIMIT);
        while left > 0 {
            let wanted = left.min(chunk.len());
            let Some(chunk) = chunk.get_mut(..wanted) else {
                return;
            };
            let got = self.memory.read(at, chunk).min(wanted);
            let bytes = chunk.get(..got).unwrap_or_default();
            let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            self.sink.write(text);
            if text.len() < wanted {
                return;
            }
            left -= wanted;
            at = at.saturating_add(wanted as u64);
        }
    }
}

/// Saved input of the [`HypercallPorts`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HypercallRegisters {
    input: VecDeque<u8>,
    refused: bool,
}

impl Device for HypercallPorts {
    fn name(&self) -> &'static str {
        "hypercall-ports"
    }

    fn reset(&mut self) {}

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }
}

impl PortDevice for HypercallPorts {
    fn ranges(&self) -> &[PortRange] {
        &Self::RANGES
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        let (first, rest) = match port {
            Self::PUTCHAR => (CONSOLE_PRESENT, 0xff),
            Self::GETCHAR => self.next_input().map_or((0xff, 0xff), |byte| (byte, 0)),
            _ => (0xff, 0xff),
        };
        data.fill(rest);
        if let Some(byte) = data.first_mut() {
            *byte = first;
        }
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        match port {
            Self::PUTCHAR => self.sink.write(data.get(..1).unwrap_or_default()),
            Self::PUTS => {
                let mut address = [0; 8];
                write_bytes(0, data, |at, byte| {
                    if let Some(to) = address.get_mut(usize::from(at)) {
                        *to = byte;
                    }
                });
                self.put_string(u64::from_le_bytes(address));
            }
            Self::EXIT => {
                if let Some(&status) = data.first() {
                    self.events.raise(MachineEvent::Exit(status));
                }
            }
            _ => {}
        }
    }
}

impl SaveRestore for HypercallPorts {
    type Registers = HypercallRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<HypercallRegisters> {
        let registers = HypercallRegisters { input: self.input.clone(), refused: self.refused };
        Saved { version: Self::VERSION, registers }
    }

    fn restore(&mut self, saved: Saved<HypercallRegisters>) -> Result<(), StateError> {
        check_version("hypercall-ports", &saved, Self::VERSION)?;
        let HypercallRegisters { input, refused } = saved.registers;
        check_field(
            input.len() <= INPUT_DEPTH,
            "hypercall-ports",
            "input length",
            input.len(),
            "at most 4096",
        )?;
        (self.input, self.refused) = (input, refused);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_wires::{TestEvents, TestSink};
    use alloc::vec::Vec;

    /// Guest memory from address 0x1000 on.
    struct Memory(Vec<u8>);

    impl GuestBytes for Memory {
        fn read(&self, address: u64, into: &mut [u8]) -> usize {
            let from = (address as usize).checked_sub(0x1000).filter(|&at| at < self.0.len());
            let source = from.map_or(&[][..], |at| &self.0[at..]);
            let length = source.len().min(into.len());
            into[..length].copy_from_slice(&source[..length]);
            length
        }
    }

    fn ports(memory: &[u8]) -> (HypercallPorts, TestSink, Arc<TestEvents>) {
        let (sink, events) = (TestSink::default(), TestEvents::new());
        let memory = Box::new(Memory(memory.to_vec()));
        (HypercallPorts::new(Box::new(sink.clone()), memory, events.clone()), sink, events)
    }

    #[test]
    fn debug_exit_takes_the_first_byte_of_any_width() {
        let events = TestEvents::new();
        let mut port = DebugExit::new(events.clone());
        port.write(0xf4, &[0x21, 1, 1, 1]);
        port.write(0xf4, &[3]);
        port.write(0xf5, &[9]);
        assert_eq!(events.taken(), [MachineEvent::Exit(0x21), MachineEvent::Exit(3)]);
    }

    #[test]
    fn the_console_shows_that_it_is_there_and_prints() {
        let sink = TestSink::default();
        let mut console = DebugConsole::new(Box::new(sink.clone()));
        let mut byte = [0];
        console.read(0xe9, &mut byte);
        assert_eq!(byte, [0xe9]);
        console.write(0xe9, b"a");
        console.write(0xe9, b"bcde");
        assert_eq!(sink.bytes(), b"ab", "wider writes carry one byte");
    }

    #[test]
    fn puts_prints_up_to_the_nul_or_the_end_of_memory_or_the_limit() {
        let (mut ports, sink, _) = ports(b"one\0two");
        ports.write(0xea, &0x1000u32.to_le_bytes());
        ports.write(0xea, &0x1004u32.to_le_bytes());
        ports.write(0xea, &0xffff_ffffu32.to_le_bytes());
        assert_eq!(sink.bytes(), b"onetwo");
        let (mut ports, sink, _) = self::ports(&[b'x'; 3 * PUTS_LIMIT]);
        ports.write(0xea, &0x1000u16.to_le_bytes());
        assert_eq!(sink.bytes().len(), PUTS_LIMIT);
    }

    #[test]
    fn getchar_tells_no_input_from_byte_255_when_read_wide() {
        let (mut ports, _, _) = ports(b"");
        assert_eq!(ports.push(b"a\xff"), 2);
        let mut wide = [0; 4];
        for expected in [u32::from(b'a'), 0xff, u32::MAX] {
            ports.read(0xeb, &mut wide);
            assert_eq!(u32::from_le_bytes(wide), expected);
        }
    }

    #[test]
    fn input_beyond_the_queue_is_asked_for_later() {
        let (mut ports, sink, _) = ports(b"");
        assert_eq!(ports.push(&[b'x'; INPUT_DEPTH + 1]), INPUT_DEPTH);
        let mut byte = [0];
        while sink.times_input_was_wanted() == 0 {
            ports.read(0xeb, &mut byte);
            assert_eq!(byte, [b'x']);
        }
    }

    #[test]
    fn exit_carries_its_status() {
        let (mut ports, _, events) = ports(b"");
        ports.write(0xec, &[42]);
        assert_eq!(events.taken(), [MachineEvent::Exit(42)]);
    }
}
