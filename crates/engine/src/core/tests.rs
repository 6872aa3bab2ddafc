//! The engine against a core of the tests' own.

use super::test_core::TestCore;
use super::*;
use crate::{Access, Allocation, Exit, HostMapping, Msi, Registers};
use hypervisor_abi::{ExitReason, RunFlags};
use std::time::{Duration, Instant};
use units::{GuestPhysical, PAGE_SIZE};

const MIB: u64 = 1 << 20;
const POOL: u64 = 0x4000_0000;

fn engine(mib: u64) -> (Arc<TestCore>, CoreEngine) {
    let (core, pool) = TestCore::with_pool(mib);
    let engine = CoreEngine::with(pool, Calls::new(Arc::clone(&core) as _)).unwrap();
    (core, engine)
}

fn partition(engine: &CoreEngine) -> Arc<dyn Partition> {
    engine.create_partition(&PartitionConfig { processors: 2 }).unwrap()
}

/// A part of an allocation, as RAM below and above the hole is.
struct Part(Arc<Allocation>, u64, Bytes);

// SAFETY: no guest runs in these tests, and the test core looks at no address of this process's.
unsafe impl HostMapping for Part {
    fn address(&self) -> usize {
        0x1000
    }
    fn size(&self) -> Bytes {
        self.2
    }
    fn backing(&self) -> Option<(&Arc<std::fs::File>, u64)> {
        Some((self.0.file(), self.0.offset() + self.1))
    }
}

/// All of an allocation.
fn whole(allocation: &Arc<Allocation>) -> Arc<Part> {
    Arc::new(Part(Arc::clone(allocation), 0, allocation.size()))
}

#[test]
fn memory_comes_from_the_pool_and_goes_back_there() {
    let (core, engine) = engine(16);
    let partition = partition(&engine);
    let ram = partition.allocate("RAM", Bytes(4 * MIB), false).unwrap();
    assert_eq!(core.reserved(), [(POOL + 2 * MIB, 4 * MIB)]);
    assert_eq!(ram.offset(), 2 * MIB);
    let low = Part(Arc::clone(&ram), 0, Bytes(MIB));
    let high = Part(Arc::clone(&ram), MIB, Bytes(3 * MIB));
    partition.map(GuestPhysical(0), Arc::new(low), Access::ReadWrite).unwrap();
    partition.map(GuestPhysical(1 << 32), Arc::new(high), Access::ReadOnly).unwrap();
    let (first, second) = ((0, POOL + 2 * MIB, MIB, 3), (1 << 32, POOL + 3 * MIB, 3 * MIB, 2));
    assert_eq!(core.mapped(), [first, second]);
    partition.unmap(GuestPhysical(0)).unwrap();
    assert_eq!(core.mapped(), [second]);
    assert!(partition.unmap(GuestPhysical(0)).is_err());
    let spare = partition.allocate("spare", Bytes(2 * MIB), false).unwrap();
    drop(spare);
    assert_eq!(core.reserved().len(), 1, "nothing was mapped there");
    drop(ram);
    drop(partition);
    assert!(core.reserved().is_empty() && core.mapped().is_empty() && core.owners().is_empty());
}

#[test]
fn a_full_pool_is_told_with_its_figures() {
    let (_core, engine) = engine(16);
    let partition = partition(&engine);
    let _ram = partition.allocate("RAM", Bytes(10 * MIB), false).unwrap();
    let Err(error) = partition.allocate("window memory", Bytes(6 * MIB), false) else { panic!() };
    let text = error.to_string();
    assert!(text.starts_with("6 MiB for window memory: 4 MiB of the core's pool"), "{text}");
    assert!(text.contains("pool=MIB"), "{text}");
    assert_eq!(engine.facts().unwrap().free, Bytes(4 * MIB));
    assert!(partition.allocate("odd", Bytes(MIB), false).is_err());
}

