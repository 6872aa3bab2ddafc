//! Prints what it was told, and ends with the status its command line asks for (`status=N`).
#![no_std]
#![no_main]

use unikernels::{ABI, Abi, BootInfo, Entry, Manifest, halt, manifest, say, walltime};

#[used]
#[unsafe(link_section = ".note.solo5.abi")]
static ABI_NOTE: Abi = ABI;

#[used]
#[unsafe(link_section = ".note.solo5.manifest")]
static MANIFEST: Manifest<1> = manifest([Entry::RESERVED]);

#[unsafe(no_mangle)]
extern "C" fn _start(boot: &'static BootInfo) -> ! {
    say!("Hello from a unikernel.");
    say!("command line: {}", boot.command_line());
    say!("memory: {} MiB", boot.memory >> 20);
    let second = 1_000_000_000;
    // 365.2425 days.
    say!("year: {}", 1970 + walltime() / second / 31_556_952);
    if boot.tsc_hertz == 0 || boot.kernel_end <= 0x10_0000 {
        say!("the boot information lacks something");
        halt(1);
    }
    let status =
        boot.command_line().split(' ').find_map(|word| word.strip_prefix("status=")?.parse().ok());
    halt(status.unwrap_or(0))
}
