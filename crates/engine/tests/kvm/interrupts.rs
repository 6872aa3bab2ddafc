//! Interrupts and starting another processor.

use crate::machine::{enable_local_apic, machine, message, next_write};
use engine::{Exit, Msi, RunState};

#[test]
fn a_halted_processor_wakes_at_a_message() {
    let Some(machine) = machine(1) else { return };
    machine.handler(0x30);
    let mut cpu = machine.processor(
        0,
        &[
            0xfb, // sti
            0xf4, // hlt
            0xe6, 0x80, // out 0x80, al
        ],
    );
    enable_local_apic(cpu.as_mut());
    machine.partition.inject(message(0x30)).expect("injected");
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![0x30]));
    assert_eq!(next_write(cpu.as_mut()).0, 0x80);
}

#[test]
fn an_interrupt_descriptor_delivers_its_message() {
    let Some(machine) = machine(1) else { return };
    machine.handler(0x31);
    let mut cpu = machine.processor(0, &[0xfb, 0xf4, 0xe6, 0x80]);
    enable_local_apic(cpu.as_mut());
    let Some(interrupt) = machine.partition.interrupt_fd().expect("irqfd") else {
        eprintln!("SKIPPED: this KVM has no irqfd");
        return;
    };
    interrupt.set(Some(message(0x40))).expect("routed");
    interrupt.set(Some(message(0x31))).expect("rerouted");
    let event = interrupt.descriptor().expect("a descriptor");
    rustix::io::write(&event, &1u64.to_ne_bytes()).expect("signalled");
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![0x31]));
}

#[test]
fn a_masked_interrupt_descriptor_keeps_its_signal() {
    let Some(machine) = machine(1) else { return };
    let handler = |vector: u8| {
        // mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr (end of interrupt, SDM 3A 11.12.1.2);
        // mov al, vector; out 0x99, al; iret
        let code = [
            0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30,
            0xb0, vector, 0xe6, 0x99, 0xcf,
        ];
        machine.memory.write(0x800, &code);
        machine.memory.write(usize::from(vector) * 4, &[0x00, 0x08, 0x00, 0x00]);
    };
    handler(0x31);
    let mut cpu = machine.processor(0, &[0xfb, 0xeb, 0xfe]); // sti; loop to itself
    enable_local_apic(cpu.as_mut());
    let Some(interrupt) = machine.partition.interrupt_fd().expect("irqfd") else {
        eprintln!("SKIPPED: this KVM has no irqfd");
        return;
    };
    let event = interrupt.descriptor().expect("a descriptor");
    let signal = || rustix::io::write(&event, &1u64.to_ne_bytes()).expect("signalled");
    // New, and masked later: either way nothing is lost, and what is sent is what is set then.
    assert!(!interrupt.waits());
    signal();
    assert!(interrupt.waits());
    interrupt.set(Some(message(0x31))).expect("routed");
    assert!(!interrupt.waits());
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![0x31]));
    handler(0x41);
    interrupt.set(None).expect("masked");
    signal();
    signal();
    assert!(interrupt.waits());
    interrupt.set(Some(message(0x41))).expect("rerouted");
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![0x41]));
}

#[test]
fn an_external_interrupt_waits_for_its_window() {
    let Some(machine) = machine(1) else { return };
    machine.handler(0x08);
    let mut cpu = machine.processor(
        0,
        &[
            0xe6, 0x80, // out 0x80, al (interrupts are off)
            0xfb, // sti
            0xb9, 0xff, 0xff, // mov cx, 0xffff
            0xe2, 0xfe, // loop to itself
            0xe6, 0x81, // out 0x81, al
        ],
    );
    assert_eq!(next_write(cpu.as_mut()).0, 0x80);
    assert!(!cpu.accepts_external_interrupt());
    cpu.request_interrupt_window(true);
    match cpu.run().expect("the guest runs") {
        Exit::InterruptWindow => {}
        other => panic!("{other:?}"),
    }
    assert!(cpu.accepts_external_interrupt());
    cpu.request_interrupt_window(false);
    cpu.queue_external_interrupt(0x08).expect("queued");
    assert!(!cpu.accepts_external_interrupt());
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![8]));
    assert_eq!(next_write(cpu.as_mut()).0, 0x81);
}

#[test]
fn a_non_maskable_interrupt_arrives_with_interrupts_off() {
    let Some(machine) = machine(1) else { return };
    machine.handler(2);
    let mut cpu = machine.processor(0, &[0xfa, 0xf4]); // cli; hlt
    cpu.inject_nmi().expect("injected");
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![2]));
}

#[test]
fn the_end_of_a_level_interrupt_comes_back() {
    let Some(machine) = machine(1) else { return };
    let level = Msi { address: 0xfee0_0000, data: 0x33 | 1 << 15 | 1 << 14 };
    // mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr (end of interrupt, SDM 3A 11.12.1.2);
    // out 0x99, al; iret
    machine.memory.write(
        0x800,
        &[
            0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30,
            0xe6, 0x99, 0xcf,
        ],
    );
    machine.memory.write(0x33 * 4, &[0x00, 0x08, 0x00, 0x00]);
    let mut cpu = machine.processor(0, &[0xfb, 0xf4, 0xe6, 0x80]);
    enable_local_apic(cpu.as_mut());
    let mut pins = [None; 24];
    pins[5] = Some(level);
    machine.partition.set_line_routes(&pins).expect("routes");
    machine.partition.inject(level).expect("injected");
    // KVM reports it no later than the next entry, which may come after the handler's last exit.
    let mut ended = Vec::new();
    loop {
        match cpu.run().expect("the guest runs") {
            Exit::EndOfInterrupt { vector } => ended.push(vector),
            Exit::PortWrite { port: 0x99, .. } => {}
            Exit::PortWrite { port: 0x80, .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, [0x33]);
}

#[test]
fn a_second_processor_waits_until_it_is_called() {
    let Some(machine) = machine(2) else { return };
    let mut first = machine.processor(
        0,
        &[
            // IA32_X2APIC_ICR (0x830): INIT to processor 1, then SIPI with page 3.
            0x66, 0xb9, 0x30, 0x08, 0x00, 0x00, // mov ecx, 0x830
            0x66, 0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
            0x66, 0xb8, 0x00, 0x45, 0x00, 0x00, // mov eax, 0x4500
            0x0f, 0x30, // wrmsr
            0x66, 0xb8, 0x03, 0x46, 0x00, 0x00, // mov eax, 0x4603
            0x0f, 0x30, // wrmsr
            0xe6, 0x80, // out 0x80, al
        ],
    );
    enable_local_apic(first.as_mut());
    machine.memory.write(0x3000, &[0xe6, 0x81, 0xf4]); // out 0x81, al; hlt
    let mut second = machine.partition.create_processor(1).expect("a processor");
    second
        .set_cpuid(&machine.partition.supported_cpuid().expect("CPUID"))
        .expect("CPUID is accepted");
    assert_eq!(second.run_state().expect("a state"), RunState::WaitForSipi);
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || next_write(second.as_mut()).0);
        assert_eq!(next_write(first.as_mut()).0, 0x80);
        assert_eq!(waits.join().expect("no panic"), 0x81);
    });
}