#[test]
fn only_pool_memory_can_be_mapped_and_once() {
    let (_core, engine) = engine(16);
    let partition = partition(&engine);
    let foreign = Arc::new(Allocation::anonymous("foreign", Bytes(2 * MIB), false).unwrap());
    let foreign = partition.map(GuestPhysical(0), whole(&foreign), Access::ReadWrite);
    let Err(error) = foreign else { panic!() };
    assert!(error.to_string().contains("no memory of the core's pool"), "{error}");
    let ram = partition.allocate("RAM", Bytes(2 * MIB), false).unwrap();
    let beyond = Part(Arc::clone(&ram), MIB, Bytes(2 * MIB));
    assert!(partition.map(GuestPhysical(0), Arc::new(beyond), Access::ReadWrite).is_err());
    partition.map(GuestPhysical(MIB), whole(&ram), Access::ReadWrite).unwrap();
    for (guest, why) in [(2 * MIB, "something else"), (5, "multiples"), (u64::MAX - 4095, "past")] {
        let again = partition.map(GuestPhysical(guest), whole(&ram), Access::ReadWrite);
        let text = again.err().unwrap().to_string();
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn the_dirty_log_is_asked_for_piece_by_piece() {
    let (_core, engine) = engine(1024);
    let partition = partition(&engine);
    // More than one slot tells of: 131072 pages and some.
    let size = 512 * MIB + 2 * MIB;
    let ram = partition.allocate("RAM", Bytes(size), false).unwrap();
    let part = Part(ram, 0, Bytes(size - PAGE_SIZE));
    partition.map(GuestPhysical(0), Arc::new(part), Access::ReadWrite).unwrap();
    let bitmap = partition.dirty_pages(GuestPhysical(0)).unwrap();
    let pages = size / PAGE_SIZE - 1;
    assert_eq!(bitmap.len() as u64, pages.div_ceil(64));
    let set: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
    let thirds = 131_072_u64.div_ceil(3) + (pages - 131_072).div_ceil(3);
    assert_eq!(u64::from(set), thirds, "and no page behind the last");
}

#[test]
fn accesses_come_out_and_everything_between_is_the_engines() {
    let (core, engine) = engine(16);
    let partition = partition(&engine);
    let mut processor = partition.create_processor(0).unwrap();
    let far = clock::tsc() + 3_600_000_000_000;
    core.then(ExitReason::Interrupted, |_| {});
    core.then(ExitReason::Deadline, move |page| page.deadline = far);
    core.then(ExitReason::Hypercall, |_| {});
    core.then(ExitReason::PortWrite, |page| {
        assert_eq!(page.exit.results[0], 9, "calls are refused: not supported");
        (page.exit.address, page.exit.data[0]) = (0x3f8, b'A');
    });
    let Exit::PortWrite { port: 0x3f8, width: 1, data: b"A" } = processor.run().unwrap() else {
        panic!()
    };
    let armed: Vec<u64> = core.orders().into_iter().map(|(_, _, armed)| armed).collect();
    assert_eq!(armed, [u64::MAX, u64::MAX, far, far]);
    let counters = processor.statistics().read();
    for (name, count) in [("port_write", 1), ("core.run_interrupted", 1), ("core.run_deadline", 1)]
    {
        assert!(counters.contains(&(name.to_owned(), count)), "{counters:?}");
    }
}

#[test]
fn a_kick_ends_a_run_and_a_halt() {
    let (core, engine) = engine(16);
    let partition = partition(&engine);
    let mut processor = partition.create_processor(1).unwrap();
    let kick = processor.kicker();
    kick.kick();
    core.then(ExitReason::Interrupted, |_| {});
    assert!(matches!(processor.run().unwrap(), Exit::Interrupted));
    // The core's own kick may come later than the interrupt that ended the run: no second exit.
    core.then(ExitReason::Interrupted, |_| {});
    core.then(ExitReason::Halt, |page| page.deadline = u64::MAX);
    // What the kick brings about in the core.
    core.then(ExitReason::Interrupted, |_| {});
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        kick.kick();
    });
    assert!(matches!(processor.run().unwrap(), Exit::Interrupted));
    waker.join().unwrap();
}

#[test]
fn a_halt_ends_with_an_interrupt_or_its_timer() {
    let (core, engine) = engine(16);
    let partition = partition(&engine);
    let mut processor = partition.create_processor(1).unwrap();
    core.then(ExitReason::Halt, |page| page.deadline = u64::MAX);
    core.then(ExitReason::Shutdown, |_| {});
    let device = Arc::clone(&partition);
    core.set_woken(0b10);
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        device.inject(Msi { address: 0xfee0_1000, data: 0x31 }).unwrap();
    });
    assert!(matches!(processor.run().unwrap(), Exit::Shutdown));
    waker.join().unwrap();
    assert_eq!(core.injected(), [(1, 0xfee0_1000, 0x31)]);
    // The test core's counter has 1 GHz, this machine's more: it is due early at worst.
    let due = clock::tsc() + 30_000_000;
    core.then(ExitReason::Halt, move |page| page.deadline = due);
    core.then(ExitReason::Shutdown, |_| {});
    let begin = Instant::now();
    assert!(matches!(processor.run().unwrap(), Exit::Shutdown));
    assert!(begin.elapsed() >= Duration::from_millis(20), "{:?}", begin.elapsed());
}

