use super::*;
use crate::exits::IPC_RUNNING;
use crate::start::{Ready, make};
use crate::test_core::{HERTZ, Log, TINY, TestMachine, archive, means, shown};
use hypervisor_abi::{ExitReason, FailureKind, GuestCall, Outside, RunFlags, RunPage};
use hypervisor_boot::archive::Archive;
use std::string::ToString;

struct Bench {
    log: Arc<Log>,
    machine: &'static TestMachine,
    shared: Shared,
    vcpus: Vec<Vcpu>,
}

fn bench(manifest: &str) -> Bench {
    let log = Arc::new(Log::default());
    let machine = TestMachine::leaked();
    let means = means(&log, machine);
    let console = Arc::clone(&means.console);
    let files = [("manifest", manifest.as_bytes()), ("k", TINY)];
    let Ready { guests, mut vcpus } =
        make(&Archive::new(archive(&files)), means).map_err(|error| error.to_string()).unwrap();
    Bench {
        log,
        machine,
        shared: Shared {
            machine,
            guests,
            console,
            clock: Clock::new(0, HERTZ),
            switch: Arc::default(),
            idle: std::vec![AtomicBool::new(false)],
        },
        vcpus: vcpus.remove(0),
    }
}

impl Bench {
    fn run(self) -> Self {
        let Self { log, machine, shared, vcpus } = self;
        Runner::new(&shared, 0, vcpus).run();
        assert!(log.script.lock().is_empty(), "not all of the script happened");
        Self { log, machine, shared, vcpus: Vec::new() }
    }
}

const ONE: &str = "guest one\nmemory 2\nkernel k\n";

fn reason(page: &mut RunPage, reason: ExitReason) {
    page.exit.reason = reason as u32;
}

#[test]
fn a_guest_prints_and_ends_with_its_status() {
    let bench = bench(ONE);
    for byte in b"hi\n" {
        bench.log.out(1, 0, 0xe9, *byte);
    }
    for byte in b"serial" {
        bench.log.out(1, 0, 0x3f8, *byte);
    }
    bench.log.out(1, 0, 0xf4, 3);
    let bench = bench.run();
    let expected = "one| hi\r\none| serial\r\nmonitor: guest one ended: status 3\r\n";
    assert_eq!(shown(), expected);
    let exits: Vec<_> = bench.shared.guests[0].exits().collect();
    assert_eq!(exits, [("port write", 10)]);
}

#[test]
fn the_other_guest_goes_on_when_one_breaks() {
    let bench = bench("guest a\nmemory 2\nkernel k\nguest b\nmemory 2\nkernel k\n");
    bench.log.then(1, 0, |page| reason(page, ExitReason::Shutdown));
    bench.log.out(2, 0, 0xec, 0);
    bench.run();
    let expected = "monitor: guest a ended: status 1 (triple fault)\r\n\
                    monitor: guest b ended: status 0\r\n";
    assert_eq!(shown(), expected);
}

/// HLT with interrupts on.
fn halt(page: &mut RunPage) {
    reason(page, ExitReason::Halt);
    page.rflags = 0x202;
}

#[test]
fn a_guest_whose_vcpus_all_halt_for_good_has_ended() {
    let bench = bench("guest one\nmemory 2\nvcpus 2\nkernel k\n");
    let for_good = |page: &mut RunPage| {
        reason(page, ExitReason::Halt);
        page.rflags = 2;
    };
    bench.log.then(1, 0, |page| reason(page, ExitReason::Interrupted));
    bench.log.then(1, 1, |page| reason(page, ExitReason::WaitForSipi));
    // The first one starts the second before it halts: that is not the end yet.
    bench.log.then(1, 0, |page| {
        reason(page, ExitReason::Wake);
        page.exit.arguments[0] = 1 << 1;
    });
    bench.log.then(1, 1, |page| reason(page, ExitReason::Interrupted));
    bench.log.then(1, 0, for_good);
    bench.log.then(1, 1, for_good);
    bench.run();
    assert_eq!(shown(), "monitor: guest one ended: status 0 (halted for good)\r\n");
}

#[test]
fn a_halted_vcpu_sleeps_until_its_deadline_and_the_processor_with_it() {
    let bench = bench(ONE);
    bench.log.then(1, 0, |page| {
        halt(page);
        page.deadline = 30_000_000;
    });
    bench.log.then(1, 0, |page| {
        assert!(page.armed > 30_000_000);
        reason(page, ExitReason::Interrupted);
    });
    bench.log.out(1, 0, 0xec, 0);
    let bench = bench.run();
    assert!(bench.machine.tsc() >= 30_000_000);
    assert!(bench.machine.halts() > 0);
}

