//! The session agent as a guest runs it: proof and window memory from the system agent, a connection that
//! says hello, an X server of its own.

use crate::host::{Desk, PATIENCE, Process, there_are};
use crate::support;
use agent_link::{Direction, Role, Token, admit, receive};
use guest_agent::{proofs, windows::memory};
use proto::v1::LaunchRequest;
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
    command.arg("--screen").arg(path("screen"));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_the_host_launches_shows_its_window_on_the_host() {
    if !there_are(&["Xvfb", "xterm"]) {
        return;
    }
    let mut memory = Desk::new();
    memory.kill_agent();
    let desk = support::Desk::new();
    let file =
        format!("/proc/{}/fd/{}", std::process::id(), memory.memory.descriptor().as_raw_fd());
    tokio::spawn(proofs::give(proofs::listen(&desk.path("proofs")).unwrap(), desk.token.clone()));
    let listener = proofs::listen(&desk.path("windows")).unwrap();
    let open = move || File::options().read(true).write(true).open(&file);
    tokio::spawn(memory::give(listener, open));
    let (home, runtime) = (desk.path("home"), desk.path("runtime"));
    let applications = home.join(".local/share/applications");
    std::fs::create_dir_all(&applications).unwrap();
    std::fs::create_dir(&runtime).unwrap();
    let entry = "[Desktop Entry]\nType=Application\nName=Terminal\nExec=xterm -T launched\n";
    std::fs::write(applications.join("terminal.desktop"), entry).unwrap();
    let mut command = desk.agent_command("session");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &home);
    command.env("XDG_RUNTIME_DIR", &runtime).env("WAYLAND_DISPLAY", "elsewhere");
    command.env("XDG_DATA_DIRS", desk.path("none"));
    let _agent = command.spawn().unwrap();
    let user = rustix::process::getuid().as_raw();
    let mut host = desk.connected(Role::User(user)).await;
    let list = tokio::time::timeout(PATIENCE, host.lists.recv()).await.unwrap();
    assert_eq!(list.unwrap().applications.len(), 1);
    let request = LaunchRequest { application: "terminal".to_owned(), ..LaunchRequest::default() };
    // At once, before the agent has a connection for windows: that and the display are waited for.
    let launched = async { tokio::join!(host.guest.launch(request), desk.windows()) };
    let (reply, stream) = tokio::time::timeout(PATIENCE, launched).await.unwrap();
    let pid = reply.unwrap().into_inner().pid;
    let stream = stream.into_std().unwrap();
    let mut peer = memory.peer(stream, window_link::VERSION);
    let window = peer.find("XTerm");
    assert_eq!(peer.windows[&window].record.title, "launched");
    assert_eq!(peer.windows[&window].record.pid, pid);
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    peer.until("no window", |peer| peer.gone.contains(&window));
    crate::host::end_server(&runtime.join("macrohard-windows/authority"));
}
