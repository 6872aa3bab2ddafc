//! How a guest gets another version of its agent. The VM runs a tiny guest; its agents are a stand-in of
//! another version and the real one, with a package manager that notes what it is asked to do.

#[path = "support/session.rs"]
mod session;
mod support;

use agent_link::{Address, Direction, Hello, Role, Token, channel, introduce, serve};
use proto::stand_in::guest_server::{Guest, GuestServer};
use proto::v1::host_client::HostClient;
use proto::v1::update_chunk::Chunk;
use proto::v1::{self, Feature, ReadyRequest, UpdateStart};
use session::{Program, agent_program};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use support::{Desk, Said, kill, kvm, wait_until};
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status, Streaming};

const VM: &str = "vm";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A host whose package of the agent is this.
struct Host {
    desk: Desk,
    package: Vec<u8>,
}

impl Host {
    fn new() -> Option<Self> {
        if !kvm() {
            return None;
        }
        let desk = Desk::new();
        let package: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(desk.path("agent.deb"), &package).unwrap();
        // The daemon, which the first command starts, looks there.
        let mut first = desk.prepared(&["list"]);
        first.env("MACROHARD_GUEST_PACKAGE", desk.path("agent.deb")).output().unwrap();
        desk.start(VM);
        Some(Self { desk, package })
    }

    fn folder(&self) -> PathBuf {
        let mut folders = std::fs::read_dir(self.desk.runtime().join("vms")).unwrap();
        folders.next().unwrap().unwrap().path()
    }

    fn socket(&self) -> PathBuf {
        self.folder().join(format!("vsock.sock_{}", agent_link::PORT))
    }

    fn token(&self) -> Token {
        let launch = std::fs::read(self.folder().join("launch.json")).unwrap();
        let launch: serde_json::Value = serde_json::from_slice(&launch).unwrap();
        launch["agent_token"].as_str().unwrap().parse().unwrap()
    }

    fn agents(&self) -> Vec<serde_json::Value> {
        self.desk.status(VM)["agents"].as_array().cloned().unwrap_or_default()
    }

    /// Runs an agent of another kind until it is aborted.
    fn stand_in(
        &self,
        runtime: &Runtime,
        program: &str,
        protocol: u32,
        taken: Taken,
    ) -> tokio::task::JoinHandle<()> {
        let (socket, token, program) = (self.socket(), self.token(), program.to_owned());
        runtime.spawn(async move {
            let role = Role::System;
            let connect = async |direction| {
                let mut stream = Address::Unix(socket.clone()).connect().await.unwrap();
                let hello = Hello { role, direction, proof: token.proof(role) };
                introduce(&mut stream, &hello).await.unwrap();
                stream
            };
            let serving = connect(Direction::Serves).await;
            let (channel, _gone) = channel(connect(Direction::Calls).await).await.unwrap();
            let features = vec![Feature::Exec.into(), Feature::Update.into()];
            let ready = ReadyRequest { protocol, program, features, ..ReadyRequest::default() };
            let mut host = HostClient::new(channel);
            host.ready(ready).await.unwrap();
            serve(serving, GuestServer::new(StandIn(taken))).await.unwrap();
        })
    }
}

/// What an update brought, or why it is not taken.
type Taken = Arc<Mutex<Result<(UpdateStart, Vec<u8>), String>>>;

/// An agent that can do nothing but take a package.
struct StandIn(Taken);

#[tonic::async_trait]
impl Guest for StandIn {
    async fn update(
        &self,
        request: Request<Streaming<v1::UpdateChunk>>,
    ) -> Result<Response<v1::UpdateReply>, Status> {
        let mut chunks = request.into_inner();
        let (mut start, mut data) = (UpdateStart::default(), Vec::new());
        while let Some(chunk) = chunks.message().await? {
            match chunk.chunk {
                Some(Chunk::Start(first)) => start = first,
                Some(Chunk::Data(piece)) => data.extend(piece),
                None => return Err(Status::internal("an empty chunk")),
            }
        }
        let mut taken = self.0.lock().unwrap();
        if let Err(reason) = &*taken
            && !reason.is_empty()
        {
            return Err(Status::data_loss(reason.clone()));
        }
        *taken = Ok((start, data));
        Ok(Response::new(v1::UpdateReply {}))
    }
}

