//! Sessions for tests, without a display: a message bus of each one's own, the real guest agent in one that
//! stands for the guest's, and a notification service that remembers in one that stands for the host's.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

use agent_link::Token;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use zbus::OwnedVariant;

use super::wait_until;

/// A program of the test, which ends with it.
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// True when this program of a Debian package can be started; says so loudly otherwise.
pub fn there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).any(|folder| folder.join(program).is_file());
    if !found {
        eprintln!("SKIPPED: there is no {program}");
    }
    found
}

/// A bus at the place where programs look for the session's when nothing else is said.
pub fn bus(runtime: &Path) -> Program {
    let path = runtime.join("bus");
    let mut command = Command::new("dbus-daemon");
    command.args(["--session", "--nofork", "--nopidfile", "--address"]);
    command.arg(format!("unix:path={}", path.display())).stdin(Stdio::null());
    // Nothing of the machine that runs the test is started on it.
    command.env("XDG_DATA_DIRS", runtime).env("XDG_DATA_HOME", runtime);
    let bus = Program(command.spawn().unwrap());
    wait_until("a bus", || path.exists());
    bus
}

/// The real agent, built when it is not.
pub fn agent_program() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_macrohardd")).parent().unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "guest-agent", "--bin", "macrohard-guest-agent"])
        .arg("--target-dir")
        .arg(folder.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success());
    folder.join("macrohard-guest-agent")
}

/// A user's session in a guest.
pub struct GuestSession {
    pub folder: tempfile::TempDir,
    _bus: Program,
    runtime: tokio::runtime::Runtime,
    program: PathBuf,
}

impl GuestSession {
    /// With a proof for a user's agent of the VM with `token`.
    pub fn new(token: &Token) -> Self {
        let folder = tempfile::Builder::new().prefix("guest").tempdir().unwrap();
        let bus = bus(folder.path());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let token = token.clone();
        let socket = folder.path().join("proofs");
        runtime.block_on(async {
            let listener = guest_agent::proofs::listen(&socket).unwrap();
            tokio::spawn(guest_agent::proofs::give(listener, token));
        });
        Self { folder, _bus: bus, runtime, program: agent_program() }
    }

    /// A program in the session.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// The agent with arguments, not started.
    pub fn agent_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.program);
        command.args(arguments);
        command
    }

    /// The session's agent.
    pub fn agent(&self, host: &Path) -> Program {
        let mut command = self.agent_command(&["session"]);
        command.arg("--host").arg(format!("unix:{}", host.display()));
        command.arg("--proofs").arg(self.folder.path().join("proofs"));
        Program(command.spawn().unwrap())
    }

    /// Runs something of the test's in the session's runtime.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// What the service was asked to show.
#[derive(Clone, Debug)]
pub struct Note {
    pub id: u32,
    pub application: String,
    pub replaces: u32,
    pub summary: String,
    pub body: String,
    pub actions: Vec<String>,
    pub urgency: u8,
    /// Width, height and rows of its picture.
    pub picture: Option<(i32, i32, Vec<u8>)>,
    pub timeout: i32,
}

#[derive(Debug, Default)]
struct Board {
    notes: Vec<Note>,
    closed: Vec<u32>,
    /// The answer to every notification with actions, given at once.
    answer: Option<String>,
}

/// The host's notification service.
pub struct Notes {
    board: Arc<Mutex<Board>>,
    connection: zbus::Connection,
    runtime: tokio::runtime::Runtime,
}

struct Service(Arc<Mutex<Board>>);

const PATH: &str = "/org/freedesktop/Notifications";
const NAME: &str = "org.freedesktop.Notifications";

impl Notes {
    /// Serves on the bus in `folder`.
    pub fn serve(folder: &Path) -> Self {
        let board = Arc::<Mutex<Board>>::default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let address = format!("unix:path={}", folder.join("bus").display());
        let service = Service(Arc::clone(&board));
        let connection = runtime.block_on(async move {
            let builder = zbus::connection::Builder::address(address.as_str());
            builder.serve_at(PATH, service).name(NAME).build().await.unwrap()
        });
        Self { board, connection, runtime }
    }

