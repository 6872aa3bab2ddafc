//! One daemon per user, on a socket of this user alone, started by whoever needs it.

mod support;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use support::{Desk, detached, is_alive, kill, wait_until};

#[test]
fn a_second_daemon_refuses_and_names_the_first() {
    let desk = Desk::new();
    desk.cli(&["list"]).ok();
    let first = desk.daemon_pid();
    let second = desk.daemon().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("already runs") && said.contains(&first.to_string()), "{said}");
    assert_eq!(desk.daemon_pid(), first);
}

#[test]
fn clients_that_come_at_once_share_one_daemon() {
    let desk = Desk::new();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut command = desk.prepared(&["list", "--all"]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for client in clients {
        let said = client.wait_with_output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn the_socket_is_this_user_s_alone() {
    let desk = Desk::new();
    desk.cli(&["list"]).ok();
    let socket = std::fs::metadata(desk.runtime().join("daemon.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let folder = std::fs::metadata(desk.runtime()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    assert_eq!(folder.uid(), socket.uid());
}

#[test]
fn a_killed_daemon_is_replaced_by_the_next_command() {
    let desk = Desk::new();
    desk.cli(&["list"]).ok();
    let first = desk.daemon_pid();
    kill(first);
    wait_until("the daemon is gone", || !is_alive(first));
    desk.cli(&["list"]).ok();
    assert_ne!(desk.daemon_pid(), first);
}

#[test]
fn a_daemon_that_is_told_to_ends_and_takes_its_socket_away() {
    let desk = Desk::new();
    desk.cli(&["list"]).ok();
    let pid = desk.daemon_pid();
    desk.cli(&["daemon", "stop"]).ok();
    wait_until("the daemon is gone", || !is_alive(pid));
    assert!(!desk.runtime().join("daemon.sock").exists());
    let said = desk.cli(&["daemon", "status"]).ok();
    assert!(said.out.contains("no daemon runs"), "{said:?}");
}

/// As systemd does it: the listening socket is descriptor 3, named by two variables.
#[test]
fn a_socket_that_was_passed_is_served() {
    let desk = Desk::new();
    std::fs::create_dir(desk.runtime()).unwrap();
    std::fs::set_permissions(desk.runtime(), PermissionsExt::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(desk.runtime().join("daemon.sock")).unwrap();
    let mut command = desk.command("sh");
    command
        .arg("-c")
        .arg("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\"")
        .arg(env!("CARGO_BIN_EXE_macrohardd"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stderr(Stdio::null());
    let mut daemon = detached(&mut command);
    assert_eq!(desk.daemon_pid(), daemon.id());
    desk.cli(&["daemon", "stop"]).ok();
    assert!(daemon.wait().unwrap().success());
    // The socket stays: it is systemd's, which starts the next daemon through it.
    assert!(desk.runtime().join("daemon.sock").exists());
}

#[test]
fn a_runtime_folder_that_others_can_enter_is_refused() {
    let desk = Desk::new();
    std::fs::create_dir(desk.runtime()).unwrap();
    std::fs::set_permissions(desk.runtime(), PermissionsExt::from_mode(0o755)).unwrap();
    desk.cli(&["list"]).refused(1, &["not a private folder", "755", "XDG_RUNTIME_DIR"]);
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let desk = Desk::new();
    // Its log cannot be opened, because a folder has its name.
    std::fs::create_dir_all(desk.path("home/.local/state/macrohard/daemon.log")).unwrap();
    desk.cli(&["list"]).refused(1, &["daemon.log"]);
}

#[test]
fn a_client_that_is_no_client_harms_nobody() {
    let desk = Desk::new();
    desk.cli(&["list"]).ok();
    let pid = desk.daemon_pid();
    let socket = desk.runtime().join("daemon.sock");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b""] {
        use std::io::Write;
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(desk.daemon_pid(), pid);
}
