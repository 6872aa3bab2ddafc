//! A host for a real agent process, both on this machine, without a VM between them.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_link::{Channel, Direction, Gone, Role, Token, admit, channel, receive, serve};
use proto::stand_in::host_server::{Host, HostServer};
use proto::v1::guest_client::GuestClient;
use proto::v1::{self, ReadyReply, ReadyRequest};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

/// Bound on waits for things that take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder, a token and a listening host.
pub struct Desk {
    folder: tempfile::TempDir,
    pub token: Token,
    listener: UnixListener,
    /// What agents are told in `ReadyReply`.
    pub languages: Vec<String>,
    /// Lists of applications are not taken.
    pub refuses_lists: Arc<AtomicBool>,
    /// What the host speaks.
    pub protocol: u32,
    /// Connections for windows.
    pub windows: std::sync::Mutex<Vec<UnixStream>>,
}

/// An agent that is connected both ways.
pub struct Connected {
    pub ready: ReadyRequest,
    pub guest: GuestClient<Channel>,
    pub gone: Gone,
    pub serving: tokio::task::JoinHandle<()>,
    /// Lists of applications, also those not taken.
    pub lists: mpsc::UnboundedReceiver<v1::ApplicationList>,
}

struct Told {
    ready: mpsc::Sender<ReadyRequest>,
    protocol: u32,
    languages: Vec<String>,
    lists: mpsc::UnboundedSender<v1::ApplicationList>,
    refuses_lists: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Host for Told {
    async fn ready(&self, request: Request<ReadyRequest>) -> Result<Response<ReadyReply>, Status> {
        let _ = self.ready.send(request.into_inner()).await;
        let protocol = self.protocol;
        let languages = self.languages.clone();
        Ok(Response::new(ReadyReply { protocol, languages, ..ReadyReply::default() }))
    }

    async fn set_applications(
        &self,
        request: Request<v1::ApplicationList>,
    ) -> Result<Response<v1::SetApplicationsReply>, Status> {
        let _ = self.lists.send(request.into_inner());
        if self.refuses_lists.load(Ordering::SeqCst) {
            return Err(Status::internal("no"));
        }
        Ok(Response::new(v1::SetApplicationsReply {}))
    }
}

impl Desk {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::random().unwrap();
        std::fs::write(folder.path().join("token"), format!("{token}\n")).unwrap();
        let listener = UnixListener::bind(folder.path().join("host")).unwrap();
        let (protocol, languages) = (proto::PROTOCOL, Vec::new());
        let (refuses_lists, windows) = Default::default();
        Self { folder, token, listener, protocol, languages, refuses_lists, windows }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn agent(&self, kind: &str) -> Child {
        self.agent_command(kind).spawn().unwrap()
    }

    /// The command that starts an agent, for tests that change its environment.
    pub fn agent_command(&self, kind: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_macrohard-guest-agent"));
        command.arg(kind).arg("--host").arg(format!("unix:{}", self.path("host").display()));
        command.arg("--proofs").arg(self.path("proofs"));
        command.arg("--window-memory").arg(self.path("windows"));
        command.arg("--screen").arg(self.path("screen"));
        if kind == "system" {
            command.arg("--token").arg(self.path("token"));
        }
        command.kill_on_drop(true).stderr(Stdio::piped());
        command
    }

    /// The next connection for windows.
    pub async fn windows(&self) -> UnixStream {
        loop {
            if let Some(stream) = self.windows.lock().unwrap().pop() {
                return stream;
            }
            let (stream, direction, _) = self.one().await;
            assert_eq!(direction, Direction::Windows);
            self.windows.lock().unwrap().push(stream);
        }
    }

    async fn one(&self) -> (UnixStream, Direction, Role) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let hello = receive(&mut stream, &self.token).await.unwrap();
        admit(&mut stream).await.unwrap();
        (stream, hello.direction, hello.role)
    }

    /// Hears an agent that cannot prove itself.
    pub async fn listener_refuses(&self) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        receive(&mut stream, &self.token).await.unwrap_err();
    }

    /// The next connection of an agent, which must have this role.
    pub async fn connected(&self, role: Role) -> Connected {
        tokio::time::timeout(PATIENCE, self.connect(role)).await.expect("no agent comes")
    }

    async fn connect(&self, role: Role) -> Connected {
        let (tell, mut told) = mpsc::channel(1);
        let (tell_list, lists) = mpsc::unbounded_channel();
        let (mut guest, mut serving) = (None, None);
        while guest.is_none() || serving.is_none() {
            let (stream, direction, said) = self.one().await;
            assert_eq!(said, role);
            match direction {
                Direction::Calls => {
                    let host = HostServer::new(Told {
                        ready: tell.clone(),
                        protocol: self.protocol,
                        languages: self.languages.clone(),
                        lists: tell_list.clone(),
                        refuses_lists: Arc::clone(&self.refuses_lists),
                    })
                    .max_decoding_message_size(agent_link::MAX_MESSAGE);
                    serving = Some(tokio::spawn(async move {
                        let _ = serve(stream, host).await;
                    }));
                }
                Direction::Serves => guest = Some(channel(stream).await.unwrap()),
                Direction::Windows => self.windows.lock().unwrap().push(stream),
                Direction::Share { .. } => panic!("nobody asked for it"),
            }
        }
        let (guest, gone) = guest.unwrap();
        let ready = told.recv().await.unwrap();
        Connected { ready, guest: GuestClient::new(guest), gone, serving: serving.unwrap(), lists }
    }
}

/// What a program that ran said and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ran {
    pub out: String,
    pub err: String,
    pub ending: Option<v1::exec_ended::Ending>,
}

impl Connected {
    /// Starts a program; what is sent goes to it.
    pub async fn start(
        &mut self,
        start: v1::ExecStart,
    ) -> Result<(mpsc::Sender<v1::ExecInput>, tonic::Streaming<v1::ExecOutput>), Status> {
        let (inputs, outputs) = mpsc::channel(4);
        let first = v1::exec_input::Input::Start(start);
        inputs.send(v1::ExecInput { input: Some(first) }).await.unwrap();
        let outputs = tokio_stream::wrappers::ReceiverStream::new(outputs);
        Ok((inputs, self.guest.exec(outputs).await?.into_inner()))
    }

    /// Runs a program to its end.
    pub async fn run(&mut self, start: v1::ExecStart) -> Result<Ran, Status> {
        let (_inputs, mut outputs) = self.start(start).await?;
        finish(&mut outputs).await
    }
}

/// Everything a program still says.
pub async fn finish(outputs: &mut tonic::Streaming<v1::ExecOutput>) -> Result<Ran, Status> {
    use v1::exec_output::Output;
    let (mut out, mut err, mut ran) = (Vec::new(), Vec::new(), Ran::default());
    while let Some(output) = outputs.message().await? {
        match output.output.unwrap() {
            Output::Started(started) => assert!(started.pid > 1),
            Output::Stdout(bytes) => out.extend(bytes),
            Output::Stderr(bytes) => err.extend(bytes),
            Output::Ended(ended) => ran.ending = ended.ending,
        }
    }
    ran.out = String::from_utf8(out).unwrap();
    ran.err = String::from_utf8(err).unwrap();
    Ok(ran)
}

pub fn arguments(words: &[&str]) -> v1::ExecStart {
    let arguments = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    v1::ExecStart { arguments, ..v1::ExecStart::default() }
}
