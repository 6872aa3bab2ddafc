//! Kicks, reset, counters, and what cannot be made.

use crate::machine::{counter, enable_local_apic, kvm, machine, next_write, start};
use engine::{Engine, EngineError, Exit, PartitionConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn no_kick_is_lost_however_it_falls() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(0, &[0xfa, 0xf4]); // cli; hlt: nothing else ends this
    let kick = cpu.kicker();
    // One before the first run counts for it.
    kick.kick();
    assert!(matches!(cpu.run(), Ok(Exit::Interrupted)));
    let (ask, asked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // One kick per round, at a moment that drifts over the whole way in and out.
            for round in asked {
                for _ in 0..round % 64 {
                    std::hint::spin_loop();
                }
                kick.kick();
            }
        });
        for round in 0u32..2000 {
            ask.send(round).expect("the kicker lives");
            // A lost kick would leave this waiting for ever.
            match cpu.run().expect("the guest runs") {
                Exit::Interrupted => {}
                other => panic!("{other:?}"),
            }
        }
        drop(ask);
    });
    assert!(counter(cpu.as_ref(), "interrupted") >= 2001);
}

#[test]
fn a_kicker_may_outlive_its_processor() {
    let Some(machine) = machine(1) else { return };
    let cpu = machine.processor(0, &[0xf4]);
    let kick = cpu.kicker();
    drop(cpu);
    drop(machine);
    kick.kick();
}

#[test]
fn a_reset_forgets_everything_the_guest_did() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0x66, 0xb9, 0x74, 0x01, 0x00, 0x00, // mov ecx, 0x174 (IA32_SYSENTER_CS)
            0x66, 0xb8, 0x08, 0x00, 0x00, 0x00, // mov eax, 8
            0x66, 0x31, 0xd2, // xor edx, edx
            0x0f, 0x30, // wrmsr
            0x0f, 0x23, 0xc0, // mov dr0, eax
            0x0f, 0x22, 0xd8, // mov cr3, eax
            0xe6, 0x80, // out 0x80, al
        ],
    );
    next_write(cpu.as_mut());
    enable_local_apic(cpu.as_mut());
    assert_eq!(cpu.msrs(&[0x174]).expect("MSRs")[0].value, 8);
    cpu.inject_nmi().expect("injected");
    cpu.reset().expect("reset");
    let registers = cpu.registers().expect("registers");
    assert_eq!((registers.rip, registers.rax), (0xfff0, 0));
    let system = cpu.system_registers().expect("system registers");
    assert_eq!((system.cs.base, system.cr3), (0xffff_0000, 0));
    assert_eq!(system.apic_base, 0xfee0_0900);
    assert_eq!(cpu.msrs(&[0x174]).expect("MSRs")[0].value, 0);
    // The pending NMI is gone: its vector leads nowhere, and the program runs from the start.
    start(cpu.as_mut());
    assert_eq!(next_write(cpu.as_mut()).0, 0x80);
}

#[test]
fn a_kick_ends_the_instruction_under_way_and_begins_no_other() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xb8, 0xff, 0xff, // mov ax, 0xffff
            0x8e, 0xd8, // mov ds, ax
            0xa1, 0x10, 0x00, // mov ax, [0x10]: ffff:0010 is 0x100000, just past the memory
            0xe7, 0x80, // out 0x80, ax
        ],
    );
    match cpu.run().expect("the guest runs") {
        Exit::MemoryRead { data, .. } => data.copy_from_slice(&[0xcd, 0xab]),
        other => panic!("{other:?}"),
    }
    cpu.kicker().kick();
    assert!(matches!(cpu.run(), Ok(Exit::Interrupted)));
    let registers = cpu.registers().expect("registers");
    assert_eq!((registers.rip, registers.rax), (0x1008, 0xabcd));
    cpu.reset().expect("reset");
    // Nothing of it reaches over the reset: the first thing is the first instruction's.
    machine.memory.write(0x1000, &[0xe6, 0x81]); // out 0x81, al
    start(cpu.as_mut());
    assert_eq!(next_write(cpu.as_mut()), (0x81, vec![0]));
}

#[test]
fn a_guest_with_kvmclock_learns_that_it_stood_still() {
    /// MSR_KVM_SYSTEM_TIME_NEW; bit 0 of the value turns the clock on (Linux,
    /// Documentation/virt/kvm/x86/msr.rst).
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    const PAGE: usize = 0x3000;
    /// `struct pvclock_vcpu_time_info` (pvclock-abi.h).
    const FLAGS: usize = PAGE + 29;
    const GUEST_STOPPED: u8 = 1 << 1;
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(0, &[0xe6, 0x80, 0xeb, 0xfc]); // out 0x80, al; jmp back
    // No clock yet, so nobody to tell.
    cpu.stood_still().expect("nothing to do");
    let enable = engine::Msr { index: SYSTEM_TIME, value: PAGE as u64 | 1 };
    if cpu.set_msrs(&[enable]).is_err() {
        eprintln!("SKIPPED: this KVM offers no kvmclock");
        return;
    }
    next_write(cpu.as_mut());
    assert_eq!(machine.memory.byte(FLAGS) & GUEST_STOPPED, 0);
    cpu.stood_still().expect("told");
    next_write(cpu.as_mut());
    assert_eq!(machine.memory.byte(FLAGS) & GUEST_STOPPED, GUEST_STOPPED);
}

#[test]
fn impossible_partitions_and_processors_are_refused() {
    let Some(engine) = kvm() else { return };
    for processors in [0, u32::MAX] {
        let refused = engine.create_partition(&PartitionConfig { processors });
        assert!(matches!(refused, Err(EngineError::ProcessorCount { .. })));
    }
    let partition =
        engine.create_partition(&PartitionConfig { processors: 1 }).expect("a partition");
    let _taken = partition.create_processor(0).expect("a processor");
    for index in [0, 1, u32::MAX] {
        assert!(matches!(
            partition.create_processor(index),
            Err(EngineError::ProcessorIndex { limit: 1, .. })
        ));
    }
}

#[test]
fn kernel_counters_move_with_the_guest() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(0, &[0xe6, 0x80, 0xeb, 0xfc]); // out 0x80, al; jmp back
    let statistics = cpu.statistics();
    let exits = || {
        let counters = statistics.read();
        let found = counters.into_iter().find(|(name, _)| name == "kvm.exits");
        found.map(|(_, count)| count)
    };
    let Some(before) = exits() else {
        eprintln!("SKIPPED: this KVM offers no statistics");
        return;
    };
    for _ in 0..10 {
        next_write(cpu.as_mut());
    }
    assert!(exits().expect("still there") >= before + 10);
}

#[test]
fn a_program_that_blocks_signals_can_still_be_kicked() {
    let Some(machine) = machine(1) else { return };
    let running = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let runs = Arc::clone(&running);
        let machine = &machine;
        scope.spawn(move || {
            block_all_signals();
            let mut cpu = machine.processor(0, &[0xfa, 0xf4]);
            sender.send(cpu.kicker()).expect("the test waits");
            runs.store(true, Ordering::SeqCst);
            assert!(matches!(cpu.run(), Ok(Exit::Interrupted)));
        });
        let kick = receiver.recv().expect("a kicker");
        // Long enough that the processor is most likely inside; right either way.
        std::thread::sleep(std::time::Duration::from_millis(50));
        kick.kick();
    });
    assert!(running.load(Ordering::SeqCst));
}

fn block_all_signals() {
    // SAFETY: a zeroed set is made valid by `sigfillset`; only this thread's mask changes.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
