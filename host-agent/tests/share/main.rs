//! The process of a shared folder against hostile guests: each test speaks raw 9P over the socket to which
//! a VM process would bring the guest's connections, to the real program in its sandbox.

mod desk;

use agent_link::Role;
use desk::{Desk, Hello, hello};
use plan9::client::{Client, RDWR, ROOT, TRUNCATE, attributes, string, words};
use plan9::message::{kind, message};
use rustix::io::Errno;
use share::{Reply, Request};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_folder_is_read_written_made_and_listed() {
    let desk = Desk::new();
    let mut client = desk.client();
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
    client.write(&["file"], "changed").unwrap();
    assert_eq!(fs::read_to_string(desk.at("share/file")).unwrap(), "changed");
    fs::write(desk.at("share/file"), "by the host").unwrap();
    assert_eq!(client.contents(&["file"]).unwrap(), "by the host");
    client.create(&["sub"], "new", "made").unwrap();
    assert_eq!(fs::read_to_string(desk.at("share/sub/new")).unwrap(), "made");
    let sub = client.walk(&["sub"]).unwrap();
    client.rename(sub, "new", ROOT, "moved").unwrap();
    let mut names = client.list(&[], 60).unwrap();
    names.sort();
    assert_eq!(names, [".", "..", "file", "moved", "sub"]);
    client.unlink(ROOT, "moved", 0).unwrap();
    assert!(!desk.at("share/moved").exists());
    assert_eq!(client.owner(&["file"]).unwrap(), (1000, 100));
    let handle = client.open(&["file"], RDWR).unwrap();
    for (kind, body) in [
        (kind::FSYNC, words(&[handle, 0])),
        (kind::STATFS, words(&[handle])),
        (kind::SETATTR, attributes(handle, 1 | 8 | 16 | 32, 0o600, (0, 0), 3)),
        (kind::SETATTR, attributes(handle, 6, 0, (1000, 100), 0)),
        (kind::LINK, [words(&[ROOT, handle]), string("hard")].concat()),
    ] {
        assert!(client.call(kind, &body).is_ok(), "{kind}");
    }
    assert_eq!(fs::metadata(desk.at("share/file")).unwrap().mode() & 0o7777, 0o600);
    assert!(client.unlink(ROOT, "hard", 0).is_ok() && desk.is_alive());
}

#[test]
fn no_name_and_no_link_leads_out() {
    let desk = Desk::new();
    symlink(desk.at("secret"), desk.at("share/link")).unwrap();
    symlink("../outside", desk.at("share/folder")).unwrap();
    let mut client = desk.client();
    let absolute = desk.at("secret");
    for names in [
        &[".."][..],
        &["..", "secret"],
        &["sub", "..", "..", "secret"],
        &["../secret"],
        &[absolute.to_str().unwrap()],
        &["/"],
        &["."],
        &[""],
        &["file\0"],
    ] {
        assert_eq!(client.walk(names), Err(Errno::INVAL), "{names:?}");
    }
    for names in [&["link"][..], &["folder"], &["folder", "file"]] {
        assert!(client.open(names, 0).is_err(), "{names:?}");
        assert!(client.open(names, RDWR | TRUNCATE).is_err(), "{names:?}");
    }
    let before = fs::metadata(desk.at("secret")).unwrap();
    let link = client.walk(&["link"]).unwrap();
    for valid in 0..9 {
        let _ = client.call(kind::SETATTR, &attributes(link, 1 << valid, 0o777, (1000, 100), 0));
    }
    // A hard link to a symbolic link is one to that link.
    let _ = client.call(kind::LINK, &[words(&[ROOT, link]), string("hard")].concat());
    assert!(client.contents(&["hard"]).is_err());
    assert_eq!(client.create(&[], "link", "x"), Err(Errno::EXIST));
    let after = fs::metadata(desk.at("secret")).unwrap();
    assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()));
    desk.check();
}

