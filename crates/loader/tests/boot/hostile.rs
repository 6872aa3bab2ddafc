//! Kernel files that lie: any field may hold anything, and the answer is an error or a start state
//! inside RAM, never a panic and never an allocation by a size the file claims.

use crate::samples::*;
use loader::{EntryPoint, ImageKind};

/// xorshift64 (Marsaglia 2003): the same files on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Values at which comparisons and additions turn.
const EDGES: [u64; 8] =
    [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x10_0000, u64::MAX, 0x7fff_ffff_ffff_ffff];

fn attack(kernel: &[u8], headers: &[(usize, usize)], kind: ImageKind, rounds: u32) {
    let machine = Machine::new(24);
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..rounds {
        let mut image = kernel.to_vec();
        for _ in 0..=random.next() % 3 {
            let (from, to) = headers[usize::try_from(random.next()).unwrap() % headers.len()];
            let at = from + usize::try_from(random.next()).unwrap() % (to - from);
            let edge = EDGES[usize::try_from(random.next() % 8).unwrap()];
            let value = if random.next().is_multiple_of(2) { edge } else { random.next() };
            let width = [1, 2, 4, 8][usize::try_from(random.next() % 4).unwrap()];
            let width = width.min(image.len() - at);
            put(&mut image, at, &value.to_le_bytes()[..width]);
        }
        if random.next().is_multiple_of(8) {
            image.truncate(usize::try_from(random.next()).unwrap() % image.len());
        }
        match machine.load(&image, Some(b"initrd"), "line") {
            Ok(result) => {
                let EntryPoint::State { registers, .. } = result.entry else { panic!() };
                let low = if result.kind == ImageKind::Tiny { 0x7c00 } else { 0x10_0000 };
                assert!((low..24 << 20).contains(&registers.rip), "{:#x}", registers.rip);
                loaded += u32::from(result.kind == kind);
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(loaded > 0 && refused > 0, "{kind:?}: {loaded} loaded, {refused} refused");
}

#[test]
fn bzimages() {
    attack(&bzimage(), &[(0x1f1, 0x26c)], ImageKind::Linux, 3000);
}

#[test]
fn pvh_kernels() {
    attack(&pvh_elf(), &[(4, 0x40), (0x40, 0xb0), (0x180, 0x1a8)], ImageKind::Pvh, 3000);
}

#[test]
fn multiboot_elf_kernels() {
    attack(&multiboot_elf(), &[(4, 0x54), (0x200, 0x20c)], ImageKind::Multiboot, 3000);
}

#[test]
fn multiboot_flat_kernels() {
    attack(&multiboot_flat(), &[(0x4c, 0x60)], ImageKind::Multiboot, 3000);
}

#[test]
fn tiny_guests() {
    attack(&tiny(), &[(0, 13)], ImageKind::Tiny, 500);
}
