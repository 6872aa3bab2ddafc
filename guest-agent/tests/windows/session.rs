//! The session agent as a guest runs it: proof and window memory from the system agent, a connection that
//! says hello, an X server of its own.

use crate::host::{Desk, PATIENCE, Process, there_are};
use agent_link::{Direction, Role, Token, admit, receive};
use guest_agent::{proofs, windows::memory};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use tokio::net::UnixListener;

#[test]
fn a_session_agent_tells_of_windows_once_the_host_wants_them_and_again_when_it_comes_back() {
    if !there_are(&["Xvfb", "xterm"]) {
        return;
    }
    let mut desk = Desk::new();
    desk.kill_agent();
    let path = |name: &str| desk.path().join(name);
    let token = Token::random().unwrap();
    let memory =
        format!("/proc/{}/fd/{}", std::process::id(), desk.memory.descriptor().as_raw_fd());
    let (give, connections) = mpsc::channel();
    let (proof, windows, host) = (path("proof"), path("windows"), path("host"));
    let (ready, is_ready) = mpsc::channel();
    let thread_paths = (proof.clone(), windows.clone(), host.clone());
    let thread_token = token.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (proof, windows, host) = thread_paths;
            tokio::spawn(proofs::give(proofs::listen(&proof).unwrap(), thread_token.clone()));
            let listener = proofs::listen(&windows).unwrap();
            let open = move || File::options().read(true).write(true).open(&memory);
            tokio::spawn(memory::give(listener, open));
            let listener = UnixListener::bind(host).unwrap();
            ready.send(()).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Ok(hello) = receive(&mut stream, &thread_token).await else { continue };
                assert!(matches!(hello.role, Role::User(_)));
                if hello.direction == Direction::Windows {
                    admit(&mut stream).await.unwrap();
                    if give.send(stream.into_std().unwrap()).is_err() {
                        return;
                    }
                }
            }
        });
    });
    is_ready.recv().unwrap();
    let runtime = path("runtime");
    std::fs::create_dir(&runtime).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_macrohard-guest-agent"));
    command.arg("session").arg(format!("--host=unix:{}", host.display()));
    command.arg("--proofs").arg(&proof).arg("--window-memory").arg(&windows);
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env("XDG_RUNTIME_DIR", &runtime);
    command.env("PATH", path("bin")).stdout(Stdio::null());
    let _agent = Process(command.spawn().unwrap());
    let own = runtime.join("macrohard-windows");
    let authority = own.join("authority");
    let mut xterm = None;
    for _ in 0..2 {
        let stream = connections.recv_timeout(PATIENCE).unwrap();
        let mut peer = desk.peer(stream, window_link::VERSION);
        peer.until("everything is told", |peer| peer.told > 0);
        if xterm.is_none() {
            let display = std::fs::read_to_string(own.join("display")).unwrap();
            let mut command = Command::new("xterm");
            command.env("DISPLAY", display).env("XAUTHORITY", &authority);
            xterm = Some(Process(command.spawn().unwrap()));
        }
        peer.find("XTerm");
    }
    crate::host::end_server(&authority);
}