#[test]
fn a_folder_swapped_for_a_link_at_any_moment_leads_nowhere() {
    let desk = Desk::new();
    let (folder, link) = (desk.at("share/sub"), desk.at("share/swap"));
    symlink(desk.at("outside"), &link).unwrap();
    let mut client = desk.client();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for round in 0..3000 {
            if let Ok(contents) = client.contents(&["sub", "file"]) {
                assert!(contents == "deeper" || contents == "mine", "{contents}");
            }
            let _ = client.write(&["sub", "file"], "mine");
            let _ = client.create(&["sub"], &format!("made-{round}"), "x");
            if let Ok(sub) = client.walk(&["sub"]) {
                let _ = client.rename(sub, &format!("made-{round}"), ROOT, "made");
                let _ = client.unlink(sub, "file-that-is-outside", 0);
                client.clunk(sub);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    desk.check();
}

#[test]
fn devices_pipes_and_sockets_are_neither_made_nor_opened() {
    let desk = Desk::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, desk.at("share/pipe"), 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(desk.at("share/socket")).unwrap();
    let mut names = vec!["pipe", "socket"];
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        desk.at("share/null"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        rustix::fs::makedev(1, 3),
    );
    match made {
        Ok(()) => names.push("null"),
        Err(error) => eprintln!("SKIPPED: device nodes, which only root can make: {error}"),
    }
    let mut client = desk.client();
    for name in names {
        assert!(client.open(&[name], 0).is_err(), "{name}");
        assert!(client.open(&[name], RDWR).is_err(), "{name}");
        let handle = client.walk(&[name]).unwrap();
        let size = attributes(handle, 8, 0, (0, 0), 0);
        assert!(client.call(kind::SETATTR, &size).is_err(), "{name}");
    }
    let node = [words(&[ROOT]), string("b"), words(&[0o60666, 8, 0, 0])].concat();
    assert!(client.call(kind::MKNOD, &node).is_err());
    let link = [words(&[ROOT]), string("l"), string("/etc"), words(&[0])].concat();
    assert!(client.call(kind::SYMLINK, &link).is_err());
    let create = [words(&[ROOT]), string("s"), words(&[RDWR, 0o6755, 0])].concat();
    client.call(kind::LCREATE, &create).unwrap();
    assert_eq!(fs::metadata(desk.at("share/s")).unwrap().mode() & 0o7000, 0);
    desk.check();
}

#[test]
fn a_read_only_share_stays_as_it_is() {
    let desk = Desk::with(|spec| spec.read_only = true);
    let mut client = desk.client();
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
    assert_eq!(client.list(&[], 4000).unwrap().len(), 4);
    assert_eq!(client.write(&["file"], "x"), Err(Errno::ROFS));
    assert_eq!(client.create(&[], "new", "x"), Err(Errno::ROFS));
    assert_eq!(client.unlink(ROOT, "file", 0), Err(Errno::ROFS));
    assert_eq!(client.rename(ROOT, "file", ROOT, "new"), Err(Errno::ROFS));
    let handle = client.walk(&["file"]).unwrap();
    for (kind, body) in [
        (kind::SETATTR, attributes(handle, 1, 0o777, (0, 0), 0)),
        (kind::LINK, [words(&[ROOT, handle]), string("hard")].concat()),
        (kind::MKDIR, [words(&[ROOT]), string("new"), words(&[0o755, 0])].concat()),
        (kind::LOPEN, words(&[handle, TRUNCATE])),
        (kind::WRITE, [words(&[handle, 0, 0, 1]), vec![0]].concat()),
        (kind::REMOVE, words(&[handle])),
    ] {
        assert_eq!(client.call(kind, &body), Err(Errno::ROFS), "{kind}");
    }
    assert_eq!(fs::read_to_string(desk.at("share/file")).unwrap(), "shared");
    assert_eq!(fs::read_dir(desk.at("share")).unwrap().count(), 2);
}

#[test]
fn single_files_are_seen_alone_and_more_are_given_later() {
    let desk = Desk::with(|spec| spec.only = Some(vec![b"file".to_vec()]));
    let (mut client, mut other) = (desk.client(), desk.client());
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
    assert_eq!(client.list(&[], 4000).unwrap(), [".", "..", "file"]);
    assert_eq!(client.walk(&["sub"]), Err(Errno::NOENT));
    assert_eq!(client.create(&[], "sub", "x"), Err(Errno::EXIST));
    client.create(&[], "file.new", "saved").unwrap();
    client.rename(ROOT, "file.new", ROOT, "file").unwrap();
    assert_eq!(fs::read_to_string(desk.at("share/file")).unwrap(), "saved");
    let give = Request::Give { name: b"sub".to_vec() };
    assert_eq!(desk.ask(&give), Reply::Done);
    assert_eq!(client.contents(&["sub", "file"]).unwrap(), "deeper");
    assert_eq!(other.contents(&["sub", "file"]).unwrap(), "deeper");
    let whole = Desk::new();
    assert!(matches!(whole.ask(&give), Reply::Refused { .. }));
}

#[test]
fn many_long_names_reach_the_process() {
    let long = |number: u8| [&[b'a' + number % 26, b'0' + number / 26], &[b'n'; 253][..]].concat();
    let names: Vec<Vec<u8>> = (0..128).map(long).collect();
    let desk = Desk::with(|spec| spec.only = Some([&[b"file".to_vec()], &names[..]].concat()));
    fs::write(desk.at("share").join(String::from_utf8(names[127].clone()).unwrap()), "long")
        .unwrap();
    let mut client = desk.client();
    assert_eq!(client.list(&[], 4000).unwrap().len(), 4);
    assert_eq!(client.contents(&[std::str::from_utf8(&names[127]).unwrap()]).unwrap(), "long");
}

#[test]
fn names_are_bytes_to_the_process_too() {
    use std::os::unix::ffi::OsStrExt;
    let desk = Desk::new();
    let odd = b"\xff odd \x80";
    fs::write(desk.at("share").join(std::ffi::OsStr::from_bytes(odd)), "odd").unwrap();
    let mut client = desk.client();
    let list = client.list_bytes(&[], 4000).unwrap();
    assert_eq!(list.len(), 5);
    assert!(list.iter().any(|name| name == odd));
    assert!(matches!(desk.ask(&Request::Status), Reply::Status { left_out: 0, .. }));
}

#[test]
fn attributes_of_users_are_kept_on_the_hosts_file() {
    let desk = Desk::new();
    let mut client = desk.client();
    match client.set_attribute(&["file"], "user.origin", b"a guest", 0) {
        Err(Errno::OPNOTSUPP) => eprintln!("SKIPPED: this file system has no extended attributes"),
        set => {
            set.unwrap();
            assert_eq!(client.attribute(&["file"], "user.origin").unwrap(), b"a guest");
            assert_eq!(client.attribute(&["file"], "").unwrap(), b"user.origin\0");
            client.set_attribute(&["file"], "user.origin", b"", 0).unwrap();
            assert_eq!(client.attribute(&["file"], ""), Ok(Vec::new()));
        }
    }
    desk.check();
}

#[test]
fn a_name_swapped_for_a_link_does_not_lead_out_of_a_portal() {
    let desk = Desk::with(|spec| spec.only = Some(vec![b"file".to_vec()]));
    symlink("../secret", desk.at("share/other")).unwrap();
    let mut client = desk.client();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let (file, link) = (desk.at("share/file"), desk.at("share/other"));
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &file, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..3000 {
            if let Ok(contents) = client.contents(&["file"]) {
                assert!(contents == "shared" || contents == "x" || contents.is_empty());
            }
            let _ = client.write(&["file"], "x");
        }
        stop.store(true, Ordering::Relaxed);
    });
    desk.check();
}

