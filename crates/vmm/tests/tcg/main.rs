//! Engine `tcg` with the real QEMU: what a user sees of a VM. Says so loudly where there is none.

mod guests;
mod linux;
mod screen;
mod vm;

use guests::{
    DEBUG, HALT, RESET, SERIAL, TRIPLE_FAULT, WAIT_FOR_A_BYTE, debug_exit, multiboot,
    multiboot_teller, print, pvh,
};
use std::path::Path;
use units::Bytes;
use vm::{Vm, build, has_qemu};
use vm_control::Ending;

#[test]
fn a_debug_exit_ends_the_vm_with_the_guests_value_and_all_it_said() {
    if !has_qemu() {
        return;
    }
    // As on engine kvm, the first byte counts, all of it.
    for (value, code) in [(0, 0), (1, 1), (127, 127), (200, 200), (0x1234_56ff, 255)] {
        let program = [print(SERIAL, "serial\n"), print(DEBUG, "debug\n"), debug_exit(value)];
        let mut vm = Vm::with_kernel(&multiboot(&program.concat()), true);
        vm.life.start().unwrap();
        assert_eq!(vm.wait_for_end(), Ending::DebugExit { code });
        vm.life.quit().unwrap();
        vm.listen();
        let text = vm.text();
        // Two lines to the host, so what comes over one may stand inside what comes over the other.
        for words in ["serial\n", "debug\n"] {
            let mut rest = text.chars();
            assert!(words.chars().all(|char| rest.any(|it| it == char)), "{text}");
        }
    }
}

#[test]
fn pvh_and_multiboot_kernels_get_their_command_line_and_their_module() {
    if !has_qemu() {
        return;
    }
    for kernel in [pvh(), multiboot_teller()] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), kernel).unwrap();
        // A comma separates modules on QEMU's command line.
        std::fs::write(folder.path().join("a,module"), "of the module").unwrap();
        let text = "cpus = 1\n[boot]\nkernel = \"{folder}/kernel\"\n\
                    initrd = \"{folder}/a,module\"\nappend = \"one, two\"\n";
        let mut vm = Vm::new(text, true, folder);
        vm.life.start().unwrap();
        assert_eq!(vm.wait_for_end(), Ending::DebugExit { code: 42 });
        vm.life.quit().unwrap();
        vm.listen();
        let text = vm.text();
        assert!(text.ends_with("one, two\nof the module"), "{text}");
    }
}

#[test]
fn a_guest_that_looks_for_the_power_button_finds_it_pressed() {
    if !has_qemu() {
        return;
    }
    let code = [
        // PM1 enable: the power button (ACPI 4.8.3.1.2).
        &[0x66, 0xba, 0x02, 0x06, 0x66, 0xb8, 0x00, 0x01, 0x66, 0xef][..],
        &print(SERIAL, "up\n"),
        // mov dx, 0x600; in ax, dx; test ah, 1; jz back: PM1 status, PWRBTN_STS
        &[0x66, 0xba, 0x00, 0x06],
        &[0x66, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf9],
        &print(SERIAL, "bye\n"),
        // mov dx, 0x604; mov ax, 0x2000; out dx, ax: PM1 control, SLP_TYP 0, SLP_EN
        &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef],
        &HALT,
    ];
    let mut vm = Vm::with_kernel(&multiboot(&code.concat()), false);
    vm.life.start().unwrap();
    vm.wait_for("up", 1);
    vm.life.press_power_button().unwrap();
    assert_eq!(vm.wait_for_end(), Ending::PoweredOff);
    assert!(vm.text().contains("bye"), "{}", vm.text());
}

