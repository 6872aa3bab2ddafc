//! A real Linux: Debian's kernel and the lab's initial RAM disk, where `cargo xtask test` has put
//! them. It has busybox, the drivers of every device in `/modules`, and `lab-tool`.

use crate::vm::{Vm, has_qemu};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use vm_control::Ending;

/// Set by `cargo xtask test`.
const KERNEL: &str = "MACROHARD_TEST_KERNEL";
const INITRD: &str = "MACROHARD_TEST_INITRD";

/// Linux at its shell's prompt, with `cards` in its definition; `None` where there is none to boot.
pub(crate) fn booted(cards: &str) -> Option<Vm> {
    let file = |name| std::env::var_os(name).map(PathBuf::from);
    let Some((kernel, initrd)) = file(KERNEL).zip(file(INITRD)) else {
        eprintln!("SKIPPED: {KERNEL} and {INITRD} name no Linux to boot");
        return None;
    };
    if !has_qemu() {
        return None;
    }
    let text = format!(
        "cpus = 2\n[boot]\nkernel = {kernel:?}\ninitrd = {initrd:?}\n\
         append = \"console=ttyS0 quiet rdinit=/bin/sh\"\n{cards}"
    );
    let mut vm = Vm::new(&text, true, tempfile::tempdir().unwrap());
    vm.life.start().unwrap();
    vm.wait_for("# ", 1);
    Some(vm)
}

/// Types `commands` and waits until they are done.
pub(crate) fn enter(vm: &mut Vm, commands: &str) {
    // The echo of what is typed is another word than its result.
    let line = format!("{commands}; echo done-$((6*7))\n");
    let before = vm.text().matches("done-42").count();
    assert_eq!(vm.console.offer_input(line.as_bytes()), line.len());
    vm.wait_for("done-42", before + 1);
}

pub(crate) fn load_drivers(vm: &mut Vm) {
    enter(
        vm,
        "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev",
    );
    enter(vm, "for module in $(cat /modules/order); do insmod /modules/$module 2>/dev/null; done");
}

#[test]
fn linux_boots_to_its_shell() {
    let Some(mut vm) = booted("") else {
        return;
    };
    enter(&mut vm, "echo processors-$(grep -c ^processor /proc/cpuinfo || echo none)");
    vm.life.quit().unwrap();
}

#[test]
fn linux_hears_the_power_button_and_powers_off() {
    let Some(mut vm) = booted("") else {
        return;
    };
    load_drivers(&mut vm);
    let line = b"lab-tool power-button && poweroff -f\n";
    assert_eq!(vm.console.offer_input(line), line.len());
    vm.wait_for("waiting for the power button", 1);
    vm.life.press_power_button().unwrap();
    assert_eq!(vm.wait_for_end(), Ending::PoweredOff);
    let text = vm.text();
    assert!(text.contains("the power button was pressed"), "{text}");
}

#[test]
fn linux_finds_window_memory_and_the_host_sees_what_it_writes_there() {
    let Some(mut vm) = booted("[windows]\nmemory = 64\n") else {
        return;
    };
    load_drivers(&mut vm);
    let memory = vm.life.machine().window_memory().unwrap().file.try_clone_to_owned().unwrap();
    let memory = std::fs::File::from(memory);
    memory.write_all_at(&0x6057_u32.to_le_bytes(), 4096).unwrap();
    enter(
        &mut vm,
        "cd /sys/bus/pci/devices; for device in *; do \
         case $(cat $device/vendor)$(cat $device/device) in 0x1af40x1110) break;; esac; done; \
         echo 1 >$device/enable; start=$(sed -n '3s/ .*//p' $device/resource)",
    );
    enter(&mut vm, "devmem $start 32 0x12345678; echo host-wrote-$(devmem $((start + 4096)) 32)");
    let text = vm.text();
    assert!(text.contains("host-wrote-0x00006057"), "{text}");
    let mut word = [0; 4];
    memory.read_exact_at(&mut word, 0).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0x1234_5678, "{text}");
    assert_eq!(memory.metadata().unwrap().len(), 64 << 20);
    vm.life.quit().unwrap();
}

/// Set where this program runs in a network of its own.
const OWN_NETWORK: &str = "TCG_TEST_OWN_NETWORK";

#[test]
fn linux_reaches_the_host_over_a_tap_interface() {
    if std::env::var_os(OWN_NETWORK).is_none() {
        run_in_a_network_of_its_own("linux::linux_reaches_the_host_over_a_tap_interface");
        return;
    }
    for line in ["tuntap add mode tap name tap0", "address add 192.0.2.1/24 dev tap0"] {
        let done = Command::new("ip").args(line.split(' ')).output().unwrap();
        assert!(done.status.success(), "ip {line}: {done:?}");
    }
    let Some(mut vm) = booted("[[net]]\nmode = \"tap\"\ninterface = \"tap0\"\n") else {
        return;
    };
    load_drivers(&mut vm);
    enter(&mut vm, "ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up");
    enter(&mut vm, "ping -c 3 -w 30 192.0.2.1");
    let text = vm.text();
    assert!(text.contains("bytes from 192.0.2.1"), "{text}");
    vm.life.quit().unwrap();
}

fn run_in_a_network_of_its_own(test: &str) {
    let mut command = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        command.arg("--map-root-user");
    }
    let ended = command
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(OWN_NETWORK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    if said.starts_with("unshare: ") {
        eprintln!("SKIPPED: no network of its own here: {said}");
        return;
    }
    eprint!("{said}");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}
