//! A guest that attacks the core, and an innocent one beside it. The command line says which: names of
//! attacks (`attacks::ALL`), which run in that order, or `innocent`. A Multiboot kernel for a virtual
//! machine with 16 MiB and one or two processors.
//!
//! `unsafe` everywhere: the guest owns its machine.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

mod attacks;
mod innocent;
mod machine;
mod second;
mod traps;

use core::arch::global_asm;
use core::panic::PanicInfo;
use machine::{Chance, exit, fail, say};

global_asm!(include_str!("entry.s"), options(att_syntax));

/// Multiboot information (3.3): flags at 0, command line at 16 with flag 2.
const COMMAND_LINE_FLAG: u32 = 1 << 2;

fn command_line(information: u64) -> &'static str {
    // SAFETY: the loader made the structure, below 4 GiB.
    unsafe {
        let word = |offset: u64| ((information + offset) as *const u32).read_unaligned();
        if word(0) & COMMAND_LINE_FLAG == 0 {
            return "";
        }
        let start = u64::from(word(16)) as *const u8;
        let mut length = 0;
        while *start.add(length) != 0 {
            length += 1;
        }
        core::str::from_utf8(core::slice::from_raw_parts(start, length)).unwrap_or("")
    }
}

#[unsafe(no_mangle)]
extern "C" fn hostile_main(information: u64) -> ! {
    traps::load(0);
    // The first word is the kernel's own name.
    let words = command_line(information).split_ascii_whitespace().skip(1);
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for word in words {
        if word == "innocent" {
            innocent::run();
        }
        let Some((name, attack)) = attacks::ALL.iter().find(|(name, _)| *name == word) else {
            fail!("there is no attack {word}");
        };
        say!("{name}: begins");
        attack(&mut chance);
    }
    say!("hostile: done");
    exit(0)
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    fail!("{information}")
}
