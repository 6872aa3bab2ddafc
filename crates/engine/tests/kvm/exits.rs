//! What leaves the guest: ports, doorbells, shutdown.

use crate::machine::{counter, machine, next_write, start};
use engine::{Doorbell, DoorbellAddress, Exit};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::AsFd;

#[test]
fn port_reads_and_writes_come_out_with_their_width() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xe4, 0x60, // in al, 0x60
            0xe6, 0x80, // out 0x80, al
            0xe5, 0x62, // in ax, 0x62
            0xe7, 0x82, // out 0x82, ax
            0x66, 0xe5, 0x64, // in eax, 0x64
            0x66, 0xe7, 0x84, // out 0x84, eax
        ],
    );
    for (width, port) in [(1, 0x60), (2, 0x62), (4, 0x64)] {
        match cpu.run().expect("the guest runs") {
            Exit::PortRead { port: read, width: bytes, data } => {
                assert_eq!((read, usize::from(bytes), data.len()), (port, width, width));
                data.copy_from_slice(&[0x11, 0x22, 0x33, 0x44][..width]);
            }
            other => panic!("{other:?}"),
        }
        let (out, data) = next_write(cpu.as_mut());
        assert_eq!(out, port + 0x20);
        assert_eq!(data, [0x11, 0x22, 0x33, 0x44][..width]);
    }
    assert_eq!(counter(cpu.as_ref(), "port_read"), 3);
    assert_eq!(counter(cpu.as_ref(), "port_write"), 3);
}

#[test]
fn string_port_writes_and_reads_carry_every_item() {
    let Some(machine) = machine(1) else { return };
    machine.memory.write(0x2000, b"hello, world");
    let mut cpu = machine.processor(
        0,
        &[
            0xfc, // cld
            0xbe, 0x00, 0x20, // mov si, 0x2000
            0xb9, 0x06, 0x00, // mov cx, 6
            0xba, 0x50, 0x01, // mov dx, 0x150
            0xf3, 0x6f, // rep outsw
            0xbf, 0x00, 0x30, // mov di, 0x3000
            0xb9, 0x05, 0x00, // mov cx, 5
            0xf3, 0x6c, // rep insb
            0xe6, 0x80, // out 0x80, al
        ],
    );
    let mut written = Vec::new();
    let mut read = 0u8;
    loop {
        match cpu.run().expect("the guest runs") {
            Exit::PortWrite { port: 0x150, width, data } => {
                assert_eq!(width, 2);
                written.extend_from_slice(data);
            }
            Exit::PortRead { port: 0x150, width, data } => {
                assert_eq!(width, 1);
                for byte in data {
                    read += 1;
                    *byte = read;
                }
            }
            Exit::PortWrite { port: 0x80, .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written, b"hello, world");
    let arrived: Vec<u8> = (0x3000..0x3006).map(|at| machine.memory.byte(at)).collect();
    assert_eq!(arrived, [1, 2, 3, 4, 5, 0]);
}

#[test]
fn a_doorbell_signals_without_an_exit_and_only_for_its_value() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xb8, 0x05, 0x00, // mov ax, 5
            0xba, 0x00, 0x05, // mov dx, 0x500
            0xef, // out dx, ax
            0xb8, 0x06, 0x00, // mov ax, 6
            0xef, // out dx, ax
        ],
    );
    let event = eventfd(0, EventfdFlags::NONBLOCK).expect("an event");
    let doorbell = Doorbell { address: DoorbellAddress::Port(0x500), width: 2, value: Some(5) };
    let guard = machine.partition.doorbell(doorbell, event.as_fd());
    let Some(guard) = guard.expect("ioeventfd") else {
        eprintln!("SKIPPED: this KVM has no ioeventfd");
        return;
    };
    assert_eq!(next_write(cpu.as_mut()), (0x500, vec![6, 0]));
    let mut rung = [0; 8];
    rustix::io::read(&event, &mut rung).expect("it rang");
    assert_eq!(u64::from_ne_bytes(rung), 1);
    drop(guard);
    start(cpu.as_mut());
    assert_eq!(next_write(cpu.as_mut()), (0x500, vec![5, 0]));
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    let Some(machine) = machine(1) else { return };
    // mov ax, 0x10; mov ds, ax: no such segment, in protected mode without a single vector.
    let mut cpu = machine.processor(0, &[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8]);
    let mut system = cpu.system_registers().expect("system registers");
    system.cr0 |= 1;
    system.cs.rights = 0xc09b;
    system.cs.limit = u32::MAX;
    system.cs.selector = 8;
    system.gdt.limit = 0;
    system.idt.limit = 0;
    cpu.set_system_registers(&system).expect("protected mode without vectors");
    match cpu.run().expect("the guest runs") {
        Exit::Shutdown => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(counter(cpu.as_ref(), "shutdown"), 1);
}