#[test]
fn only_the_system_agent_of_this_boot_is_let_in() {
    let desk = Desk::new();
    let other = agent_link::Token::random().unwrap();
    let share = "share:1000:100";
    for (hello, reason) in [
        (hello(&other, Role::System, share), "the proof is not that of system"),
        (hello(&desk.token, Role::User(1000), share), "only the system agent"),
        (hello(&desk.token, Role::System, "calls"), "only the system agent"),
        (hello(&desk.token, Role::System, "share:1000"), "the direction"),
        (Hello("GET / HTTP/1.1\n".to_owned()), "not one of an agent"),
    ] {
        let said = desk.say(&hello);
        assert!(said.starts_with("no ") && said.contains(reason), "{said}");
    }
    // A stolen proof of a user is not the system agent's.
    let stolen = hello(&desk.token, Role::User(1000), share).0.replace("user:1000", "system");
    assert!(desk.say(&Hello(stolen)).contains("the proof is not that of system"));
    assert_eq!(desk.client().contents(&["file"]).unwrap(), "shared");
}

#[test]
fn garbage_and_lying_lengths_cost_a_guest_its_own_connection_only() {
    let desk = Desk::new();
    let mut good = desk.client();
    let lengths = [0_u32, 6, u32::MAX, 513 << 10, 65 << 10];
    for length in lengths {
        let mut stream = desk.client().transport;
        let mut bytes = message(kind::WALK, 1, &[0; 10]);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        stream.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).unwrap_or_default(), 0, "{length}");
    }
    // Half a message, and then nothing: that one waits, the others go on.
    let mut half = desk.client().transport;
    half.write_all(&message(kind::WALK, 1, &[0; 10])[..9]).unwrap();
    // Whole messages whose fields lie.
    for (kind, body) in [
        (kind::WALK, vec![0, 0, 0, 0, 9, 0, 0, 0, 255, 255]),
        (kind::WRITE, words(&[0, 0, 0, u32::MAX])),
        (kind::LCREATE, [words(&[0]), vec![255, 255]].concat()),
        (kind::ATTACH, vec![]),
        (255, vec![1, 2, 3]),
    ] {
        let mut client = desk.client();
        assert!(client.call(kind, &body).is_err(), "{kind}");
        assert_eq!(client.contents(&["file"]).unwrap(), "shared", "{kind}");
    }
    assert_eq!(good.contents(&["file"]).unwrap(), "shared");
    desk.check();
}

