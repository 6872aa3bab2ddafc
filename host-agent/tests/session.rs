//! The CLI session as users were promised, with a real guest in a real VM process on engine kvm.

mod support;

use std::io::{Read, Write};
use std::process::Stdio;
use support::{Desk, GUEST_EXIT, is_alive, kill, kvm, qemu, wait_until};

#[test]
fn create_start_list_console_pause_resume_stop_delete() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.create("my vm");
    assert_eq!(desk.state("my vm"), "created");
    assert!(desk.cli(&["list"]).ok().err.contains("no VM runs"));
    assert!(desk.cli(&["list", "--all"]).ok().out.contains("created"));

    let started = desk.cli(&["start", "my vm"]).ok();
    assert!(started.out.contains("VM \"my vm\" is running"), "{started:?}");
    assert!(started.err.contains("engine kvm"), "{started:?}");
    desk.wait_for_console("my vm", "ready");
    let listed = desk.cli(&["list", "--json"]).ok().json();
    assert_eq!(listed["vms"][0]["name"], "my vm");
    assert_eq!(listed["vms"][0]["state"], "running");
    assert_eq!(listed["vms"][0]["engine"], "kvm");
    assert_eq!(listed["vms"][0]["memory"], 16);

    // The console shows what was printed before, echoes what is typed, and the escape key ends it.
    let mut console = desk
        .prepared(&["console", "my vm"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = console.stdin.take().unwrap();
    let mut screen = console.stdout.take().unwrap();
    keyboard.write_all(b"abc").unwrap();
    let mut shown = String::new();
    let mut byte = [0];
    while !(shown.contains("ready") && shown.contains("abc")) {
        assert_eq!(screen.read(&mut byte).unwrap(), 1, "{shown:?}");
        shown.push(byte[0].into());
    }
    keyboard.write_all(b"\x1d").unwrap();
    assert!(console.wait().unwrap().success());
    assert_eq!(desk.state("my vm"), "running");

    let stats = desk.cli(&["stats", "my vm", "--json"]).ok().json();
    assert!(stats["processors"][0]["port_write"].as_u64() > Some(0), "{stats}");
    assert!(desk.cli(&["stats", "my vm"]).ok().out.contains("CPU 0"));

    desk.cli(&["pause", "my vm"]).ok();
    assert_eq!(desk.state("my vm"), "paused");
    desk.cli(&["pause", "my vm"])
        .refused(1, &["VM \"my vm\" is paused: cannot pause", "resume it first"]);
    desk.cli(&["stop", "my vm"]).refused(1, &["is paused: cannot stop", "--force"]);
    desk.cli(&["resume", "my vm"]).ok();
    assert_eq!(desk.state("my vm"), "running");
    desk.cli(&["reset", "my vm"]).ok();
    desk.wait_for_console("my vm", "ready\r\nabcready");

    desk.cli(&["delete", "my vm", "--yes"])
        .refused(1, &["is running: cannot delete", "stop it first"]);
    let stopped = desk.cli(&["stop", "my vm"]).ok();
    assert!(stopped.out.contains("the guest powered off"), "{stopped:?}");
    assert_eq!(desk.state("my vm"), "stopped");
    assert!(desk.cli(&["logs", "my vm", "--console"]).ok().out.contains("bye"));
    assert!(!desk.cli(&["logs", "my vm"]).ok().out.is_empty());

    desk.cli(&["delete", "my vm"]).refused(2, &["--yes"]);
    desk.cli(&["delete", "my vm", "--yes"]).ok();
    desk.cli(&["status", "my vm"]).refused(1, &["there is no VM \"my vm\""]);
    assert!(!desk.definition("my vm").exists());
}

#[test]
fn a_guest_that_ends_by_itself_is_stopped_with_its_exit_code() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("a");
    let mut follow = desk
        .prepared(&["logs", "a", "--console", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut console = desk
        .prepared(&["console", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    console.stdin.take().unwrap().write_all(b"x").unwrap();
    desk.wait_for_state("a", "stopped");
    assert_eq!(desk.status("a")["exit_code"], GUEST_EXIT);
    // Both end with the VM.
    assert!(console.wait().unwrap().success());
    assert!(follow.wait().unwrap().success());
    // And it starts again.
    desk.cli(&["start", "a"]).ok();
    assert_eq!(desk.state("a"), "running");
    desk.cli(&["stop", "a", "--force"]).ok();
    assert_eq!(desk.status("a")["ending"], "stopped from outside");
}

#[test]
fn a_guest_that_ignores_its_power_button_runs_on_until_forced() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    // `jmp $` behind the mark of a tiny guest.
    std::fs::write(desk.path("guest.bin"), b"\xe9\x09\x00\x00MHVTINY1\xeb\xfe").unwrap();
    desk.create("deaf");
    desk.cli(&["start", "deaf"]).ok();
    desk.cli(&["stop", "deaf", "--timeout", "1"])
        .refused(1, &["did not power off within 1 seconds", "stop --force"]);
    assert_eq!(desk.state("deaf"), "running");
    let pid = desk.vm_pid("deaf");
    desk.cli(&["stop", "deaf", "--force"]).ok();
    assert_eq!(desk.state("deaf"), "stopped");
    wait_until("the VM process is gone", || !is_alive(pid));
}

#[test]
fn run_gives_the_guest_s_exit_code_and_leaves_nothing() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    let guest = desk.text("guest.bin");
    let arguments = ["run", "--kernel", &guest, "--memory", "16", "--engine", "kvm"];
    let mut run =
        desk.prepared(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"hix").unwrap();
    let said = run.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(GUEST_EXIT));
    let shown = String::from_utf8_lossy(&said.stdout);
    assert!(shown.contains("ready") && shown.contains("hi"), "{shown}");

    let mut timed = arguments.to_vec();
    timed.extend(["--timeout", "1"]);
    let said = desk.cli(&timed);
    assert_eq!(said.code, Some(124), "{said:?}");
    assert!(said.out.contains("ready"));

    // No daemon was needed, and the folders are gone.
    assert!(!desk.daemon_answers());
    let left: Vec<_> = std::fs::read_dir(desk.runtime()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the folder of all VMs: {left:?}");
}

#[test]
fn the_whole_exit_code_of_the_guest_comes_through_on_engine_tcg() {
    if !qemu() {
        return;
    }
    let desk = Desk::new();
    let guest = desk.text("multiboot.bin");
    // `mov al, 42` before the debug exit: a value with its highest bit instead.
    let mut program = std::fs::read(&guest).unwrap();
    let place = program.windows(4).position(|code| code == b"\xb0\x2a\xe6\xf4");
    program[place.unwrap() + 1] = 200;
    std::fs::write(&guest, program).unwrap();
    let arguments = ["run", "--kernel", &guest, "--memory", "32", "--engine", "tcg"];
    let mut run =
        desk.prepared(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"hix").unwrap();
    let said = run.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(200));
    let shown = String::from_utf8_lossy(&said.stdout);
    assert!(shown.contains("ready") && shown.contains("hi"), "{shown}");
}

/// What a person does is the same on every engine.
#[test]
fn the_session_on_engine_tcg() {
    if !qemu() {
        return;
    }
    let desk = Desk::new();
    let guest = desk.text("multiboot.bin");
    let machine = ["--kernel", &guest, "--memory", "32", "--net", "none"];
    let mut arguments = vec!["create", "--name", "a", "--engine", "tcg"];
    arguments.extend(machine);
    desk.cli(&arguments).ok();
    desk.cli(&["start", "a"]).ok();
    desk.wait_for_console("a", "ready");
    assert_eq!(desk.status("a")["engine"], "tcg");
    desk.cli(&["pause", "a"]).ok();
    assert_eq!(desk.state("a"), "paused");

    // The daemon and the VM process can be killed here too.
    kill(desk.daemon_pid());
    assert_eq!(desk.state("a"), "paused");
    desk.cli(&["resume", "a"]).ok();
    let stopped = desk.cli(&["stop", "a"]).ok();
    assert!(stopped.out.contains("the guest powered off"), "{stopped:?}");
    assert!(desk.cli(&["logs", "a", "--console"]).ok().out.contains("bye"));
    desk.cli(&["start", "a"]).ok();
    kill(desk.vm_pid("a"));
    desk.wait_for_state("a", "crashed");

    // And again, down to the guest's own exit code.
    desk.cli(&["start", "a"]).ok();
    let mut console = desk
        .prepared(&["console", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    console.stdin.take().unwrap().write_all(b"x").unwrap();
    desk.wait_for_state("a", "stopped");
    assert!(console.wait().unwrap().success());
    assert_eq!(desk.status("a")["exit_code"], GUEST_EXIT);
    desk.cli(&["delete", "a", "--yes"]).ok();
}

#[test]
fn a_run_whose_cli_is_killed_ends_too() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    let guest = desk.text("guest.bin");
    let mut run = desk
        .prepared(&["run", "--kernel", &guest, "--memory", "16", "--engine", "kvm"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut greeting = [0; 5];
    run.stdout.as_mut().unwrap().read_exact(&mut greeting).unwrap();
    let pid_file = desk.runtime().join(format!("run-{}/pid", run.id()));
    let vm = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    assert!(is_alive(vm));
    kill(run.id());
    run.wait().unwrap();
    wait_until("the VM process is gone", || !is_alive(vm));
}

#[test]
fn an_interrupted_run_ends_its_vm() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    let guest = desk.text("guest.bin");
    let mut run = desk
        .prepared(&["run", "--kernel", &guest, "--memory", "16", "--engine", "kvm"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut greeting = [0; 5];
    run.stdout.as_mut().unwrap().read_exact(&mut greeting).unwrap();
    // The escape key.
    run.stdin.as_mut().unwrap().write_all(b"\x1d").unwrap();
    assert!(run.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(desk.runtime()).unwrap().count(), 1);
}