#[test]
fn nothing_runs_before_the_start_and_nothing_while_paused() {
    if !has_qemu() {
        return;
    }
    // Prints for ever.
    let mut code = print(SERIAL, "tick\n");
    let back = u8::try_from(code.len() + 2).unwrap().wrapping_neg();
    code.extend([0xeb, back]);
    let mut vm = Vm::with_kernel(&multiboot(&code), false);
    assert!(vm.life.pause().is_err());
    vm.listen();
    assert_eq!(vm.text(), "");
    vm.life.start().unwrap();
    vm.wait_for("tick", 3);
    vm.life.pause().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    vm.listen();
    let paused = vm.said.len();
    std::thread::sleep(std::time::Duration::from_millis(200));
    vm.listen();
    assert_eq!(vm.said.len(), paused);
    let before = vm.text().matches("tick").count();
    vm.life.resume().unwrap();
    vm.wait_for("tick", before + 3);
    let statistics = vm.life.machine().statistics().unwrap();
    assert_eq!(statistics.processors.len(), 1);
    assert!(statistics.processors[0].contains_key("user_milliseconds"));
    let tree = vm.life.machine().inspect().unwrap();
    assert_eq!(tree["status"]["status"], "running");
    vm.life.quit().unwrap();
    assert_eq!(vm.ending.get(), None);
}

#[test]
fn the_reset_button_starts_over_even_where_the_guests_own_reset_ends_the_vm() {
    if !has_qemu() {
        return;
    }
    let code = [&print(SERIAL, "up\n")[..], &WAIT_FOR_A_BYTE, &RESET].concat();
    let mut vm = Vm::with_kernel(&multiboot(&code), true);
    vm.life.start().unwrap();
    vm.wait_for("up", 1);
    vm.life.reset().unwrap();
    vm.wait_for("up", 2);
    vm.life.pause().unwrap();
    vm.life.reset().unwrap();
    vm.life.resume().unwrap();
    vm.wait_for("up", 3);
    vm.console.offer_input(b"x");
    assert_eq!(vm.wait_for_end(), Ending::Reset);
}

#[test]
fn a_reset_by_the_guest_and_a_triple_fault_are_told_apart() {
    if !has_qemu() {
        return;
    }
    let mut vm = Vm::with_kernel(&multiboot(&RESET), true);
    vm.life.start().unwrap();
    assert_eq!(vm.wait_for_end(), Ending::Reset);
    for end_on_reset in [true, false] {
        let mut vm = Vm::with_kernel(&multiboot(&TRIPLE_FAULT), end_on_reset);
        vm.life.start().unwrap();
        assert_eq!(vm.wait_for_end(), Ending::TripleFault);
    }
}

#[test]
fn what_is_typed_reaches_the_guest() {
    if !has_qemu() {
        return;
    }
    // Says what it got twice: in al, dx; out dx, al; out dx, al
    let code = [&WAIT_FOR_A_BYTE[..], &[0xec, 0xee, 0xee], &HALT].concat();
    let mut vm = Vm::with_kernel(&multiboot(&code), false);
    vm.life.start().unwrap();
    assert_eq!(vm.console.offer_input(b"x"), 1);
    vm.wait_for("xx", 1);
}

#[test]
fn a_qemu_that_is_killed_fails_the_vm_with_the_reason() {
    if !has_qemu() {
        return;
    }
    let mut vm = Vm::with_kernel(&multiboot(&HALT), false);
    vm.life.start().unwrap();
    let needle = vm.folder.path().join("kernel");
    let pid = child_with(needle.to_str().unwrap()).expect("QEMU runs");
    rustix::process::kill_process(pid, rustix::process::Signal::SEGV).unwrap();
    let Ending::Failed { message } = vm.wait_for_end() else {
        panic!("{:?}", vm.ending.get());
    };
    assert!(message.contains("killed by signal 11"), "{message}");
    assert!(vm.life.pause().is_err());
}

/// The child of this process with `needle` among its arguments.
fn child_with(needle: &str) -> Option<rustix::process::Pid> {
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let folder = entry.path();
        let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let is_child = fields.split_whitespace().nth(1) == Some(&own);
        if is_child && String::from_utf8_lossy(&line).contains(needle) {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            return rustix::process::Pid::from_raw(pid);
        }
    }
    None
}

