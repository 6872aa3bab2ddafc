//! Engine `tcg` with the real QEMU: what a user sees of a VM. Says so loudly where there is none.

use definition::EngineChoice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use units::Bytes;
use vm_control::{Ending, LaunchSpec};
use vmm::tcg::TcgMachine;
use vmm::{Console, EndingSlot, LifeCycle, MachineError, Surroundings};

struct Vm {
    life: LifeCycle,
    console: Arc<Console>,
    ending: Arc<EndingSlot>,
    said: Vec<u8>,
    folder: TempDir,
}

fn has_qemu() -> bool {
    let there = engine::discovery::program_path("qemu-system-x86_64").is_some();
    if !there {
        eprintln!("SKIPPED: qemu-system-x86_64 is not installed");
    }
    there
}

/// Builds the VM of a definition in which `{folder}` stands for a folder of its own.
fn build(text: &str, end_on_reset: bool, folder: TempDir) -> Result<Vm, MachineError> {
    let text = text.replace("{folder}", folder.path().to_str().unwrap());
    let definition = definition::parse(&format!("name = \"t\"\nmemory = 128\n{text}")).unwrap();
    let spec = LaunchSpec {
        version: vm_control::VERSION,
        definition,
        engine: EngineChoice::Tcg,
        runtime: folder.path().to_owned(),
        state: folder.path().to_owned(),
        foreground: false,
        timeout: None,
    };
    let console = Arc::new(Console::new(&folder.path().join("console.log"))?);
    let ending = Arc::new(EndingSlot::new()?);
    let surroundings = Surroundings {
        console: Arc::clone(&console),
        virtio_console: Arc::new(Console::new(&folder.path().join("hvc0.log"))?),
        ending: Arc::clone(&ending),
        end_on_reset,
    };
    let machine = TcgMachine::new(&spec, &surroundings)?;
    Ok(Vm {
        life: LifeCycle::new(Box::new(machine), Arc::clone(&ending)),
        console,
        ending,
        said: Vec::new(),
        folder,
    })
}

impl Vm {
    fn new(text: &str, end_on_reset: bool, folder: TempDir) -> Self {
        build(text, end_on_reset, folder).unwrap()
    }

    /// A VM that boots `kernel` from its own folder.
    fn with_kernel(kernel: &[u8], end_on_reset: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), kernel).unwrap();
        let text = "cpus = 1\n[boot]\nkernel = \"{folder}/kernel\"\n";
        Self::new(text, end_on_reset, folder)
    }

    fn listen(&mut self) {
        self.said.extend(self.console.drain().output);
    }

    /// Waits until the guest has said `words` `times` times.
    fn wait_for(&mut self, words: &str, times: usize) {
        loop {
            self.listen();
            let text = String::from_utf8_lossy(&self.said);
            if text.matches(words).count() >= times {
                return;
            }
            assert_eq!(self.ending.get(), None, "ended, having said {text:?}");
            wait(&[self.console.as_fd(), self.ending.as_fd()]);
        }
    }

    fn wait_for_end(&mut self) -> Ending {
        wait(&[self.ending.as_fd()]);
        self.listen();
        self.ending.get().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }
}

fn wait(what: &[BorrowedFd<'_>]) {
    let mut watched: Vec<_> = what
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    // Only so that a guest that is stuck fails the test instead of holding up the rest.
    let patience = Timespec {
        tv_sec: 300,
        tv_nsec: 0,
    };
    assert_ne!(
        poll(&mut watched, Some(&patience)).unwrap(),
        0,
        "the guest is stuck"
    );
}

/// A Multiboot kernel (version 0.6.96, with the address fields) that runs `code` at 1 MiB + 32.
fn multiboot(code: &[u8]) -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES: u32 = 1 << 16;
    let end = BASE + 32 + u32::try_from(code.len()).unwrap();
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESSES);
    let header = [MAGIC, ADDRESSES, checksum, BASE, BASE, end, end, BASE + 32];
    let mut kernel: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    kernel.extend(code);
    kernel
}

/// Code that writes `text` to `port`, byte by byte.
fn print(port: u16, text: &str) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    let mut code = vec![0x66, 0xba, low, high]; // mov dx, port
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

const SERIAL: u16 = 0x3f8;
const DEBUG: u16 = 0xe9;
const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd]; // hlt; jmp back

/// Waits until the serial line has a byte; leaves its port in DX.
const WAIT_FOR_A_BYTE: [u8; 13] = [
    0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, 0xa8, 0x01, 0x74, 0xfb, // in al, dx; test al, 1; jz back
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
];

/// mov al, 6; mov dx, 0xcf9; out dx, al (ICH9 13.7.5: full reset); then halt.
const RESET: [u8; 10] = [0xb0, 0x06, 0x66, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd];

/// mov eax, value; out 0xf4, eax; then halt.
fn debug_exit(value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.extend([0xe7, 0xf4]);
    code.extend(HALT);
    code
}

#[test]
fn a_debug_exit_ends_the_vm_with_the_guests_value_and_all_it_said() {
    if !has_qemu() {
        return;
    }
    for value in [0, 1, 42] {
        let code = [
            print(SERIAL, "serial\n"),
            print(DEBUG, "debug\n"),
            debug_exit(value),
        ];
        let mut vm = Vm::with_kernel(&multiboot(&code.concat()), true);
        vm.life.start().unwrap();
        let code = u8::try_from(value).unwrap();
        assert_eq!(vm.wait_for_end(), Ending::DebugExit { code });
        let text = vm.text();
        assert!(
            text.contains("serial\n") && text.contains("debug\n"),
            "{text}"
        );
        vm.life.quit();
    }
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
    vm.life.quit();
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
    let fault = [
        0xbc, 0x00, 0x00, 0x08, 0x00, // mov esp, 0x80000
        0x6a, 0x00, 0x6a, 0x00, // push 0; push 0
        0x0f, 0x01, 0x1c, 0x24, // lidt [esp]: no vectors
        0xcc, // int3
    ];
    for end_on_reset in [true, false] {
        let mut vm = Vm::with_kernel(&multiboot(&fault), end_on_reset);
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
    let disk = "cpus = 1\n[[disk]]\npath = \"{folder}/disk\"\nformat = \"qcow2\"\n";
    let broken = refused(disk, &|folder| {
        std::fs::write(folder.join("disk"), vec![7; 70_000]).unwrap();
    });
    assert!(broken.contains("/disk"), "{broken}");
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
    vm.life.quit();
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
    assert!(
        message.contains("lock") || message.contains("in use"),
        "{message}"
    );
}

/// A Debian kernel and a small initrd with a shell, where `cargo xtask test` has put them.
fn linux() -> Option<(PathBuf, PathBuf)> {
    let kernel = std::env::var_os("MACROHARD_TEST_KERNEL").map(PathBuf::from);
    let initrd = std::env::var_os("MACROHARD_TEST_INITRD").map(PathBuf::from);
    kernel.zip(initrd)
}

#[test]
fn linux_boots_to_its_shell() {
    let Some((kernel, initrd)) = linux() else {
        eprintln!("SKIPPED: MACROHARD_TEST_KERNEL and MACROHARD_TEST_INITRD name no Linux to boot");
        return;
    };
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "cpus = 2\n[boot]\nkernel = {kernel:?}\ninitrd = {initrd:?}\n\
         append = \"console=ttyS0 quiet\"\n"
    );
    let mut vm = Vm::new(&text, true, folder);
    vm.life.start().unwrap();
    vm.wait_for("# ", 1);
    vm.console.offer_input(b"echo done-$((6*7))\n");
    vm.wait_for("done-42", 1);
    vm.life.quit();
}
