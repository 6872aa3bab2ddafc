//! A core and a machine for tests: no processor runs, exits come from a list, time passes by itself.

use crate::calls::{Core, Gate, RunPageAccess, Transfer};
use crate::clock::Clock;
use crate::console::Console;
use crate::guest::SharedConsole;
use crate::memory::PoolMemory;
use crate::start::Means;
use crate::{GuestRam, Machine};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_abi::{CpuidRow, ExitReason, Fault, RootCall, RunPage, Status, VcpuState};
use hypervisor_boot::memory_map::Span;
use layout::Range;
use spin::Mutex;
use std::cell::RefCell;
use units::{Bytes, HostPhysical};

/// What a scripted run does to the run page.
type Step = Box<dyn FnOnce(&mut RunPage) + Send>;

/// What the test core remembers.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) script: Mutex<VecDeque<(u64, u64, Step)>>,
    /// Messages: partition, address, data.
    pub(crate) injected: Mutex<Vec<(u64, u64, u32)>>,
    /// What [`RootCall::Inject`] answers.
    pub(crate) woken: AtomicU64,
    pub(crate) state: Mutex<VcpuState>,
    pub(crate) requests: Mutex<Vec<u32>>,
    pages: Mutex<Vec<usize>>,
    partitions: AtomicU64,
    /// vCPUs: partition, index.
    vcpus: Mutex<Vec<(u64, u64)>>,
}

impl Log {
    /// The next run, which is to be of vCPU `index` of partition `partition`, ends like this.
    pub(crate) fn then(
        &self,
        partition: u64,
        index: u64,
        step: impl FnOnce(&mut RunPage) + Send + 'static,
    ) {
        let step = (partition, index, Box::new(step) as Step);
        self.script.lock().push_back(step);
    }

    /// ... with an OUT of one byte.
    pub(crate) fn out(&self, partition: u64, index: u64, port: u16, byte: u8) {
        self.then(partition, index, move |page| {
            page.exit.reason = ExitReason::PortWrite as u32;
            (page.exit.width, page.exit.count) = (1, 1);
            page.exit.address = port.into();
            page.exit.data[0] = byte;
        });
    }
}

struct TestGate(Arc<Log>);

std::thread_local! {
    static SHOWN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct TestPage(&'static mut RunPage);

impl RunPageAccess for TestPage {
    fn page(&mut self) -> &mut RunPage {
        self.0
    }
}

pub(crate) struct TestSlot(&'static mut [u8]);

impl Transfer for TestSlot {
    fn offset(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.0
    }
}

#[allow(unsafe_code)]
fn at<T>(address: u64) -> &'static mut T {
    // SAFETY: tests hand out leaked pages and slots only, each used by one thread.
    unsafe { &mut *(address as *mut T) }
}

impl Gate for TestGate {
    fn call(&self, call: RootCall, arguments: [u64; 5]) -> (Status, [u64; 2]) {
        let log = &*self.0;
        let answer = |first| (Status::OK, [first, 0]);
        let [first, second, third, ..] = arguments;
        match call {
            RootCall::PartitionCreate => answer(log.partitions.fetch_add(1, Ordering::Relaxed) + 1),
            RootCall::VcpuCreate => {
                let mut vcpus = log.vcpus.lock();
                vcpus.push((first, second));
                let page: &'static mut RunPage = Box::leak(Box::new(page()));
                let address = core::ptr::from_mut(page) as usize;
                log.pages.lock().push(address);
                answer(address as u64)
            }
            RootCall::VcpuRun => {
                let Some((partition, index, step)) = log.script.lock().pop_front() else {
                    panic!("vcpu {second} of partition {first} runs beyond the script");
                };
                assert_eq!((partition, index), (first, second));
                let number = log.vcpus.lock().iter().position(|v| *v == (first, second));
                let page: &mut RunPage = at(log.pages.lock()[number.unwrap()] as u64);
                log.requests.lock().push(page.request);
                step(page);
                answer(0)
            }
            RootCall::VcpuGetState => {
                *at::<VcpuState>(third) = VcpuState::default();
                answer(0)
            }
            RootCall::VcpuSetState => {
                *log.state.lock() = *at::<VcpuState>(third);
                answer(0)
            }
            RootCall::CpuidSupported => {
                let rows =
                    [(0, [1, u32::from_le_bytes(*b"Auth"), 0, 0]), (0x8000_0008, [40, 0, 0, 0])];
                for (index, (leaf, answer)) in rows.into_iter().enumerate() {
                    let size = size_of::<CpuidRow>() as u64;
                    *at::<CpuidRow>(first + index as u64 * size) =
                        CpuidRow { leaf, answer, ..CpuidRow::default() };
                }
                answer(2)
            }
            RootCall::Inject => {
                log.injected.lock().push((first, second, third as u32));
                answer(log.woken.load(Ordering::Relaxed))
            }
            RootCall::MemoryMap | RootCall::VcpuSetCpuid => answer(0),
            _ => (Status::fault(Fault::UnknownCall), [0, 0]),
        }
    }
}

fn page() -> RunPage {
    RunPage {
        request: 0,
        external_vector: 0,
        accepts_external: 0,
        armed: 0,
        deadline: u64::MAX,
        rip: 0,
        rflags: 0,
        exit: hypervisor_abi::ExitRecord {
            reason: 0,
            width: 0,
            count: 0,
            detail: 0,
            address: 0,
            arguments: [0; 6],
            results: [0; 3],
            data: [0; hypervisor_abi::EXIT_DATA],
        },
        armed_on: 0,
    }
}

/// One processor. Every look at the counter takes a microsecond; a halt lasts until the timer.
pub(crate) struct TestMachine {
    tsc: AtomicU64,
    armed: AtomicU64,
    halts: AtomicU64,
}

/// Ticks a second of its counter.
pub(crate) const HERTZ: u64 = 1_000_000_000;

impl TestMachine {
    pub(crate) fn leaked() -> &'static Self {
        Box::leak(Box::new(Self {
            tsc: AtomicU64::new(0),
            armed: AtomicU64::new(u64::MAX),
            halts: AtomicU64::new(0),
        }))
    }

    /// The timer's interrupt has come.
    pub(crate) fn spend(&self) {
        self.armed.store(u64::MAX, Ordering::Relaxed);
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed) != u64::MAX
    }

    pub(crate) fn halts(&self) -> u64 {
        self.halts.load(Ordering::Relaxed)
    }
}

