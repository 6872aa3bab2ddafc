//! Bad input: a clear error that names the field, the value and what is allowed; exit code 2 for
//! usage and 1 for failure; and no half-made VM.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use support::Desk;

/// Nothing was made.
fn nothing_made(desk: &Desk) {
    let listed = desk.cli(&["list", "--all", "--json"]).ok().json();
    assert_eq!(listed["vms"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(listed["broken"].as_array().unwrap().len(), 0, "{listed}");
}

#[test]
fn values_that_are_not_allowed_are_named_with_what_is() {
    let desk = Desk::new();
    let long = "n".repeat(300);
    let cases: [(&[&str], &[&str]); 16] = [
        (&["--engine", "xen"], &["xen", "--engine", "auto, core, kvm, tcg"]),
        (&["--memory", "0"], &["memory is 0", "16 to"]),
        (&["--memory", "999T"], &["memory is", "16 to", "MiB"]),
        (&["--memory", "many"], &["--memory", "many", "MiB"]),
        (&["--cpus", "0"], &["cpus is 0", "1 to 255"]),
        (&["--cpus", "256"], &["cpus is 256", "1 to 255"]),
        (&["--name", "a/b"], &["name is \"a/b\"", "letters, digits"]),
        (&["--name", &long], &["name is", "1 to 100", "300 characters"]),
        (&["--name", "penguin 🐧"], &["name is", "letters, digits"]),
        (&["--disk", "a.vmdk"], &["--disk", "format=raw"]),
        (&["--disk", "a.qcow2,colour=red"], &["colour=red", "readonly"]),
        (&["--net", "bridge"], &["bridge", "passt, tap=INTERFACE, none"]),
        (&["--share", "/tmp:a b"], &["share[0].tag", "\"a b\""]),
        (&["--initrd", "/i"], &["--kernel"]),
        (&["--hvt", "/u", "--kernel", "/k"], &["--hvt", "--kernel", "cannot be used"]),
        (&["--hvt", "/u", "--cpus", "2"], &["cpus is 2", "1, with boot.hvt"]),
    ];
    for (extra, words) in cases {
        let mut arguments = vec!["create"];
        if !extra.contains(&"--name") {
            arguments.extend(["--name", "a"]);
        }
        arguments.extend(extra);
        desk.cli(&arguments).refused(2, words);
    }
    nothing_made(&desk);
}

#[test]
fn memory_beyond_the_host_s_is_refused_with_what_the_host_has() {
    let desk = Desk::new();
    desk.cli(&["create", "--name", "a", "--memory", "60T"])
        .refused(2, &["memory is", "what this host has"]);
    nothing_made(&desk);
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused() {
    let desk = Desk::new();
    std::fs::write(desk.path("text"), "just some text\n".repeat(100)).unwrap();
    std::fs::write(desk.path("bad.qcow2"), "QFI\u{fffd} not at all").unwrap();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--firmware", "text"], &["boot.firmware", "1500 bytes", "4096"]),
        (&["--disk", "no.qcow2"], &["disk[0].path", "no.qcow2", "No such file"]),
        (&["--disk", "bad.qcow2"], &["disk[0].path", "bad.qcow2", "not a usable qcow2"]),
        (&["--disk", "home,format=raw"], &["disk[0].path", "it is a folder"]),
        (&["--kernel", "text"], &["boot.kernel", "not a kernel", "bzImage"]),
        (&["--hvt", "text"], &["boot.hvt", "ELF header", "a Solo5 unikernel"]),
        (&["--share", "text"], &["share[0].path", "it is a file", "folder"]),
    ];
    for (extra, words) in cases {
        let mut arguments = vec!["create", "--name", "a", "--memory", "64"];
        arguments.extend(extra);
        desk.cli(&arguments).refused(1, words);
    }
    nothing_made(&desk);
}

#[test]
fn a_qcow2_that_reaches_outside_its_folder_is_refused() {
    let desk = Desk::new();
    let secret = desk.text("secret.img");
    std::fs::write(&secret, vec![0; 1 << 20]).unwrap();
    std::fs::create_dir(desk.path("images")).unwrap();
    let image = desk.text("images/evil.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &secret, &image])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: qemu-img cannot make an image with a backing file here");
        return;
    }
    desk.cli(&["create", "--name", "a", "--disk", &image])
        .refused(1, &["disk[0].path", "evil.qcow2", "backing file", "outside", "qemu-img convert"]);
    nothing_made(&desk);
}

#[test]
fn a_new_disk_is_not_left_behind_by_a_vm_that_cannot_be_made() {
    let desk = Desk::new();
    let create = |name: &str, disk: &str| {
        desk.cli(&["create", "--name", name, "--memory", "64", "--disk", disk])
    };
    create("a", "a.qcow2,size=1G").ok();
    create("a", "b.qcow2,size=1G").refused(1, &["already a VM \"a\""]);
    assert!(!desk.path("b.qcow2").exists());
    create("b", "a.qcow2,size=1G").refused(1, &["a.qcow2", "leave size= out"]);
    assert!(desk.path("a.qcow2").exists());
}

#[test]
fn a_definition_edited_into_nonsense_is_shown_with_line_and_column() {
    let desk = Desk::new();
    desk.create("a");
    let edit = |script: &str| {
        let mut command = desk.prepared(&["edit", "a"]);
        command.env("EDITOR", format!("sed -i {script}"));
        support::Said::from(command.output().unwrap())
    };
    let before = std::fs::read_to_string(desk.definition("a")).unwrap();
    edit("s/16/lots/").refused(1, &["line 2, column 10", "memory = lots", "unchanged"]);
    edit("s/16/-16/").refused(1, &["line 2, column 10", "-16", "a whole number, 0 or more"]);
    edit("s/16/0/").refused(1, &["line 2, column 10", "memory is 0", "16 to"]);
    edit("s/kernel/colonel/").refused(1, &["line", "column", "unknown field `colonel`"]);
    edit("s/^name.*/name=\\\"b\\\"/").refused(1, &["name = \"b\"", "fixed"]);
    assert_eq!(std::fs::read_to_string(desk.definition("a")).unwrap(), before);
    let said = edit("s/16/32/").ok();
    assert!(said.out.contains("next start"), "{said:?}");
    assert_eq!(desk.status("a")["memory"], 32);
    let said = edit("s/x/x/").ok();
    assert!(said.out.contains("unchanged"), "{said:?}");

    // Written behind the daemon's back: named with its file, and the others still listed.
    desk.create("b");
    std::fs::write(desk.definition("a"), "name = \"a\"\nmemory = {\n").unwrap();
    desk.cli(&["start", "a"]).refused(1, &["a.toml", "line 2, column", "edit \"a\""]);
    let listed = desk.cli(&["list", "--all"]).ok();
    assert!(listed.out.contains("b ") && listed.err.contains("a.toml"), "{listed:?}");
    let listed = desk.cli(&["list", "--all", "--json"]).ok().json();
    assert_eq!(listed["broken"][0]["name"], "a");
    std::fs::write(desk.definition("a"), b"name = \"a\"\nmemory = \xff\n").unwrap();
    desk.cli(&["start", "a"]).refused(1, &["a.toml", "line 2, column 10", "not UTF-8 text"]);
    std::fs::write(desk.definition("a"), "name = \"z\"\nmemory = 64\ncpus = 1\n").unwrap();
    desk.cli(&["start", "a"]).refused(1, &["name = \"z\"", "allowed: name = \"a\""]);
    std::fs::write(desk.definition("a"), "name = \"a\"\nmemory = {\n").unwrap();
    edit("'2s/.*/memory=64/'").refused(1, &["missing field `cpus`"]);
    edit("'2s/.*/memory=64\\ncpus=1/'").ok();
    assert_eq!(desk.state("a"), "created");
}

#[test]
fn an_editor_that_fails_changes_nothing() {
    let desk = Desk::new();
    desk.create("a");
    let mut command = desk.prepared(&["edit", "a"]);
    command.env("EDITOR", "false");
    support::Said::from(command.output().unwrap()).refused(1, &["false", "nothing was changed"]);
}

#[test]
fn names_that_are_not_there_are_said_so() {
    let desk = Desk::new();
    desk.create("Windows 11");
    for command in
        ["start", "stop", "pause", "resume", "reset", "status", "console", "stats", "logs", "edit"]
    {
        desk.cli(&[command, "nobody"]).refused(1, &["there is no VM \"nobody\"", "list --all"]);
    }
    desk.cli(&["delete", "nobody", "--yes"]).refused(1, &["there is no VM"]);
    desk.cli(&["start", "windows 11"]).refused(1, &["there is one called \"Windows 11\""]);
    desk.cli(&["start", "../../etc/passwd"]).refused(2, &["name is"]);
}

#[test]
fn impossible_steps_are_refused_with_the_way_out() {
    let desk = Desk::new();
    desk.create("a");
    for command in ["pause", "resume", "reset", "stop", "console", "stats"] {
        desk.cli(&[command, "a"]).refused(1, &["VM \"a\" is created: cannot", "start it first"]);
    }
}

#[test]
fn a_full_disk_leaves_no_half_made_vm() {
    let desk = Desk::new();
    // A file system that is full after a few pages, in a mount namespace of the daemon's own.
    let config = desk.path("home/.config");
    std::fs::create_dir_all(&config).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16k,mode=700 none '{0}' && mkdir -p '{0}/macrohard/vms' && \
         {{ cat /dev/zero > '{0}/macrohard/filler' 2>/dev/null; true; }} && \
         '{1}' create --name a --memory 64; echo \"code $?\"; ls -A '{0}/macrohard/vms'; \
         '{1}' daemon stop >/dev/null",
        config.display(),
        env!("CARGO_BIN_EXE_macrohard-hypervisor"),
    );
    let mut command = desk.command("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    let said = support::Said::from(command.output().unwrap());
    if !said.out.contains("code") {
        eprintln!("SKIPPED: no mount namespace here: {}", said.err);
        return;
    }
    assert_eq!(said.out.trim(), "code 1", "{said:?}");
    assert!(said.err.contains("No space left") && said.err.contains("a.toml"), "{said:?}");
}

/// With a file in the place of /dev/kvm that only root and its group may open.
#[test]
fn no_permission_on_dev_kvm_says_which_group() {
    let desk = Desk::new();
    let (file, guest) = (desk.text("kvm"), desk.text("guest.bin"));
    std::fs::write(&file, "").unwrap();
    let script = format!(
        "chmod -R a+rwX '{0}' && chmod 660 '{file}' && mount --bind '{file}' /dev/kvm && \
         chmod 700 '{0}/run' && chown -R nobody '{0}/run' && \
         exec setpriv --reuid nobody --regid nogroup --clear-groups \
         '{1}' run --kernel '{guest}' --engine kvm --memory 16",
        desk.path("").display(),
        env!("CARGO_BIN_EXE_macrohard-hypervisor"),
    );
    let mut command = desk.command("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let said = support::Said::from(command.output().unwrap());
    if !said.err.contains("/dev/kvm: Perm") {
        eprintln!("SKIPPED: needs root, /dev/kvm and a mount namespace: {}", said.err);
        return;
    }
    said.refused(1, &["cannot open /dev/kvm", "group", "usermod -aG"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    if rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: root may write everywhere");
        return;
    }
    let desk = Desk::new();
    desk.cli(&["list"]).ok();
    let vms = desk.path("home/.config/macrohard/vms");
    std::fs::set_permissions(&vms, PermissionsExt::from_mode(0o500)).unwrap();
    desk.cli(&["create", "--name", "a", "--memory", "64"])
        .refused(1, &["a.toml", "Permission denied"]);
}

#[test]
fn wrong_command_lines_are_usage() {
    let desk = Desk::new();
    for arguments in [
        &["explode"][..],
        &["start"],
        &["stop", "a", "--timeout", "soon"],
        &["stop", "a", "--force", "--timeout", "3"],
        &["run", "--timeout", "0"],
        &["image", "build"],
        &["image", "build", "--output", "a.img"],
        &["image", "build", "--output", "a.qcow2", "--size", "1M"],
        &["image", "build", "--output", "a.qcow2", "--suite", "--help"],
    ] {
        let said = desk.cli(arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}: {said:?}");
    }
}

#[test]
fn doctor_completions_and_man_pages_need_no_daemon() {
    let desk = Desk::new();
    let report = desk.cli(&["doctor", "--json"]).json();
    assert!(!report["rows"].as_array().unwrap().is_empty());
    assert!(desk.cli(&["doctor"]).out.contains("NEXT STEP"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(desk.cli(&["completions", shell]).ok().out.contains("macrohard-hypervisor"));
    }
    desk.cli(&["man", "--output", "man"]).ok();
    let page = std::fs::read_to_string(desk.path("man/macrohard-hypervisor-create.1")).unwrap();
    assert!(page.contains("--memory") || page.contains("\\-\\-memory"), "{page}");
    assert!(!desk.daemon_answers());
}