#[test]
fn an_agent_of_another_version_is_offered_this_one_and_takes_it_whole() {
    let Some(host) = Host::new() else { return };
    let runtime = Runtime::new().unwrap();
    host.desk.cli(&["agent", "update", VM]).refused(1, &["can be updated is connected"]);

    // One of the same protocol, and one of another, which can do nothing else.
    for (program, protocol) in [("0.0.9", proto::PROTOCOL), (VERSION, proto::PROTOCOL + 1)] {
        let taken: Taken = Arc::new(Mutex::new(Err("the digest is wrong".to_owned())));
        let old = host.stand_in(&runtime, program, protocol, Arc::clone(&taken));
        wait_until("the old agent", || host.agents().len() == 1);
        assert_eq!(host.agents()[0]["update"], VERSION);
        let status = host.desk.cli(&["status", VM]).ok().out;
        assert!(status.contains(&format!("`agent update` installs agent {VERSION}")), "{status}");
        if protocol != proto::PROTOCOL {
            host.desk.cli(&["exec", VM, "--", "true"]).refused(1, &["no agent"]);
        }
        let update = ["agent", "update", VM, "--wait", "1"];
        host.desk.cli(&update).refused(1, &["the guest answered: the digest is wrong"]);
        *taken.lock().unwrap() = Err(String::new());
        host.desk.cli(&update).refused(1, &["did not come back within 1 seconds"]);
        let (start, package) = taken.lock().unwrap().clone().unwrap();
        assert!(package == host.package);
        assert_eq!((start.version.as_str(), start.size), (VERSION, host.package.len() as u64));
        assert_eq!(start.digest, Sha256::digest(&package).to_vec());

        // It is back in time.
        *taken.lock().unwrap() = Err(String::new());
        let updating = host.desk.prepared(&["agent", "update", VM, "--wait", "60"]);
        let updating = spawn(updating);
        wait_until("the package is there", || taken.lock().unwrap().is_ok());
        old.abort();
        let new: Taken = Arc::new(Mutex::new(Err(String::new())));
        let new = host.stand_in(&runtime, VERSION, proto::PROTOCOL, new);
        let said = updating.wait_with_output().unwrap();
        assert!(said.status.success());
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_eq!(said, format!("the agent of VM \"vm\" is {VERSION}\n"));
        assert!(host.agents()[0].get("update").is_none());
        new.abort();
        wait_until("it is gone", || host.agents().is_empty());
    }
}

#[test]
fn a_vm_that_ends_in_the_middle_of_an_update_ends_the_wait_for_its_agent() {
    let Some(host) = Host::new() else { return };
    let runtime = Runtime::new().unwrap();
    let taken: Taken = Arc::new(Mutex::new(Err(String::new())));
    let _old = host.stand_in(&runtime, "0.0.9", proto::PROTOCOL, Arc::clone(&taken));
    wait_until("the old agent", || host.agents().len() == 1);
    // It would wait for an hour.
    let mut updating = host.desk.prepared(&["agent", "update", VM, "--wait", "3600"]);
    let mut updating = updating.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the package is there", || taken.lock().unwrap().is_ok());
    kill(host.desk.vm_pid(VM));
    wait_until("the wait ends", || updating.try_wait().unwrap().is_some());
    let said: Said = updating.wait_with_output().unwrap().into();
    said.refused(1, &["its VM ended before the agent came back"]);
}

fn spawn(mut command: Command) -> std::process::Child {
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn the_real_agent_is_replaced_by_the_guests_package_manager() {
    let Some(host) = Host::new() else { return };
    let (desk, bin) = (&host.desk, host.desk.path("bin"));
    std::fs::create_dir(&bin).unwrap();
    let asked = desk.path("asked");
    for (name, script) in [
        ("dpkg", String::new()),
        ("dpkg-deb", format!("echo 'Package: macrohard-guest-agent'; echo 'Version: {VERSION}'")),
        ("systemd-run", format!("echo \"$@\" >> {}", asked.display())),
    ] {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    std::fs::write(desk.path("token"), host.token().to_string()).unwrap();
    let program = agent_program();
    let agent = || {
        let mut command = desk.command(program.to_str().unwrap());
        command.env("PATH", &bin).env("RUNTIME_DIRECTORY", desk.path("update")).arg("system");
        command.arg("--host").arg(format!("unix:{}", host.socket().display()));
        command.arg("--token").arg(desk.path("token")).arg("--proofs").arg(desk.path("proofs"));
        command.arg("--window-memory").arg(desk.path("window-memory"));
        Program(command.spawn().unwrap())
    };
    let mut old = agent();
    wait_until("the agent", || host.agents().len() == 1);
    // Nothing to do, unless it is forced.
    desk.cli(&["agent", "update", VM]).ok();
    assert!(!asked.exists());
    let updating = spawn(desk.prepared(&["agent", "update", VM, "--force", "--wait", "60"]));
    wait_until("the installation begins", || asked.exists());
    let package = std::fs::read(desk.path("update/update.deb")).unwrap();
    assert!(package == host.package);
    let asked = std::fs::read_to_string(&asked).unwrap();
    assert!(asked.contains("dpkg --install"), "{asked}");
    old.0.kill().unwrap();
    let _new = agent();
    assert!(updating.wait_with_output().unwrap().status.success());
}
