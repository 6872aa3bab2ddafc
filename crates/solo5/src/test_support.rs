//! Unikernels of a manifest and machine code, for tests.

use crate::abi::{GUEST_BASE, NOTE_ABI, NOTE_MANIFEST, NOTE_OWNER, TARGET_HVT};
use crate::manifest::{EntryKind, Manifest};
use alloc::vec;
use alloc::vec::Vec;

/// A unikernel that declares `devices` and starts with the first byte of `code`, which lies at
/// 0x100000, followed by a page of zeros it can write, at 0x102000. `code` has at most a page.
#[must_use]
pub fn unikernel(version: u32, devices: &[(&str, EntryKind)], code: &[u8]) -> Vec<u8> {
    let abi = [TARGET_HVT, version, 0, 0];
    let abi: Vec<u8> = abi.into_iter().flat_map(u32::to_le_bytes).collect();
    let mut manifest = vec![0; 4];
    manifest.extend(Manifest::unattached(devices));
    let notes = [note(NOTE_ABI, &abi), note(NOTE_MANIFEST, &manifest)];
    const NOTES_AT: u64 = 0x1000;
    const CODE_AT: u64 = 0x3000;
    let mut file = vec![0; CODE_AT as usize];
    file.extend_from_slice(code);
    file[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(20, &1u32.to_le_bytes());
    put(24, &GUEST_BASE.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    for (at, value) in [(52, 64u16), (54, 56), (56, 4)] {
        put(at, &value.to_le_bytes());
    }
    let second = NOTES_AT + notes[0].len() as u64;
    let (sizes, code) = (notes.each_ref().map(|n| n.len() as u64), code.len() as u64);
    let headers = [
        (4u32, 4u32, NOTES_AT, NOTES_AT, sizes[0], sizes[0], 4u64),
        (4, 4, second, second, sizes[1], sizes[1], 4),
        (1, 5, CODE_AT, GUEST_BASE, code, code, 0x1000),
        (1, 6, CODE_AT, GUEST_BASE + 0x2000, 0, 0x1000, 0x1000),
    ];
    for (index, (kind, flags, offset, address, size, memory, align)) in
        headers.into_iter().enumerate()
    {
        let mut header: Vec<u8> = [kind, flags].into_iter().flat_map(u32::to_le_bytes).collect();
        let longs = [offset, address, address, size, memory, align];
        header.extend(longs.into_iter().flat_map(u64::to_le_bytes));
        put(64 + index * 56, &header);
    }
    put(NOTES_AT as usize, &notes[0]);
    put(second as usize, &notes[1]);
    file
}

fn note(kind: u32, description: &[u8]) -> Vec<u8> {
    let words = [NOTE_OWNER.len() as u32, description.len() as u32, kind];
    let mut note: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    note.extend_from_slice(NOTE_OWNER);
    note.extend_from_slice(&[0; 2]);
    note.extend_from_slice(description);
    note
}
