//! A share process of its own for each test, beside what a guest may not reach.

use agent_link::{Role, Token};
use plan9::client::Client;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use share::{Handed, Reply, Request, Spec};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Bound on waits for things that take milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first line of a connection.
pub(crate) struct Hello(pub(crate) String);

/// One with a good proof of its role.
pub(crate) fn hello(token: &Token, role: Role, direction: &str) -> Hello {
    Hello(format!("macrohard-agent 1 {role} {direction} {}\n", token.proof(role)))
}

pub(crate) struct Desk {
    folder: tempfile::TempDir,
    pub(crate) token: Token,
    /// Stands for the VM process.
    vm: Child,
    process: std::sync::Mutex<Child>,
    code: std::sync::Mutex<Option<Option<i32>>>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a specification that differs.
    pub(crate) fn with(change: impl FnOnce(&mut Spec)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("share/sub")).unwrap();
        fs::create_dir(at("outside")).unwrap();
        fs::write(at("secret"), "secret").unwrap();
        fs::write(at("outside/file"), "secret").unwrap();
        fs::write(at("outside/file-that-is-outside"), "secret").unwrap();
        fs::write(at("share/file"), "shared").unwrap();
        fs::write(at("share/sub/file"), "deeper").unwrap();
        let token = Token::random().unwrap();
        let vm = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut spec = Spec {
            vm: "vm".to_owned(),
            tag: "tag".to_owned(),
            token: token.to_string(),
            read_only: false,
            only: None,
        };
        change(&mut spec);
        let process = start(folder.path(), &vm, &spec);
        let code = std::sync::Mutex::default();
        Self { folder, token, vm, process: std::sync::Mutex::new(process), code }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A connection that has said nothing yet.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.at("guest")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What is answered to a first line.
    pub(crate) fn say(&self, hello: &Hello) -> String {
        let mut stream = self.connect();
        stream.write_all(hello.0.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    }

    /// A client of the guest's user 1000 of group 100.
    pub(crate) fn client(&self) -> Client<UnixStream> {
        let mut stream = self.connect();
        let hello = hello(&self.token, Role::System, "share:1000:100");
        stream.write_all(hello.0.as_bytes()).unwrap();
        let mut said = [0; 3];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ok\n");
        Client::attach(stream)
    }

    pub(crate) fn ask(&self, request: &Request) -> Reply {
        share::ask(&self.at("control"), request).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.lock().unwrap().id()
    }

    pub(crate) fn is_alive(&self) -> bool {
        match self.process.lock().unwrap().try_wait().unwrap() {
            None => true,
            Some(status) => {
                *self.code.lock().unwrap() = Some(status.code());
                false
            }
        }
    }

    /// What it ended with; none when a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.code.lock().unwrap().expect("it has ended")
    }

    pub(crate) fn end_vm(&mut self) {
        self.vm.kill().and_then(|()| self.vm.wait()).unwrap();
    }

    pub(crate) fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What was not shared is as it was, and the process still serves.
    pub(crate) fn check(&self) {
        for name in ["secret", "outside/file", "outside/file-that-is-outside"] {
            assert_eq!(fs::read_to_string(self.at(name)).unwrap(), "secret", "{name}");
        }
        assert_eq!(fs::read_dir(self.at("outside")).unwrap().count(), 2);
        assert!(self.is_alive(), "{}", self.log());
    }
}

fn start(folder: &Path, vm: &Child, spec: &Spec) -> Child {
    let at = |name: &str| folder.join(name);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let shared = rustix::fs::open(at("share"), flags, Mode::empty()).unwrap();
    let pid = Pid::from_raw(i32::try_from(vm.id()).unwrap()).unwrap();
    let vm = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let guest = UnixListener::bind(at("guest")).unwrap();
    let control = UnixListener::bind(at("control")).unwrap();
    let lock = File::create(at("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let handed = Handed {
        folder: shared.as_fd(),
        vm: vm.as_fd(),
        guest: guest.as_fd(),
        control: control.as_fd(),
        lock: lock.as_fd(),
    };
    let log = File::create(at("log")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_macrohard-share"));
    share::start(program, spec, handed, log)
        .unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(at("log")).unwrap()))
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.vm.kill().and_then(|()| self.vm.wait());
        let mut process = self.process.lock().unwrap();
        let _ = process.kill().and_then(|()| process.wait());
    }
}
