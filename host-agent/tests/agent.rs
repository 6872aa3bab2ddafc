//! What a guest's agent is to a person at the host. The VM runs a tiny guest; the agent is the real one,
//! which reaches the daemon at the place to which the VM process brings the guest's connections.

mod support;

use agent_link::{Address, Direction, Hello, Role, Token, channel, introduce, serve};
use guest_agent::link::Identity;
use guest_agent::user::User;
use proto::stand_in::guest_server::GuestServer;
use proto::v1::ReadyRequest;
use proto::v1::host_client::HostClient;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Desk, kill, kvm, wait_until};
use tokio::runtime::Runtime;

/// The guest's side of one running VM.
struct Guest<'a> {
    desk: &'a Desk,
    name: &'a str,
    runtime: Runtime,
}

impl<'a> Guest<'a> {
    fn of(desk: &'a Desk, name: &'a str) -> Self {
        Self { desk, name, runtime: Runtime::new().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        // The desk has one VM.
        let mut folders = std::fs::read_dir(self.desk.runtime().join("vms")).unwrap();
        folders.next().unwrap().unwrap().path()
    }

    fn host(&self) -> PathBuf {
        self.folder().join(format!("vsock.sock_{}", agent_link::PORT))
    }

    fn token(&self) -> Token {
        let launch = std::fs::read(self.folder().join("launch.json")).unwrap();
        let launch: serde_json::Value = serde_json::from_slice(&launch).unwrap();
        launch["agent_token"].as_str().unwrap().parse().unwrap()
    }

    /// Runs an agent until it is aborted.
    fn agent(&self, role: Role, user: &str) -> tokio::task::JoinHandle<String> {
        let proof = self.token().proof(role);
        let identity =
            Identity { host: Address::Unix(self.host()), role, proof, user: user.to_owned() };
        self.runtime.spawn(async move { identity.hold().await })
    }

    /// How many agents `status` names.
    fn agents(&self) -> usize {
        self.desk.status(self.name)["agents"].as_array().map_or(0, Vec::len)
    }

    fn wait_for_agents(&self, count: usize) {
        wait_until(&format!("{count} agents"), || self.agents() == count);
    }
}

#[test]
fn the_names_of_the_token_and_the_port_are_the_same_on_both_sides() {
    assert_eq!(vm_control::AGENT_TOKEN_FILE, agent_link::TOKEN_FILE);
}

#[test]
fn programs_run_in_the_guest_as_if_they_were_here() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let guest = Guest::of(&desk, "vm");
    let missing = desk.cli(&["exec", "vm", "--", "true"]);
    missing.refused(1, &["no agent of VM \"vm\" is connected", "--wait"]);
    let _agent = guest.agent(Role::System, "");
    desk.cli(&["exec", "--wait", "30", "vm", "--", "true"]).ok();

    let script = "echo out; echo err >&2; echo $A; pwd; exit 7";
    let said =
        desk.cli(&["exec", "-e", "A=b c", "--folder", "/usr", "vm", "--", "sh", "-c", script]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (Some(7), "out\nb c\n/usr\n", "err\n")
    );
    assert_eq!(desk.cli(&["exec", "vm", "--", "sh", "-c", "kill -9 $$"]).code, Some(137));
    desk.cli(&["exec", "vm", "--", "/no/such"]).refused(1, &["the guest answered", "/no/such"]);
    desk.cli(&["exec", "--user", "no-such-user", "vm", "--", "true"])
        .refused(1, &["no user \"no-such-user\""]);
    desk.cli(&["exec", "vm"]).refused(2, &["PROGRAM"]);

    let mut cat = desk.prepared(&["exec", "vm", "--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text: Vec<u8> = (0..3 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let (mut input, sent) = (cat.stdin.take().unwrap(), text.clone());
    let writing = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut back = Vec::new();
    cat.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert_eq!(cat.wait().unwrap().code(), Some(0));
    assert!(back == text, "{} bytes came back of {}", back.len(), text.len());
}

#[test]
fn a_signal_to_the_client_reaches_the_program() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let guest = Guest::of(&desk, "vm");
    let _agent = guest.agent(Role::System, "");
    let script = "trap 'echo caught; exit 9' TERM; echo ready; sleep 1000 & wait";
    let mut client = desk.prepared(&["exec", "--wait", "30", "vm", "--", "sh", "-c", script]);
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = client.stdout.take().unwrap();
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(client.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), client.wait().unwrap().code()), ("caught\n", Some(9)));
}