impl Machine for TestMachine {
    fn tsc(&self) -> u64 {
        self.tsc.fetch_add(1000, Ordering::Relaxed)
    }

    fn current(&self) -> usize {
        0
    }

    fn arm(&self, deadline: u64) {
        self.armed.store(deadline, Ordering::Relaxed);
    }

    fn take_interrupts(&self) {}

    fn halt(&self) {
        let armed = self.armed.load(Ordering::Relaxed);
        assert_ne!(armed, u64::MAX, "halted for good");
        self.tsc.fetch_max(armed, Ordering::Relaxed);
        self.halts.fetch_add(1, Ordering::Relaxed);
    }

    fn wake(&self, index: usize) {
        panic!("there is no processor {index}");
    }

    fn typed(&self) -> Option<u8> {
        None
    }
}

/// What is on the console, of this thread.
pub(crate) fn shown() -> String {
    SHOWN.with_borrow(|bytes| String::from_utf8(bytes.clone()).unwrap())
}

/// A console for this thread.
pub(crate) fn console() -> SharedConsole {
    SHOWN.take();
    let output = |bytes: &[u8]| SHOWN.with_borrow_mut(|all| all.extend(bytes));
    Arc::new(Mutex::new(Console::new(output)))
}

/// A core with `log`, and everything that guests are made from: a pool of 16 MiB at 256 MiB.
pub(crate) fn means(log: &Arc<Log>, machine: &'static TestMachine) -> Means<'static> {
    let pool = Span::of(HostPhysical(256 << 20), Bytes::mib(16));
    Means {
        core: Arc::new(Core::new(Box::new(TestGate(Arc::clone(log))))),
        machine,
        processors: 1,
        console: console(),
        clock: Clock::new(0, HERTZ),
        now: || 0,
        wall_clock: 0,
        pool: PoolMemory::new(pool),
        ram: &ram,
        run_page: &|offset| Box::new(TestPage(at(offset))),
        slot: Box::new(TestSlot(std::vec![0; 16 << 10].leak())),
        disk_memory: 1 << 20,
        disk: None,
        switch: Arc::default(),
    }
}

#[allow(unsafe_code)]
fn ram(_from: HostPhysical, ranges: &[Range]) -> GuestRam {
    let parts = ranges.iter().map(|range| {
        let bytes = std::vec![0u8; range.size.0 as usize].leak();
        (*range, bytes.as_mut_ptr())
    });
    // SAFETY: leaked, and the references are gone.
    unsafe { GuestRam::new(parts.collect()) }
}

/// A boot archive of these files.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> &'static [u8] {
    let mut bytes = Vec::new();
    for (name, contents) in files.iter().chain(&[("TRAILER!!!", &[][..])]) {
        let mut fields = [0; 13];
        (fields[1], fields[6], fields[11]) = (0o100_644, contents.len(), name.len() + 1);
        bytes.extend(b"070701");
        for field in fields {
            bytes.extend(std::format!("{field:08x}").bytes());
        }
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(*contents);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes.leak()
}

/// A tiny guest that does nothing.
pub(crate) const TINY: &[u8] = b"\xeb\x0a\x90\x90MHVTINY1\xf4";
