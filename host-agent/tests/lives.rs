//! Killing any one process leaves the others running and the state true.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use support::{Desk, is_alive, kill, kvm, wait_until};

#[test]
fn a_killed_daemon_leaves_vms_running_and_the_next_one_finds_them() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("runs");
    desk.start("paused");
    desk.cli(&["pause", "paused"]).ok();
    let (runs, paused) = (desk.vm_pid("runs"), desk.vm_pid("paused"));
    let daemon = desk.daemon_pid();
    kill(daemon);
    wait_until("the daemon is gone", || !is_alive(daemon));
    assert!(is_alive(runs) && is_alive(paused));

    // The next command starts a new daemon, which knows the truth.
    assert_eq!(desk.state("runs"), "running");
    assert_eq!(desk.state("paused"), "paused");
    assert_ne!(desk.daemon_pid(), daemon);
    assert_eq!((desk.vm_pid("runs"), desk.vm_pid("paused")), (runs, paused));

    // It can do with them what the first one could.
    desk.cli(&["start", "runs"]).refused(1, &["is running: cannot start"]);
    desk.cli(&["resume", "paused"]).ok();
    desk.cli(&["stop", "paused"]).ok();
    assert_eq!(desk.state("paused"), "stopped");
    kill(runs);
    desk.wait_for_state("runs", "crashed");
    let status = desk.status("runs");
    assert!(status["ending"].as_str().unwrap().contains("killed"), "{status}");
    assert_eq!(status["last_console_lines"][0], "ready");
}

#[test]
fn a_killed_vm_is_reported_with_its_reason_and_the_other_lives() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("victim");
    desk.start("other");
    let mut watch = desk.prepared(&["watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The watch has begun when it shows something; a pause of the other VM is something.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| events.next().unwrap().unwrap());
        while !first.is_finished() {
            desk.cli(&["pause", "other"]).ok();
            desk.cli(&["resume", "other"]).ok();
        }
        assert!(first.join().unwrap().contains("other"));
    });
    let other = desk.vm_pid("other");

    kill(desk.vm_pid("victim"));
    let told = events.find(|line| line.as_ref().unwrap().contains("victim"));
    let told = told.unwrap().unwrap();
    assert!(told.contains("crashed") && told.contains("SIGKILL"), "{told}");
    watch.kill().unwrap();
    watch.wait().unwrap();

    let status = desk.status("victim");
    assert_eq!(status["state"], "crashed");
    assert!(status["ending"].as_str().unwrap().contains("signal 9"), "{status}");
    assert_eq!(status["last_console_lines"][0], "ready");
    let shown = desk.cli(&["status", "victim"]).ok().out;
    assert!(shown.contains("last console lines") && shown.contains("ready"), "{shown}");
    assert_eq!((desk.state("other").as_str(), desk.vm_pid("other")), ("running", other));

    // The reason outlives the daemon, and the VM starts again.
    desk.cli(&["daemon", "stop"]).ok();
    assert!(desk.status("victim")["ending"].as_str().unwrap().contains("signal 9"));
    desk.cli(&["start", "victim"]).ok();
    assert_eq!(desk.state("victim"), "running");
    assert!(desk.status("victim")["ending"].is_null());
}

#[test]
fn a_vm_that_died_while_no_daemon_ran_is_crashed() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("a");
    let (vm, daemon) = (desk.vm_pid("a"), desk.daemon_pid());
    kill(daemon);
    kill(vm);
    wait_until("both are gone", || !is_alive(vm) && !is_alive(daemon));
    assert_eq!(desk.state("a"), "crashed");
    assert!(desk.status("a")["ending"].as_str().unwrap().contains("no record"));
}

#[test]
fn a_vm_that_powered_off_while_no_daemon_ran_is_stopped() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("a");
    let vm = desk.vm_pid("a");
    let daemon = desk.daemon_pid();
    kill(daemon);
    wait_until("the daemon is gone", || !is_alive(daemon));
    // SIGTERM is how a session's end stops a VM.
    let pid = rustix::process::Pid::from_raw(i32::try_from(vm).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_until("the VM is gone", || !is_alive(vm));
    assert_eq!(desk.state("a"), "stopped");
}

#[test]
fn a_vm_whose_definition_vanished_can_still_be_seen_and_stopped() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("a");
    std::fs::remove_file(desk.definition("a")).unwrap();
    kill(desk.daemon_pid());
    let listed = desk.cli(&["list", "--json"]).ok().json();
    assert_eq!(listed["vms"][0]["state"], "running");
    assert_eq!(listed["vms"][0]["memory"], 16);
    desk.cli(&["stop", "a", "--force"]).ok();
    desk.cli(&["status", "a"]).refused(1, &["there is no VM"]);
}

#[test]
fn two_vms_cannot_write_to_one_disk() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    let guest = desk.text("guest.bin");
    let disk = desk.text("disk.img");
    for (name, disk) in [("a", format!("{disk},size=1M")), ("b", disk)] {
        let machine = ["--kernel", &guest, "--memory", "16", "--net", "none"];
        let mut arguments = vec!["create", "--name", name, "--engine", "kvm", "--disk", &disk];
        arguments.extend(machine);
        desk.cli(&arguments).ok();
    }
    desk.cli(&["start", "a"]).ok();
    desk.cli(&["start", "b"]).refused(1, &["disk[0].path", "disk.img", "the running VM \"a\""]);
    assert_eq!(desk.state("b"), "created");
    desk.cli(&["stop", "a", "--force"]).ok();
    desk.cli(&["start", "b"]).ok();
}

#[test]
fn a_start_that_fails_leaves_the_vm_as_it_was() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.create("a");
    // An ELF that is no kernel is found out by the VM process.
    std::fs::copy("/bin/true", desk.path("guest.bin")).unwrap();
    let said = desk.cli(&["start", "a"]).refused(1, &["VM \"a\" cannot start"]);
    assert!(said.err.contains("PVH"), "{said:?}");
    assert_eq!(desk.state("a"), "created");
    assert!(desk.cli(&["list"]).ok().out.is_empty());
}
