//! Drives a device with accesses decoded from bytes, as a hostile guest would, and checks what must
//! hold for every device: it never panics, never asks to be called in the past, and goes on the
//! same after its state was saved and restored. The bytes come from a fixed generator in the
//! tests and from the fuzzer in `fuzz/`.

mod subjects;

pub use subjects::{
    AcpiPmSubject, DebugSubject, I8042Subject, IoApicSubject, PicSubject, PitSubject, RtcSubject,
    UartSubject,
};

use chipset::{
    ByteSink, Device, EventFn, IoApicSink, Line, LineFn, MachineEvent, MachineEvents, PinRoutes,
    SaveRestore, Saved,
};
use std::sync::{Arc, Mutex};

/// Something the outside can see a device do.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Read(Vec<u8>),
    Line(&'static str, bool),
    Sent(Vec<u8>),
    InputWanted,
    Event(MachineEvent),
    Message(u64, u32),
    Routes(Box<PinRoutes>),
    Deadline(Option<u64>),
    Answer(u64),
}

/// What a device did, in order; also makes the wires that write it down.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Seen>>>);

impl Log {
    pub fn add(&self, seen: Seen) {
        self.0.lock().unwrap().push(seen);
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    pub fn line(&self, name: &'static str) -> Arc<dyn Line> {
        let log = self.clone();
        Arc::new(LineFn(move |high| log.add(Seen::Line(name, high))))
    }

    pub fn events(&self) -> Arc<dyn MachineEvents> {
        let log = self.clone();
        Arc::new(EventFn(move |event| log.add(Seen::Event(event))))
    }
}

impl ByteSink for Log {
    fn write(&mut self, bytes: &[u8]) {
        self.add(Seen::Sent(bytes.to_vec()));
    }

    fn input_wanted(&mut self) {
        self.add(Seen::InputWanted);
    }
}

impl IoApicSink for Log {
    fn deliver(&self, address: u64, data: u32) {
        self.add(Seen::Message(address, data));
    }

    fn routes_changed(&self, routes: &PinRoutes) {
        self.add(Seen::Routes(Box::new(*routes)));
    }
}

/// The wall clock of the bench, in nanoseconds since 1970.
pub type Wall = Arc<Mutex<i128>>;

/// A device on the bench.
pub trait Subject: Sized {
    /// The device with its wires in `log`.
    fn new(log: &Log, wall: &Wall) -> Self;

    /// What the bus sees.
    fn device(&mut self) -> &mut dyn Device;

    /// Does something from the outside (a key, a line, input), chosen by `which` and `bytes`.
    fn outside(&mut self, log: &Log, which: u8, bytes: [u8; 8]);

    /// Saved state as text.
    fn save(&self) -> String;

    /// Restores it.
    fn restore(&mut self, saved: &str);
}

/// The text form of a device's saved state.
pub fn to_text<D: SaveRestore>(device: &D) -> String {
    serde_json::to_string(&device.save()).unwrap()
}

/// Restores a device from its text form.
pub fn from_text<D: SaveRestore>(device: &mut D, saved: &str) {
    let saved: Saved<D::Registers> = serde_json::from_str(saved).unwrap();
    device.restore(saved).unwrap();
}

/// One thing done to the device.
#[derive(Clone, Copy, Debug)]
enum Step {
    PortRead { range: u8, offset: u8, width: usize },
    PortWrite { range: u8, offset: u8, width: usize, value: [u8; 4] },
    MemoryRead { offset: u16, width: usize },
    MemoryWrite { offset: u16, width: usize, value: [u8; 8] },
    Advance { nanoseconds: u64 },
    Outside { which: u8, bytes: [u8; 8] },
    Reset,
}

/// Bytes of one step.
const STEP: usize = 12;
/// The largest step in time: 2^41 ns, about 37 minutes.
const LONGEST: u32 = 41;

impl Step {
    fn decode(bytes: &[u8; STEP]) -> Self {
        let [kind, a, b, c, rest @ ..] = *bytes;
        let [value @ .., _, _, _, _] = rest;
        let offset = u16::from_le_bytes([b, c]);
        match kind % 16 {
            0..=4 => Self::PortWrite { range: a, offset: b, width: 1 << (c % 3), value },
            5..=8 => Self::PortRead { range: a, offset: b, width: 1 << (c % 3) },
            9..=10 => Self::Advance {
                nanoseconds: u64::from_le_bytes(rest) >> (64 - 1 - u32::from(a) % LONGEST),
            },
            11..=12 => Self::Outside { which: a, bytes: rest },
            13 => Self::MemoryRead { offset, width: usize::from(a % 8) + 1 },
            14 => Self::MemoryWrite { offset, width: usize::from(a % 8) + 1, value: rest },
            // A reset forgets what was built up: let it be rare.
            _ if a == 0 => Self::Reset,
            _ => Self::PortWrite { range: a, offset: b, width: 1, value },
        }
    }
}

struct Bench<S> {
    subject: S,
    log: Log,
    wall: Wall,
    now: u64,
}

impl<S: Subject> Bench<S> {
    fn new(wall: i128, now: u64) -> Self {
        let (log, wall) = (Log::default(), Arc::new(Mutex::new(wall)));
        Self { subject: S::new(&log, &wall), log, wall, now }
    }