#[test]
fn what_cannot_be_built_says_what_is_wrong() {
    if !has_qemu() {
        return;
    }
    let refused = |text: &str, prepare: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        match build(text, false, folder) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("built: {text}"),
        }
    };
    let kernel = "cpus = 1\n[boot]\nkernel = \"{folder}/kernel\"\n";
    assert!(refused(kernel, &|_| {}).contains("No such file"));
    let text = refused(kernel, &|folder| {
        std::fs::write(folder.join("kernel"), "just text").unwrap();
    });
    assert!(text.contains("boot.kernel"), "{text}");
    let tiny = refused(kernel, &|folder| {
        let jump = [0xeb, 0x0a, 0x90, 0x90];
        let image = [&jump[..], &loader::tiny::MAGIC, &[0; 512]].concat();
        std::fs::write(folder.join("kernel"), image).unwrap();
    });
    assert!(tiny.contains("--engine kvm"), "{tiny}");
    let module = refused(
        "cpus = 1\n[boot]\nkernel = \"{folder}/kernel\"\ninitrd = \"{folder}/a module\"\n",
        &|folder| {
            std::fs::write(folder.join("kernel"), multiboot_teller()).unwrap();
            std::fs::write(folder.join("a module"), "").unwrap();
        },
    );
    assert!(module.contains("boot.initrd") && module.contains("space"), "{module}");
    let disk = "cpus = 1\n[[disk]]\npath = \"{folder}/disk\"\nformat = \"qcow2\"\n";
    let broken = refused(disk, &|folder| {
        std::fs::write(folder.join("disk"), vec![7; 70_000]).unwrap();
    });
    assert!(broken.starts_with("disk[0].path = /"), "{broken}");
    let slash = "cpus = 1\n[[net]]\nmode = \"tap\"\ninterface = \"tap%d\"\n";
    let tap = refused(&format!("{slash}[boot]\nkernel = \"{{folder}}/kernel\"\n"), &|folder| {
        std::fs::write(folder.join("kernel"), multiboot(&HALT)).unwrap();
    });
    assert!(tap.starts_with("net[0].interface = tap%d: "), "{tap}");
}

#[test]
fn a_balloon_target_out_of_range_is_refused() {
    if !has_qemu() {
        return;
    }
    let vm = Vm::with_kernel(&multiboot(&HALT), false);
    vm.life.start().unwrap();
    vm.life.set_balloon(Bytes::mib(32)).unwrap();
    for target in [Bytes::mib(65), Bytes(u64::MAX)] {
        let message = vm.life.set_balloon(target).unwrap_err().to_string();
        assert!(message.contains("balloon target"), "{message}");
    }
}

#[test]
fn without_a_kernel_firmware_starts_and_keeps_its_variables() {
    if !has_qemu() {
        return;
    }
    if engine::discovery::system_firmware().is_none() {
        eprintln!("SKIPPED: no OVMF is installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("disk"), vec![0; 1 << 20]).unwrap();
    let disk = "cpus = 1\n[[disk]]\npath = \"{folder}/disk\"\nformat = \"raw\"\n";
    let mut vm = Vm::new(disk, false, folder);
    vm.life.start().unwrap();
    // The boot device selection looks at the disk and finds nothing to start.
    vm.wait_for("BdsDxe: failed to load", 1);
    let statistics = vm.life.machine().statistics().unwrap();
    assert!(statistics.devices["block0"]["requests"] > 0);
    vm.life.quit().unwrap();
    assert!(vm.folder.path().join("nvram.fd").is_file());
}

#[test]
fn two_vms_cannot_write_to_one_disk() {
    if !has_qemu() {
        return;
    }
    let first = tempfile::tempdir().unwrap();
    let path = first.path().join("disk");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    std::fs::write(first.path().join("kernel"), multiboot(&HALT)).unwrap();
    let text = format!(
        "cpus = 1\n[boot]\nkernel = {:?}\n[[disk]]\npath = {path:?}\nformat = \"raw\"\n",
        first.path().join("kernel")
    );
    let vm = Vm::new(&text, false, first);
    vm.life.start().unwrap();
    let refused = build(&text, false, tempfile::tempdir().unwrap());
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("lock") || message.contains("in use"), "{message}");
}