#[test]
fn a_flood_of_strangers_holds_nobody_off_and_fills_no_log() {
    let desk = Desk::new();
    let mut mounted = desk.client();
    let silent: Vec<_> = (0..50).map(|_| desk.connect()).collect();
    for _ in 0..300 {
        desk.connect().write_all(b"garbage\n").unwrap();
    }
    assert_eq!(mounted.contents(&["file"]).unwrap(), "shared");
    assert_eq!(desk.client().contents(&["file"]).unwrap(), "shared");
    drop(silent);
    let lines = desk.log().lines().count();
    assert!(lines < 30, "{lines} lines for 350 strangers");
}

#[test]
fn there_is_an_end_to_mounts_and_to_handles() {
    let desk = Desk::new();
    let mut clients: Vec<_> = (0..share::MOST_CONNECTIONS).map(|_| desk.client()).collect();
    let said = desk.say(&hello(&desk.token, Role::System, "share:1:1"));
    assert!(said.contains("mounted 32 times already"), "{said}");
    let client = &mut clients[0];
    let mut held = 0;
    let ended = loop {
        match client.walk(&["file"]) {
            Ok(_) => held += 1,
            Err(errno) => break errno,
        }
        assert!(held < 100_000);
    };
    assert_eq!(ended, Errno::MFILE);
    assert_eq!(clients[1].contents(&["file"]).unwrap(), "shared");
    // One that goes makes room.
    clients.pop();
    desk.wait_until(|| match desk.ask(&Request::Status) {
        Reply::Status { connections, .. } => connections < share::MOST_CONNECTIONS,
        other => panic!("{other:?}"),
    });
    assert_eq!(desk.client().contents(&["file"]).unwrap(), "shared");
}

#[test]
fn it_ends_with_the_vm_and_not_with_its_starter_or_a_guest() {
    let mut desk = Desk::new();
    let client: Client<_> = desk.client();
    drop(client);
    std::thread::sleep(Duration::from_millis(50));
    assert!(desk.is_alive());
    desk.end_vm();
    desk.wait_until(|| !desk.is_alive());
    assert_eq!(desk.code(), Some(0));
}

#[test]
fn a_folder_that_the_host_moves_out_is_out_of_reach_though_a_guest_holds_it() {
    let desk = Desk::new();
    if desk.log().contains("no landlock") {
        return eprintln!("SKIPPED: landlock, which this kernel lacks");
    }
    let mut client = desk.client();
    let sub = client.walk(&["sub"]).unwrap();
    let open = client.open(&["sub", "file"], 0).unwrap();
    fs::rename(desk.at("share/sub"), desk.at("moved")).unwrap();
    // The guard lets it through, for a name is looked up in the folder that the handle holds; the kernel does not.
    let walk = [words(&[sub, 900]), vec![1, 0], string("file")].concat();
    client.call(kind::WALK, &walk).unwrap();
    assert_eq!(client.call(kind::LOPEN, &words(&[900, 0])), Err(Errno::ACCESS));
    assert_eq!(client.call(kind::LOPEN, &words(&[sub, 0])), Err(Errno::ACCESS));
    let create = [words(&[sub]), string("new"), words(&[RDWR, 0o644, 0])].concat();
    assert_eq!(client.call(kind::LCREATE, &create), Err(Errno::ACCESS));
    assert_eq!(client.unlink(sub, "file", 0), Err(Errno::ACCESS));
    // What was open before is open.
    assert!(client.call(kind::READ, &words(&[open, 0, 0, 100])).is_ok());
    assert_eq!(fs::read_dir(desk.at("moved")).unwrap().count(), 1);
    // Back in its place it is the share's again.
    fs::rename(desk.at("moved"), desk.at("share/sub")).unwrap();
    assert_eq!(client.contents(&["sub", "file"]).unwrap(), "deeper");
}

#[test]
fn the_process_has_its_walls_and_nothing_open_but_what_it_was_handed() {
    let desk = Desk::new();
    let status = fs::read_to_string(format!("/proc/{}/status", desk.pid())).unwrap();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((value("Seccomp:").as_str(), value("NoNewPrivs:").as_str()), ("2", "1"));
    // Everything it has open is what it was handed, pipes of its own, and /proc.
    for entry in fs::read_dir(format!("/proc/{}/fd", desk.pid())).unwrap() {
        let path = entry.unwrap().path();
        let Ok(target) = fs::read_link(&path) else { continue };
        let target = target.to_string_lossy().into_owned();
        let own = desk.at("share").to_string_lossy().into_owned();
        let known = ["socket:", "anon_inode:", "pipe:", "/dev/null", "/proc"];
        let lock = desk.at("lock").to_string_lossy().into_owned();
        let log = desk.at("log").to_string_lossy().into_owned();
        let fine = known.iter().any(|known| target.starts_with(known));
        assert!(fine || [own, lock, log].contains(&target), "{target}");
    }
}