    /// A port of the device, spread over its ranges and a little beyond their ends.
    fn port(&mut self, range: u8, offset: u8) -> Option<u16> {
        let ports = self.subject.device().ports()?;
        let ranges = ports.ranges();
        let range = ranges[usize::from(range) % ranges.len()];
        Some(range.first.wrapping_add(u16::from(offset) % range.count))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::PortRead { range, offset, width } => {
                let Some(port) = self.port(range, offset) else {
                    return;
                };
                let mut data = vec![0; width];
                self.subject.device().ports().unwrap().read(port, &mut data);
                self.log.add(Seen::Read(data));
            }
            Step::PortWrite { range, offset, width, value } => {
                let Some(port) = self.port(range, offset) else {
                    return;
                };
                self.subject.device().ports().unwrap().write(port, &value[..width]);
            }
            Step::MemoryRead { offset, width } => {
                let Some(memory) = self.subject.device().memory() else {
                    return;
                };
                let mut data = vec![0; width];
                memory.read(u64::from(offset % 0x50), &mut data);
                self.log.add(Seen::Read(data));
            }
            Step::MemoryWrite { offset, width, value } => {
                let Some(memory) = self.subject.device().memory() else {
                    return;
                };
                memory.write(u64::from(offset % 6 * 0x10), &value[..width]);
            }
            Step::Advance { nanoseconds } => self.advance(nanoseconds),
            Step::Outside { which, bytes } => self.subject.outside(&self.log, which, bytes),
            Step::Reset => self.subject.device().reset(),
        }
    }

    fn advance(&mut self, nanoseconds: u64) {
        self.now = self.now.saturating_add(nanoseconds);
        *self.wall.lock().unwrap() += i128::from(nanoseconds);
        let now = self.now;
        let Some(timed) = self.subject.device().timed() else {
            return;
        };
        timed.advance(now);
        let deadline = timed.deadline();
        assert!(deadline.is_none_or(|at| at > now), "deadline {deadline:?} is not after {now}");
        self.log.add(Seen::Deadline(deadline));
    }
}

/// Does to a `S` what `bytes` say, the last half also to a copy restored from its saved state, and
/// checks that both did the same.
pub fn run<S: Subject>(bytes: &[u8]) {
    let (chunks, _) = bytes.as_chunks::<STEP>();
    let (before, after) = chunks.split_at(chunks.len() / 2);
    let mut original = Bench::<S>::new(1_795_269_598_000_000_000, 0);
    for chunk in before {
        original.step(Step::decode(chunk));
        original.log.take();
    }
    // What is between two accesses is settled by `advance`, as the bus does it.
    original.advance(0);
    let saved = original.subject.save();
    let mut copy = Bench::<S>::new(*original.wall.lock().unwrap(), original.now);
    copy.subject.restore(&saved);
    assert_eq!(copy.subject.save(), saved, "restoring changed the state");
    original.log.take();
    copy.log.take();
    for chunk in after {
        let step = Step::decode(chunk);
        original.step(step);
        copy.step(step);
        assert_eq!(original.log.take(), copy.log.take(), "{step:?}");
    }
    assert_eq!(original.subject.save(), copy.subject.save());
}
