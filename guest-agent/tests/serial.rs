//! Real agents that reach their host over a serial port, for which a pseudo-terminal stands in.

mod support;

use agent_link::Role;
use agent_link::serial::{Opened, answer};
use proto::v1::PingRequest;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use support::{Desk, PATIENCE, arguments};
use tokio::net::UnixStream;

/// The guest's end of a port whose other end is carried to the desk's host.
fn port(desk: &Desk) -> (PathBuf, File) {
    let port = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&port).unwrap();
    unlockpt(&port).unwrap();
    let path = PathBuf::from(ptsname(&port, Vec::new()).unwrap().into_string().unwrap());
    // Held open: the port is there whether or not an agent is.
    let held = File::options().read(true).write(true).open(&path).unwrap();
    let mut settings = tcgetattr(&held).unwrap();
    settings.make_raw();
    tcsetattr(&held, OptionalActions::Now, &settings).unwrap();

    let (wire, line) = std::os::unix::net::UnixStream::pair().unwrap();
    let (mut from_guest, mut to_guest) = (File::from(port.try_clone().unwrap()), File::from(port));
    let (mut to_host, mut from_host) = (wire.try_clone().unwrap(), wire);
    let copy = |from: &mut dyn Read, to: &mut dyn Write| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if to.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    };
    std::thread::spawn(move || copy(&mut from_guest, &mut to_host));
    std::thread::spawn(move || copy(&mut from_host, &mut to_guest));
    line.set_nonblocking(true).unwrap();
    let (mut channels, carrying) = answer(UnixStream::from_std(line).unwrap());
    tokio::spawn(carrying);
    let host = desk.path("host");
    tokio::spawn(async move {
        while let Some(Opened { stream: mut channel, .. }) = channels.next().await {
            let mut stream = UnixStream::connect(&host).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
            });
        }
    });
    (path, held)
}

/// The system agent on this port.
fn system(desk: &Desk, port: &std::path::Path) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_macrohard-guest-agent"));
    command.arg("system").arg("--host").arg(format!("serial:{}", port.display()));
    command.arg("--token").arg(desk.path("token")).arg("--proofs").arg(desk.path("proofs"));
    command.arg("--relay").arg(desk.path("relay")).kill_on_drop(true);
    command.arg("--window-memory").arg(desk.path("windows"));
    command.arg("--screen").arg(desk.path("screen"));
    command.spawn().unwrap()
}

#[tokio::test]
async fn agents_reach_their_host_over_a_serial_port_and_come_back_when_killed() {
    let desk = Desk::new();
    let (port, _held) = port(&desk);
    let mut agent = system(&desk, &port);
    let mut first = desk.connected(Role::System).await;
    let ran = first.run(arguments(&["echo", "over the port"])).await.unwrap();
    assert_eq!(ran.out, "over the port\n");
    // Killed while it sends as fast as it can.
    let (_inputs, mut outputs) = first.start(arguments(&["cat", "/dev/zero"])).await.unwrap();
    for _ in 0..20 {
        outputs.message().await.unwrap();
    }
    agent.kill().await.unwrap();
    let _agent = system(&desk, &port);
    let mut second = desk.connected(Role::System).await;
    tokio::time::timeout(PATIENCE, first.gone.wait()).await.expect("the end is not noticed");
    second.guest.ping(PingRequest {}).await.unwrap();

    // A session's agent, which cannot open the port, over the system's.
    let user = guest_agent::user::User::own().unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_macrohard-guest-agent"));
    command.arg("session").arg("--host").arg(format!("unix:{}", desk.path("relay").display()));
    command.arg("--proofs").arg(desk.path("proofs")).kill_on_drop(true);
    command.arg("--window-memory").arg(desk.path("windows"));
    command.arg("--screen").arg(desk.path("screen"));
    let _session = command.spawn().unwrap();
    let mut session = desk.connected(Role::User(user.number)).await;
    let ran = session.run(arguments(&["head", "-c", "1000000", "/dev/zero"])).await.unwrap();
    assert_eq!(ran.out.len(), 1_000_000);
    second.guest.ping(PingRequest {}).await.unwrap();
}
