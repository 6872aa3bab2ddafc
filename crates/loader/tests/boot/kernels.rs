//! Each kind of kernel is put where its boot protocol wants it and started as it says.

use crate::samples::*;
use loader::{EntryPoint, ImageKind, LoadError, Loaded};
use processor::{Registers, SystemRegisters};

fn state(loaded: &Loaded) -> (Registers, SystemRegisters) {
    match &loaded.entry {
        EntryPoint::State { registers, system } => (*registers, *system),
        EntryPoint::Reset => panic!("a kernel does not start at the reset vector"),
    }
}

#[test]
fn a_bzimage_starts_in_long_mode_with_its_zero_page() {
    let machine = Machine::new(256);
    let loaded = machine.load(&bzimage(), Some(&[0x55; 5000]), "console=ttyS0").unwrap();
    assert_eq!(loaded.kind, ImageKind::Linux);
    let (registers, system) = state(&loaded);
    assert_eq!(registers.rip, 0x100_0200);
    assert_eq!(registers.rflags & 0x200, 0, "interrupts are off");
    assert_eq!(machine.bytes(0x100_0000, 0x3000), [0x90; 0x3000]);
    let zero_page = registers.rsi;
    assert_eq!(machine.u32(zero_page + 0x202), 0x5372_6448);
    assert_eq!(machine.bytes(zero_page + 0x210, 2), [0xff, 1]);
    assert_eq!(machine.text(machine.u32(zero_page + 0x228).into()), "console=ttyS0");
    assert_eq!(machine.u64(zero_page + 0x70), 0xe_0000, "acpi_rsdp_addr");
    let initrd = u64::from(machine.u32(zero_page + 0x218));
    assert_eq!(machine.u32(zero_page + 0x21c), 5000);
    assert_eq!(initrd % 4096, 0);
    assert_eq!(machine.bytes(initrd, 5000), [0x55; 5000]);
    assert_eq!(machine.bytes(zero_page + 0x1e8, 1), [5], "e820 entries");
    assert_eq!(machine.u64(zero_page + 0x2d0 + 3 * 20), 0x10_0000);
    assert_eq!(machine.u64(zero_page + 0x2d0 + 3 * 20 + 8), 255 << 20);

    // Long mode: paging on, and the tables map every 2 MiB of 4 GiB to itself.
    assert_eq!((system.cr0 >> 31, system.cr4 & 0x20, system.efer), (1, 0x20, 0x500));
    for page in [0u64, 1, 511, 512, 2047] {
        let address = page << 21;
        let follow = |table: u64, index: u64| machine.u64((table & !0xfff) + index * 8);
        let directory = follow(follow(system.cr3, 0), address >> 30);
        assert_eq!(follow(directory, page % 512), address | 0x83);
    }
    // The GDT holds what the segment registers claim (SDM 3A figure 3-8).
    assert_eq!(machine.u64(system.gdt.base + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(machine.u64(system.gdt.base + 0x18), 0x00cf_9300_0000_ffff);
    assert_eq!((system.cs.selector, system.ds.selector), (0x10, 0x18));
}

#[test]
fn a_kernel_without_a_64_bit_entry_starts_in_protected_mode() {
    let machine = Machine::new(256);
    let mut kernel = bzimage();
    put(&mut kernel, 0x236, &[0, 0]);
    let (registers, system) = state(&machine.load(&kernel, None, "").unwrap());
    assert_eq!((registers.rip, system.cr0, system.efer), (0x100_0000, 0x11, 0));
}

#[test]
fn a_relocatable_kernel_moves_down_when_memory_is_small() {
    let machine = Machine::new(8);
    let (registers, _) = state(&machine.load(&bzimage(), None, "").unwrap());
    assert_eq!(registers.rip, 0x20_0200);
    let mut kernel = bzimage();
    put(&mut kernel, 0x234, &[0]);
    let error = machine.load(&kernel, None, "").unwrap_err();
    assert!(matches!(error, LoadError::NoRoom { what: "kernel", .. }), "{error}");
}

#[test]
fn an_initrd_stays_below_the_kernels_limit_and_above_the_kernel() {
    let machine = Machine::new(256);
    let mut kernel = bzimage();
    put(&mut kernel, 0x22c, &0x17f_ffffu32.to_le_bytes());
    machine.load(&kernel, Some(&[1; 4096]), "").unwrap();
    assert_eq!(machine.u32(0x7000 + 0x218), 0x17f_f000);
    let error = machine.load(&kernel, Some(&vec![1; 0x40_1000]), "").unwrap_err();
    let expected = "initrd of 4198400 bytes does not fit between 0x1400000 and 0x1800000";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn a_command_line_is_held_to_the_kernels_own_limit() {
    let machine = Machine::new(256);
    machine.load(&bzimage(), None, &"x".repeat(2047)).unwrap();
    let error = machine.load(&bzimage(), None, &"x".repeat(2048)).unwrap_err();
    assert!(matches!(error, LoadError::CommandLine { length: 2048, most: 2047, .. }), "{error}");
    let error = machine.load(&bzimage(), None, "a\0b").unwrap_err();
    assert!(matches!(error, LoadError::CommandLineZero { position: 1 }), "{error}");
}

#[test]
fn a_cut_bzimage_is_refused_with_the_field_that_lies() {
    let machine = Machine::new(256);
    let kernel = bzimage();
    let error = machine.load(&kernel[..0x2000], None, "").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Linux bzImage: syssize is 0x300, allowed is at most 0x1c0: the file is cut short"
    );
    let error = machine.load(&kernel[..0x300], None, "").unwrap_err();
    assert!(matches!(error, LoadError::Field { field: "setup_sects", .. }), "{error}");
}

#[test]
fn a_pvh_kernel_starts_at_its_note_with_start_info() {
    let machine = Machine::new(4096);
    let loaded = machine.load(&pvh_elf(), Some(b"disk"), "quiet").unwrap();
    assert_eq!(loaded.kind, ImageKind::Pvh);
    let (registers, system) = state(&loaded);
    assert_eq!((registers.rip, system.cr0, system.cr4), (0x100_0010, 0x11, 0));
    let info = registers.rbx;
    assert_eq!(machine.u32(info), 0x336e_c578);
    assert_eq!(machine.u32(info + 4), 1);
    assert_eq!(machine.text(machine.u64(info + 24)), "quiet");
    assert_eq!(machine.u64(info + 32), 0xe_0000);
    let module = machine.u64(info + 16);
    assert_eq!(machine.u32(info + 12), 1);
    assert_eq!(machine.bytes(machine.u64(module), 4), b"disk");
    assert_eq!(machine.u64(module + 8), 4);
    let (table, entries) = (machine.u64(info + 40), machine.u32(info + 48));
    let last = table + u64::from(entries - 1) * 24;
    assert_eq!(machine.u64(last), 1 << 32);
    assert_eq!(machine.u64(last + 8), 2 << 30);
    assert_eq!(machine.bytes(0x100_0000, 0x100), [0xf4; 0x100]);
}

#[test]
fn an_elf_clears_memory_behind_its_file_contents() {
    let machine = Machine::new(64);
    vm_memory::Bytes::write_slice(
        &machine.memory,
        &[0xff; 0x1000],
        vm_memory::GuestAddress(0x100_0000),
    )
    .unwrap();
    machine.load(&pvh_elf(), None, "").unwrap();
    assert_eq!(machine.bytes(0x100_0100, 0xf00), [0; 0xf00]);
}

#[test]
fn an_elf_without_a_note_is_told_what_is_missing() {
    let mut kernel = pvh_elf();
    kernel[0x1a0] = b'Y';
    let error = Machine::new(64).load(&kernel, None, "").unwrap_err();
    assert!(matches!(error, LoadError::NoEntryNote), "{error}");
}

#[test]
fn a_multiboot_elf_gets_memory_command_line_and_module() {
    let machine = Machine::new(128);
    let loaded = machine.load(&multiboot_elf(), Some(&[7; 9]), "one two").unwrap();
    assert_eq!(loaded.kind, ImageKind::Multiboot);
    let (registers, system) = state(&loaded);
    assert_eq!((registers.rax, registers.rip, system.cr0), (0x2bad_b002, 0x40_0020, 0x11));
    let info = registers.rbx;
    assert_eq!(machine.u32(info), 0x24d);
    assert_eq!((machine.u32(info + 4), machine.u32(info + 8)), (639, 127 << 10));
    assert_eq!(machine.text(machine.u32(info + 16).into()), "a_kernel one two");
    assert_eq!(machine.u32(info + 20), 1);
    let module = u64::from(machine.u32(info + 24));
    let (start, end) = (machine.u32(module), machine.u32(module + 4));
    assert_eq!((start % 4096, end - start), (0, 9));
    assert_eq!(machine.bytes(start.into(), 9), [7; 9]);
    assert_eq!(machine.text(machine.u32(module + 8).into()), "module.img");
    let (length, map) = (machine.u32(info + 44), u64::from(machine.u32(info + 48)));
    assert_eq!(length % 24, 0);
    assert_eq!((machine.u32(map), machine.u64(map + 4), machine.u32(map + 20)), (20, 0, 1));
}

#[test]
fn a_flat_multiboot_kernel_is_placed_by_its_header() {
    let machine = Machine::new(16);
    let (registers, _) = state(&machine.load(&multiboot_flat(), None, "").unwrap());
    assert_eq!(registers.rip, 0x10_0080);
    assert_eq!(machine.u32(0x10_0040), 0x1bad_b002);
    assert_eq!(machine.bytes(0x10_0800, 0x1800), [0; 0x1800]);
}

#[test]
fn multiboot_requirements_not_understood_are_refused() {
    let mut kernel = multiboot_flat();
    multiboot_header(&mut kernel, 0x40, 1 << 16 | 1 << 5, &[]);
    let error = Machine::new(16).load(&kernel, None, "").unwrap_err();
    assert!(matches!(error, LoadError::Field { field: "flags", value: 0x1_0020, .. }), "{error}");
}

#[test]
fn a_tiny_guest_with_a_multiboot_header_is_a_tiny_guest() {
    let mut image = tiny();
    image.resize(0x100, 0x90);
    multiboot_header(&mut image, 0x40, 0, &[]);
    let loaded = Machine::new(2).load(&image, None, "").unwrap();
    assert_eq!(loaded.kind, ImageKind::Tiny);
}

#[test]
fn a_tiny_guest_starts_in_real_mode() {
    let machine = Machine::new(2);
    let (registers, system) = state(&machine.load(&tiny(), None, "").unwrap());
    assert_eq!((registers.rip, registers.rsp, system.cs.base), (0x7c00, 0x7c00, 0));
    assert_eq!(machine.bytes(0x7c00, 2), [0xeb, 10]);
    let too_long = [&tiny()[..], &[0; 0x98_001]].concat();
    let error = machine.load(&too_long, None, "").unwrap_err();
    assert!(matches!(error, LoadError::Field { field: "file size", .. }), "{error}");
}

#[test]
fn what_is_no_kernel_is_shown() {
    let machine = Machine::new(16);
    let error = machine.load(b"#!/bin/sh\n", None, "").unwrap_err().to_string();
    assert!(error.starts_with("not a kernel: first bytes are 23 21 2f 62 69 6e 2f 73"), "{error}");
    let error = machine.load(&[], None, "").unwrap_err().to_string();
    assert!(error.contains("the file is empty"), "{error}");
}