#[test]
fn agents_come_and_go_and_status_is_true() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let guest = Guest::of(&desk, "vm");
    assert_eq!(guest.agents(), 0);
    let system = guest.agent(Role::System, "");
    guest.wait_for_agents(1);
    let user = User::own().unwrap();
    let session = guest.agent(Role::User(user.number), &user.name);
    guest.wait_for_agents(2);
    let status = desk.cli(&["status", "vm"]).ok().out;
    assert!(
        status.contains(&format!("system ({0}), {1} ({0})", env!("CARGO_PKG_VERSION"), user.name)),
        "{status}"
    );
    assert_eq!(desk.status("vm")["agents"][1]["user"], user.name.as_str());

    // An agent that is killed.
    let since = Instant::now();
    system.abort();
    guest.wait_for_agents(1);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    session.abort();
    guest.wait_for_agents(0);

    // A daemon that is killed: the next one hears from the agent again.
    let _system = guest.agent(Role::System, "");
    guest.wait_for_agents(1);
    kill(desk.daemon_pid());
    guest.wait_for_agents(1);
    desk.cli(&["exec", "vm", "--", "true"]).ok();

    // The guest goes on after a pause with its agent.
    desk.cli(&["pause", "vm"]).ok();
    desk.cli(&["resume", "vm"]).ok();
    desk.cli(&["exec", "vm", "--", "true"]).ok();

    // A VM process that is killed takes its agents along.
    kill(desk.vm_pid("vm"));
    desk.wait_for_state("vm", "crashed");
    assert_eq!(guest.agents(), 0);
    desk.cli(&["exec", "vm", "--", "true"]).refused(1, &["is crashed"]);
}

#[test]
fn a_guest_that_lies_and_floods_keeps_out_nobody_but_itself() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let guest = Guest::of(&desk, "vm");
    let token = guest.token();

    // Garbage, another boot's token, another's role.
    let other = Token::random().unwrap();
    let role = Role::System;
    let wrong = Hello { role, direction: Direction::Calls, proof: other.proof(role) };
    let stolen = Hello { role, direction: Direction::Calls, proof: token.proof(Role::User(1)) };
    for (line, answer) in [
        ("\u{1b}[2J\n".to_owned(), "no the first line is not one of an agent"),
        (format!("{wrong}\n"), "no the proof is not that of system"),
        (format!("{stolen}\n"), "no the proof is not that of system"),
    ] {
        let mut stream = UnixStream::connect(guest.host()).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with(answer), "{said}");
    }

    // Connections that say nothing, more than may wait at once.
    let mut silent: Vec<_> = (0..50).map(|_| UnixStream::connect(guest.host()).unwrap()).collect();

    // Introductions that break the limits, and connections over and over.
    guest.runtime.block_on(async {
        let connect = async |direction| {
            let mut stream = Address::Unix(guest.host()).connect().await.unwrap();
            let hello = Hello { role, direction, proof: token.proof(role) };
            introduce(&mut stream, &hello).await.map(|()| stream)
        };
        for count in 0..40 {
            // Between those that hold the line.
            silent.push(UnixStream::connect(guest.host()).unwrap());
            let (channel, _gone) = channel(connect(Direction::Calls).await.unwrap()).await.unwrap();
            let mut host = HostClient::new(channel);
            let good = ReadyRequest { protocol: proto::PROTOCOL, ..ReadyRequest::default() };
            let bad = match count % 4 {
                0 => ReadyRequest { system: "\u{1b}]0;owned\u{7}".into(), ..good },
                1 => ReadyRequest { program: "x".repeat(1 << 20), ..good },
                2 => ReadyRequest { features: vec![1; 100_000], ..good },
                _ => ReadyRequest { user: "root".into(), ..good },
            };
            assert_eq!(host.ready(bad).await.unwrap_err().code(), tonic::Code::InvalidArgument);
            let huge = ReadyRequest { program: "x".repeat(5 << 20), ..ReadyRequest::default() };
            assert!(host.ready(huge).await.is_err());
        }
    });
    assert_eq!(guest.agents(), 0);
    drop(silent);

    // A guest whose answers are not what they should be.
    let lying = guest.runtime.spawn({
        let (host, token) = (guest.host(), token.clone());
        async move {
            let connect = async |direction| {
                let mut stream = Address::Unix(host.clone()).connect().await.unwrap();
                let hello = Hello { role, direction, proof: token.proof(role) };
                introduce(&mut stream, &hello).await.unwrap();
                stream
            };
            let serving = connect(Direction::Serves).await;
            let (channel, _gone) = channel(connect(Direction::Calls).await).await.unwrap();
            let features = guest_agent::link::features(role);
            let ready =
                ReadyRequest { protocol: proto::PROTOCOL, features, ..ReadyRequest::default() };
            let mut host = HostClient::new(channel);
            host.ready(ready).await.unwrap();
            serve(serving, GuestServer::new(support::LyingGuest)).await.unwrap();
        }
    });
    guest.wait_for_agents(1);
    let said = desk.cli(&["exec", "vm", "--", "too-much"]).refused(1, &["allowed: 65536"]);
    assert!(said.out.is_empty());
    let said = desk.cli(&["exec", "vm", "--", "nonsense"]);
    said.refused(1, &["an output that says nothing"]);
    let said = desk.cli(&["exec", "vm", "--", "refuse"]).refused(1, &["the guest answered: "]);
    assert!(!said.err.contains('\u{1b}') && said.err.len() < 1000, "{said:?}");
    lying.abort();
    guest.wait_for_agents(0);

    // And an honest one is served as ever.
    let _agent = guest.agent(Role::System, "");
    desk.cli(&["exec", "--wait", "30", "vm", "--", "true"]).ok();
}
