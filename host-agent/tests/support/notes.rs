//! A message bus of the test's own, and a notification service on it that remembers. Also used by the library's own
//! tests, so it needs nothing of the others here.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zbus::OwnedVariant;

/// Bound on waits for things that take milliseconds; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

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
            // Everybody hears of everything: somebody else's first.
            for id in [id + 1000, id] {
                let (name, body) = ("ActionInvoked", (id, key.as_str()));
                connection.emit_signal(None::<&str>, PATH, NAME, name, &body).await.unwrap();
            }
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