    pub fn all(&self) -> Vec<Note> {
        self.board.lock().unwrap().notes.clone()
    }

    pub fn closed(&self) -> Vec<u32> {
        self.board.lock().unwrap().closed.clone()
    }

    /// Chooses this action of every notification with actions from now on.
    pub fn answer(&self, key: Option<&str>) {
        self.board.lock().unwrap().answer = key.map(str::to_owned);
    }

    /// The first whose title contains `text`.
    pub fn wait_for(&self, text: &str) -> Note {
        let find = || self.all().into_iter().find(|note| note.summary.contains(text));
        wait_until(&format!("a notification with {text:?}"), || find().is_some());
        find().unwrap()
    }

    pub fn wait_for_closed(&self, id: u32) {
        wait_until(&format!("notification {id} is closed"), || self.closed().contains(&id));
    }

    fn signal<B>(&self, name: &str, body: B)
    where
        B: serde::Serialize + zbus::wire::DynamicType,
    {
        self.runtime
            .block_on(self.connection.emit_signal(None::<&str>, PATH, NAME, name, &body))
            .unwrap();
    }

    /// The person closes one.
    pub fn dismiss(&self, id: u32) {
        self.signal("NotificationClosed", (id, 2_u32));
    }

    /// The person chooses an action.
    pub fn choose(&self, id: u32, key: &str) {
        self.signal("ActionInvoked", (id, key));
    }
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Service {
    fn get_capabilities(&self) -> Vec<&'static str> {
        vec!["actions", "body", "body-markup"]
    }

    #[allow(clippy::too_many_arguments, reason = "the specification has them")]
    async fn notify(
        &self,
        #[zbus(connection)] connection: &zbus::Connection,
        application: String,
        replaces: u32,
        _icon: String,
        summary: String,
        body: String,
        actions: Vec<String>,
        hints: HashMap<String, OwnedVariant>,
        timeout: i32,
    ) -> u32 {
        let urgency = hints.get("urgency").and_then(|hint| hint.downcast_ref::<u8>().ok());
        let (id, answer) = {
            let mut board = self.0.lock().unwrap();
            let next = u32::try_from(board.notes.len()).unwrap() + 100;
            let id = if replaces == 0 { next } else { replaces };
            let answer = board.answer.clone().filter(|_| !actions.is_empty());
            board.notes.push(Note {
                id,
                application,
                replaces,
                summary,
                body,
                actions,
                urgency: urgency.unwrap_or(255),
                picture: hints.get("image-data").map(picture),
                timeout,
            });
            (id, answer)
        };
        if let Some(key) = answer {
            let body = (id, key);
            let name = "ActionInvoked";
            connection.emit_signal(None::<&str>, PATH, NAME, name, &body).await.unwrap();
        }
        id
    }

    #[zbus(out_args("name", "vendor", "version", "spec_version"))]
    fn get_server_information(&self) -> (&'static str, &'static str, &'static str, &'static str) {
        ("notes", "test", "1", "1.2")
    }

    fn close_notification(&self, id: u32) {
        self.0.lock().unwrap().closed.push(id);
    }
}

fn picture(hint: &OwnedVariant) -> (i32, i32, Vec<u8>) {
    let hint = hint.downcast_ref::<&zbus::Structure<'_>>().unwrap();
    let [width, height, _, _, _, _, rows] = hint.fields() else {
        panic!("{hint:?}");
    };
    let rows = rows.downcast_ref::<&zbus::Array<'_>>().unwrap();
    let rows = rows.iter().map(|byte| byte.downcast_ref::<u8>().unwrap()).collect();
    (width.downcast_ref().unwrap(), height.downcast_ref().unwrap(), rows)
}