#[test]
fn an_ipi_wakes_the_other_processor() {
    let (core, engine) = engine(16);
    let partition = partition(&engine);
    let mut sender = partition.create_processor(0).unwrap();
    let mut sleeper = partition.create_processor(1).unwrap();
    core.then(ExitReason::WaitForSipi, |_| {});
    let asleep = std::thread::spawn(move || {
        assert!(matches!(sleeper.run().unwrap(), Exit::Shutdown));
    });
    while core.orders().is_empty() {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    core.then(ExitReason::Wake, |page| page.exit.arguments[0] = 0b10);
    // Whoever runs first takes the first of these; both end.
    core.then(ExitReason::Shutdown, |_| {});
    core.then(ExitReason::Shutdown, |_| {});
    assert!(matches!(sender.run().unwrap(), Exit::Shutdown));
    asleep.join().unwrap();
}

#[test]
fn an_8259s_vector_is_handed_in_once() {
    let (core, engine) = engine(16);
    let partition = partition(&engine);
    let mut processor = partition.create_processor(0).unwrap();
    assert!(!processor.accepts_external_interrupt(), "it never ran");
    processor.request_interrupt_window(true);
    core.then(ExitReason::InterruptWindow, |page| page.accepts_external = 1);
    assert!(matches!(processor.run().unwrap(), Exit::InterruptWindow));
    assert!(processor.accepts_external_interrupt());
    processor.queue_external_interrupt(0x20).unwrap();
    assert!(!processor.accepts_external_interrupt());
    processor.request_interrupt_window(false);
    core.then(ExitReason::Interrupted, |_| {});
    core.then(ExitReason::EndOfInterrupt, |page| page.exit.detail = 0x31);
    assert!(matches!(processor.run().unwrap(), Exit::EndOfInterrupt { vector: 0x31 }));
    let window = RunFlags::INTERRUPT_WINDOW;
    let orders: Vec<_> =
        core.orders().into_iter().map(|(what, vector, _)| (what, vector)).collect();
    assert_eq!(orders, [(window, 0), (RunFlags::EXTERNAL_INTERRUPT, 0x20), (0, 0)]);
    processor.reset().unwrap();
    assert!(!processor.accepts_external_interrupt(), "the page's word is old");
    assert_eq!(core.resets(), 1);
}

#[test]
fn registers_go_into_the_core_and_come_back() {
    let (_core, engine) = engine(16);
    let partition = partition(&engine);
    let mut processor = partition.create_processor(0).unwrap();
    let registers = Registers { rip: 0x100, rbx: 7, rflags: 2, ..Registers::default() };
    processor.set_registers(&registers).unwrap();
    let mut system = processor.system_registers().unwrap();
    (system.cr3, system.cs.selector) = (0x5000, 8);
    processor.set_system_registers(&system).unwrap();
    processor.set_msrs(&[crate::Msr { index: 0x277, value: 6 }]).unwrap();
    assert_eq!(processor.registers().unwrap(), registers);
    assert_eq!(processor.system_registers().unwrap(), system);
    assert_eq!(processor.msrs(&[0x277, 0x10]).unwrap(), [crate::Msr { index: 0x277, value: 6 }]);
    assert!(processor.set_msrs(&[crate::Msr { index: 0x2ff, value: 6 }]).is_err());
}

#[test]
fn processors_are_made_once_and_within_limits() {
    let (_core, engine) = engine(16);
    let many = engine.create_partition(&PartitionConfig { processors: 65 });
    assert!(matches!(many, Err(EngineError::ProcessorCount { limit: 64, .. })));
    let partition = partition(&engine);
    let _first = partition.create_processor(1).unwrap();
    assert!(partition.create_processor(1).is_err() && partition.create_processor(2).is_err());
}