#[test]
fn a_vcpu_that_another_woke_runs_next() {
    let bench = bench("guest one\nmemory 2\nvcpus 2\nkernel k\n");
    bench.log.then(1, 0, halt);
    bench.log.then(1, 1, |page| {
        reason(page, ExitReason::Wake);
        page.exit.arguments[0] = 1 << 0;
    });
    bench.log.then(1, 0, halt);
    // A device's interrupt wakes it too.
    bench.log.woken.store(1 << 0, core::sync::atomic::Ordering::Relaxed);
    bench.log.then(1, 1, |page| {
        reason(page, ExitReason::MemoryWrite);
        (page.exit.width, page.exit.count, page.exit.address) = (4, 1, 0xfec0_0000);
        page.exit.data[0] = 0x12 + 0x10 - 2;
    });
    bench.log.out(1, 1, 0xec, 9);
    bench.run();
    assert!(shown().ends_with("status 9\r\n"), "{}", shown());
}

#[test]
fn the_timer_interrupt_of_the_8259_comes_when_the_guest_can_take_it() {
    let bench = bench(ONE);
    // 8259 at vector 0x20, timer unmasked; 8254 channel 0 as a one-shot of 10 ms (11932 ticks).
    for (port, byte) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
        (0x43, 0x30),
        (0x40, 0x9c),
        (0x40, 0x2e),
    ] {
        bench.log.out(1, 0, port, byte);
    }
    bench.log.then(1, 0, halt);
    bench.log.then(1, 0, |page| {
        reason(page, ExitReason::InterruptWindow);
        page.accepts_external = 1;
    });
    bench.log.then(1, 0, |page| {
        assert_eq!(page.external_vector, 0x20);
        page.exit.reason = ExitReason::PortWrite as u32;
        (page.exit.width, page.exit.count, page.exit.address) = (1, 1, 0xf4);
        page.exit.data[0] = 0;
    });
    let bench = bench.run();
    assert!(bench.machine.tsc() >= 10_000_000);
    let requests = bench.log.requests.lock();
    let [.., window, vector] = requests.as_slice() else { panic!() };
    assert_eq!(*window, RunFlags::INTERRUPT_WINDOW);
    assert_eq!(*vector, RunFlags::EXTERNAL_INTERRUPT);
}

#[test]
fn strings_and_wide_accesses_are_answered_item_by_item() {
    let bench = bench(ONE);
    bench.log.then(1, 0, |page| {
        page.exit.reason = ExitReason::PortWrite as u32;
        (page.exit.width, page.exit.count, page.exit.address) = (1, 6, 0xe9);
        page.exit.data[..6].copy_from_slice(b"abcde\n");
    });
    bench.log.then(1, 0, |page| {
        page.exit.reason = ExitReason::PortRead as u32;
        (page.exit.width, page.exit.count, page.exit.address) = (2, 2, 0x3e8);
    });
    bench.log.then(1, 0, |page| {
        assert_eq!(page.exit.data[..4], [0xff; 4], "nobody is there");
        page.exit.reason = ExitReason::PortRead as u32;
        (page.exit.width, page.exit.count, page.exit.address) = (1000, 1000, 0xe9);
    });
    bench.log.out(1, 0, 0xec, 0);
    bench.run();
    assert!(shown().starts_with("one| abcde\r\n"), "{}", shown());
}

#[test]
fn a_failure_is_told_in_words() {
    let bench = bench(ONE);
    bench.log.then(1, 0, |page| {
        reason(page, ExitReason::Failure);
        page.exit.detail = FailureKind::OutsideMemory as u32;
        page.exit.arguments[..2].copy_from_slice(&[0x100_0000, Outside::Code as u64]);
        page.rip = 0x1234;
    });
    bench.run();
    let expected = "monitor: guest one ended: status 1 (vcpu 0 at 0x1234: \
                    code at guest-physical 0x1000000, outside its memory)\r\n";
    assert_eq!(shown(), expected);
}

#[test]
fn a_guest_learns_how_many_run() {
    let bench = bench("guest a\nmemory 2\nkernel k\nguest b\nmemory 2\nkernel k\n");
    let ask = |page: &mut RunPage| {
        reason(page, ExitReason::Hypercall);
        page.exit.arguments[..2].copy_from_slice(&[GuestCall::Ipc.number(), IPC_RUNNING]);
    };
    bench.log.then(1, 0, ask);
    bench.log.then(1, 0, |page| {
        assert_eq!(page.exit.results, [0, 2, 0]);
        reason(page, ExitReason::Shutdown);
    });
    bench.log.then(2, 0, ask);
    bench.log.then(2, 0, |page| {
        assert_eq!(page.exit.results, [0, 1, 0]);
        reason(page, ExitReason::Shutdown);
    });
    bench.run();
}

#[test]
fn a_timer_that_came_before_its_time_is_armed_again() {
    let bench = bench("guest a\nmemory 2\nkernel k\nguest b\nmemory 2\nkernel k\n");
    let machine = bench.machine;
    bench.log.then(1, 0, |page| {
        reason(page, ExitReason::Halt);
        page.deadline = 1_000_000;
        page.rflags = 1 << 9;
    });
    bench.log.then(2, 0, |page| {
        machine.spend();
        reason(page, ExitReason::Interrupted);
    });
    bench.log.then(2, 0, |page| {
        assert!(machine.is_armed(), "the other guest would sleep for good");
        reason(page, ExitReason::Shutdown);
    });
    bench.log.then(1, 0, |page| reason(page, ExitReason::Shutdown));
    bench.run();
}
