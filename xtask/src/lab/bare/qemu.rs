//! The AMD machine: QEMU's q35 with its software CPU.

use super::{Machine, iso};
use crate::failure::{Failure, Result};
use crate::process::Step;
use std::path::Path;

/// All the software CPU has.
const CPU: &str = "max";
/// The same for counted instructions: QEMU 10 ends with "Bad icount read" when a write to an MSR
/// starts the local APIC's timer, so programs must find the memory-mapped one.
const CPU_COUNTED: &str = "max,-x2apic";

/// The command that runs it, with the files of its first serial line and of its virtio console.
pub(super) fn step(
    machine: &Machine,
    folder: &Path,
    serial: &Path,
    terminal: &Path,
) -> Result<Step> {
    let own = if machine.icount { CPU_COUNTED } else { CPU };
    let model = machine.cpu.as_deref().unwrap_or(own);
    let mut step = Step::new("qemu-system-x86_64")
        .arguments([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "q35",
            "-cpu",
            model,
        ])
        .arguments(["-smp", &machine.cpus.to_string()])
        .arguments(["-m", &machine.memory.to_string()])
        .arguments(["-serial", &format!("file:{}", serial.display())])
        .arguments(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    step = if machine.disc {
        let disc = iso::make(machine, folder)?;
        step.argument("-cdrom").argument(disc)
    } else {
        let [module] = &machine.modules[..] else {
            return Err(Failure::new("QEMU's -kernel takes one module: boot from a disc"));
        };
        step.argument("-kernel")
            .argument(&machine.image)
            .argument("-initrd")
            .argument(&module.path)
            .arguments(["-append", &machine.command_line])
    };
    if let Some(disk) = &machine.disk {
        step = step
            .argument("-drive")
            .argument(format!("if=none,id=disk,format=raw,snapshot=on,file={}", disk.display()))
            .arguments(["-device", "virtio-blk-pci,drive=disk"]);
    }
    if machine.net {
        step = step.arguments(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"]);
    }
    if machine.terminal {
        step = step
            .arguments(["-device", "virtio-serial-pci,disable-legacy=on", "-chardev"])
            .argument(format!("file,id=terminal,path={}", terminal.display()))
            .arguments(["-device", "virtconsole,chardev=terminal"]);
    }
    Ok(if machine.icount {
        step.arguments(["-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0,sleep=off"])
    } else {
        step.arguments(["-accel", "tcg,thread=multi,tb-size=512"])
    })
}
