//! The Intel machine: Bochs, which boots a disc through its own BIOS and GRUB.
//!
//! Debian's Bochs is the debugger's build: it wants a command file that says `c`, continue, and after
//! a panic `q`, quit. It does not end on SIGTERM.

use super::{Machine, iso, not_in_bochs};
use crate::failure::{Context, Result};
use crate::process::{Step, tail};
use std::fmt::Write as _;
use std::path::Path;

/// Has VMX with EPT, VPID, unrestricted guests and the preemption timer, and an x2APIC. Bochs' newer
/// models say things that are not so: a TSC frequency of their real kin (CPUID 0x15), and a size of 0
/// for the state of protection keys (CPUID 0xd), on which Linux stumbles.
const MODEL: &str = "corei7_haswell_4770";
/// Instructions per second of the machine's own time, its TSC's frequency too. The BIOS and kernels
/// wait by time: a higher number makes them wait for more instructions.
const INSTRUCTIONS_PER_SECOND: u32 = 20_000_000;
/// Bochs' BIOS and VGA BIOS (Debian packages bochsbios and vgabios).
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// The command that runs it.
pub(super) fn step(machine: &Machine, folder: &Path, console: &Path) -> Result<Step> {
    not_in_bochs(machine)?;
    let disc = iso::make(machine, folder)?;
    let configuration = folder.join("bochsrc");
    let text = configuration_text(machine, &disc, console, &folder.join("bochs.log"));
    std::fs::write(&configuration, text)
        .context(|| format!("write {}", configuration.display()))?;
    let commands = folder.join("debugger");
    std::fs::write(&commands, "c\nq\n").context(|| format!("write {}", commands.display()))?;
    Ok(Step::new("bochs")
        .arguments(["-q", "-f"])
        .argument(configuration)
        .argument("-rc")
        .argument(commands)
        .within(folder)
        .stubborn())
}

/// bochsrc(5). The display `term` makes a terminal of its own and opens no port.
fn configuration_text(machine: &Machine, disc: &Path, console: &Path, log: &Path) -> String {
    let mut text = String::new();
    for line in [
        format!(
            "cpu: model={}, count={}, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0, ignore_bad_msrs={}",
            machine.cpu.as_deref().unwrap_or(MODEL),
            machine.cpus,
            u8::from(machine.lenient)
        ),
        format!("megs: {}", machine.memory),
        format!("romimage: file={BIOS}"),
        format!("vgaromimage: file={VGA_BIOS}"),
        format!("ata0-master: type=cdrom, path=\"{}\", status=inserted", disc.display()),
        "boot: cdrom".to_owned(),
        "display_library: term".to_owned(),
        format!("com1: enabled=1, mode=file, dev=\"{}\"", console.display()),
        format!("log: \"{}\"", log.display()),
        "panic: action=fatal".to_owned(),
        "error: action=report".to_owned(),
        "info: action=report".to_owned(),
        "debug: action=ignore".to_owned(),
        // Time is instructions: runs repeat and do not wait.
        "clock: sync=none".to_owned(),
        "port_e9_hack: enabled=0".to_owned(),
        "speaker: enabled=0".to_owned(),
    ] {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// What it logged last: after a panic, a triple fault for instance, its reason and the registers.
pub(super) fn last_words(folder: &Path) -> String {
    let log = folder.join("bochs.log");
    let bytes = std::fs::read(&log).unwrap_or_default();
    match panic(&String::from_utf8_lossy(&bytes)) {
        Some(words) => words,
        None => format!("{}\n{}", tail(&log, 6), tail(&folder.join("emulator.log"), 6)),
    }
}

/// The first panic's line and the general registers after it.
fn panic(log: &str) -> Option<String> {
    let mut lines = log
        .lines()
        .skip_while(|line| !line.contains(">>PANIC<<"))
        .map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest));
    let first = lines.next()?.to_owned();
    let registers = lines.filter(|line| {
        ["RAX", "RSP", "RSI", "R8=", "R10", "R12", "R14", "RIP", "CR0", "CR3"]
            .iter()
            .any(|name| line.contains(name))
    });
    Some(std::iter::once(first.as_str()).chain(registers).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::panic;

    #[test]
    fn a_panic_is_told_with_its_registers() {
        let log = "001i[CPU0  ] CR0=1\n002p[CPU0  ] >>PANIC<< 3rd (13) exception\n\
                   002i[CPU0  ] CPU is in long mode\n002i[CPU0  ] | RAX=1  RBX=2\n002i[SIM   ] quit\n";
        let words = panic(log).expect("there is one");
        assert_eq!(words, ">>PANIC<< 3rd (13) exception\n| RAX=1  RBX=2");
        assert_eq!(panic("001i[CPU0  ] fine"), None);
    }
}
