//! The applications of a real agent's session: told, shown and started.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_link::Role;
use prost::Message;
use proto::v1::launch_target::Target;
use proto::v1::{
    Application, ApplicationList, IconRequest, LaunchRequest, LaunchTarget, ResyncRequest,
    SharedPath, icon_reply,
};
use sha2::{Digest, Sha256};
use support::{Connected, Desk, PATIENCE};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::Code;

const PLAIN: &str = "[Desktop Entry]\nType=Application\nName=Plain\n";

/// A session of a user with a home of its own.
struct Session {
    desk: Desk,
    home: PathBuf,
    variables: Vec<(String, String)>,
    _system: (Child, Connected),
}

impl Session {
    async fn new() -> Self {
        let mut desk = Desk::new();
        desk.languages = vec!["de_AT".into()];
        let home = desk.path("home");
        std::fs::create_dir_all(home.join("bin")).unwrap();
        let system = desk.agent("system");
        // Dropped, it would be connected again.
        let system_host = desk.connected(Role::System).await;
        let shown = home.display();
        let variables = [
            ("HOME", format!("{shown}")),
            ("PATH", format!("{shown}/bin:/usr/bin:/bin")),
            ("XDG_DATA_DIRS", format!("{shown}/system")),
            ("DESKTOP_STARTUP_ID", "not for others".into()),
            ("XDG_ACTIVATION_TOKEN", "not for others".into()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { desk, home, variables, _system: (system, system_host) }
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn application(&self, name: &str, keys: &str) {
        self.write(&format!(".local/share/applications/{name}.desktop"), format!("{PLAIN}{keys}"));
    }

    /// A program in `PATH`.
    fn program(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A program that writes down how it was started; see [`Session::started`].
    fn recorder(&self, name: &str) {
        let to = self.home.join("started");
        std::fs::create_dir_all(&to).unwrap();
        let to = to.display();
        self.program(
            name,
            &format!(
                "{{ printf '%s\\0' \"$#\" \"$@\"; printf '%s\\0' \"$PWD\"; env -0; }} > {to}/$$.tmp\nmv {to}/$$.tmp {to}/$$"
            ),
        );
    }

    async fn agent(&self) -> (Child, Connected) {
        let mut command = self.desk.agent_command("session");
        command.env_clear().envs(self.variables.iter().cloned());
        let agent = command.spawn().unwrap();
        let role = Role::User(guest_agent::user::User::own().unwrap().number);
        (agent, self.desk.connected(role).await)
    }

    async fn started(&self, pid: u32) -> Started {
        let path = self.home.join(format!("started/{pid}"));
        let bytes = there(&path).await;
        let mut words = bytes.split(|byte| *byte == 0);
        let mut word = || String::from_utf8(words.next().unwrap().to_vec()).unwrap();
        let count: usize = word().parse().unwrap();
        let arguments = (0..count).map(|_| word()).collect();
        let folder = word().into();
        let pairs = words.filter_map(|pair| {
            let pair = String::from_utf8_lossy(pair).into_owned();
            pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
        Started { arguments, folder, variables: pairs.collect() }
    }
}

/// How a program was started.
struct Started {
    arguments: Vec<String>,
    folder: PathBuf,
    variables: BTreeMap<String, String>,
}

/// A file's content, once it is there.
async fn there(path: &Path) -> Vec<u8> {
    let coming = async {
        loop {
            if let Ok(bytes) = std::fs::read(path) {
                return bytes;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, coming).await.unwrap_or_else(|_| panic!("no {path:?}"))
}

async fn list(connected: &mut Connected) -> ApplicationList {
    let list = tokio::time::timeout(PATIENCE, connected.lists.recv()).await;
    list.expect("no list comes").unwrap()
}

fn ids(list: &ApplicationList) -> Vec<&str> {
    list.applications.iter().map(|application| application.id.as_str()).collect()
}

fn digest(applications: &[Application]) -> Vec<u8> {
    let mut digest = Sha256::new();
    for application in applications {
        digest.update(application.encode_to_vec());
    }
    digest.finalize().to_vec()
}

fn start(application: &str, targets: Vec<Target>) -> LaunchRequest {
    let target = |target| LaunchTarget { target: Some(target) };
    LaunchRequest {
        application: application.into(),
        action: String::new(),
        targets: targets.into_iter().map(target).collect(),
    }
}

async fn launch(session: &mut Connected, request: LaunchRequest) -> Result<u32, tonic::Status> {
    session.guest.launch(request).await.map(|reply| reply.into_inner().pid)
}

#[tokio::test]
async fn the_list_is_told_and_told_again_when_it_changes_and_only_then() {
    let session = Session::new().await;
    session
        .write("system/applications/both.desktop", format!("{PLAIN}Exec=true\nComment=system\n"));
    let other = format!("{PLAIN}Name[de]=Schlicht\nExec=true %f\nIcon=none\n");
    session.write("system/applications/sub/other.desktop", &other);
    let (_agent, mut host) = session.agent().await;
    let first = list(&mut host).await;
    assert_eq!(ids(&first), ["both", "sub-other"]);
    assert_eq!(first.digest, digest(&first.applications));
    let name = first.applications[1].name.as_ref().unwrap();
    assert_eq!(name.translations[0].language, "de_AT");
    assert_eq!(name.translations[0].text, "Schlicht");
    assert!(first.applications[1].opens);

    // The user's folders come into being with the file; the user's file is the one that counts.
    session.application("both", "Exec=true\nComment=own\n");
    let second = list(&mut host).await;
    assert_eq!(second.applications[0].comment.as_ref().unwrap().plain, "own");
    assert_eq!(second.generation, first.generation + 1);

    session.write(".local/share/applications/new/one.desktop", format!("{PLAIN}Exec=true\n"));
    let third = list(&mut host).await;
    assert_eq!(ids(&third), ["both", "new-one", "sub-other"]);

    // Written again as it was: the next list is that of the next change.
    session.write("system/applications/sub/other.desktop", &other);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    std::fs::remove_file(session.home.join("system/applications/sub/other.desktop")).unwrap();
    let fourth = list(&mut host).await;
    assert_eq!(ids(&fourth), ["both", "new-one"]);
    assert_eq!(fourth.generation, third.generation + 1);

    host.guest.resync(ResyncRequest {}).await.unwrap();
    let again = host.lists.try_recv().expect("told before the answer");
    assert_eq!((again.generation, &again.digest), (fourth.generation + 1, &fourth.digest));
}

#[tokio::test]
async fn a_host_that_refuses_a_list_is_told_again_at_the_next_change() {
    use std::sync::atomic::Ordering;
    let session = Session::new().await;
    session.application("a", "Exec=true\n");
    session.desk.refuses_lists.store(true, Ordering::SeqCst);
    let (_agent, mut host) = session.agent().await;
    let refused = list(&mut host).await;
    assert!(host.guest.resync(ResyncRequest {}).await.is_err());
    list(&mut host).await;
    session.desk.refuses_lists.store(false, Ordering::SeqCst);
    // A change that leaves the list as it is.
    session.application("a", "Exec=true\n");
    assert_eq!(list(&mut host).await.digest, refused.digest);
    host.guest.resync(ResyncRequest {}).await.unwrap();
}

/// As much of a PNG as says its size.
fn png(edge: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(edge.to_be_bytes());
    bytes.extend(edge.to_be_bytes());
    bytes
}

#[tokio::test]
async fn icons_are_png_of_the_size_or_svg() {
    let session = Session::new().await;
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
    let icons = ".local/share/icons/hicolor";
    for edge in [16, 48, 256] {
        session.write(&format!("{icons}/{edge}x{edge}/apps/pixels.png"), png(edge));
    }
    session.write(&format!("{icons}/scalable/apps/drawn.svg"), svg);
    session.write("system/pixmaps/old.xpm", "/* XPM */");
    session.write("own.png", png(99));
    session.write("huge.png", png(2000));
    let own = session.home.display().to_string();
    for (id, icon) in [
        ("pixels", "pixels"),
        ("drawn", "drawn"),
        ("old", "old"),
        ("own", &format!("{own}/own.png")),
        ("huge", &format!("{own}/huge.png")),
        ("secret", "/etc/passwd"),
        ("up", "../apps/pixels"),
    ] {
        session.application(id, &format!("Exec=true\nIcon={icon}\n"));
    }
    let (_agent, mut host) = session.agent().await;
    let first = list(&mut host).await;
    let numbers = |list: &ApplicationList| -> BTreeMap<String, u64> {
        list.applications.iter().map(|one| (one.id.clone(), one.icon)).collect()
    };
    let before = numbers(&first);
    assert!(before["pixels"] != 0 && before["drawn"] != 0 && before["own"] != 0);
    assert_eq!((before["old"], before["up"]), (0, 0));

    let mut icon = async |application: &str, size| {
        let request = IconRequest { application: application.into(), size };
        host.guest.icon(request).await.map(|reply| reply.into_inner().icon.unwrap())
    };
    for (size, found) in [(16, 16), (48, 48), (64, 256), (512, 256)] {
        assert_eq!(icon("pixels", size).await.unwrap(), icon_reply::Icon::Png(png(found)));
    }
    assert_eq!(icon("drawn", 64).await.unwrap(), icon_reply::Icon::Svg(svg.into()));
    assert_eq!(icon("own", 8).await.unwrap(), icon_reply::Icon::Png(png(99)));
    for none in ["old", "huge", "secret", "up", "unknown", "../own"] {
        assert_eq!(icon(none, 48).await.unwrap_err().code(), Code::NotFound, "{none}");
    }
    for size in [0, 7, 513, u32::MAX] {
        assert_eq!(icon("own", size).await.unwrap_err().code(), Code::InvalidArgument);
    }

    session.write(&format!("{icons}/48x48/apps/pixels.png"), [png(48), png(48)].concat());
    let after = numbers(&list(&mut host).await);
    assert_ne!(after["pixels"], before["pixels"]);
    assert_eq!(after["drawn"], before["drawn"]);
}

#[tokio::test]
async fn a_program_gets_what_it_is_to_open_and_nothing_of_it_is_interpreted() {
    let mut session = Session::new().await;
    session.recorder("record");
    // The user's systemd knows a display that the agent does not.
    session.program("systemctl", "printf 'DISPLAY=:7\\nSPACED=%s\\n' \"\\$'a b'\"");
    session.variables.push(("OWN".into(), "kept".into()));
    let work = session.home.join("work folder");
    std::fs::create_dir(&work).unwrap();
    let keys = format!(
        "Name[de]=Der $(Name)\nIcon=an-icon\nPath={}\n\
         Exec=record --file=%%f \"a \\\\$(touch x) b\" 'single %F' %F %i %c \"\"\n\
         Actions=other;\n[Desktop Action other]\nName=Other\nExec=record other\n",
        work.display()
    );
    session.application("files", &keys);
    session.application("urls", "Exec=record %U\n");
    session.application("one", "Exec=record %f\n");
    session.application("none", "Exec=record\n");
    let tricky = ["a b%F%u%%\"'", "$(touch pwned)`id`", "new\nline", "-rf", ";\\"];
    let shared = |name: &str| {
        let path = name.as_bytes().to_vec();
        Target::Shared(SharedPath { tag: "docs".into(), path })
    };
    for name in tricky {
        session.write(&format!("Host/docs/{name}"), "");
    }
    let (_agent, mut host) = session.agent().await;
    list(&mut host).await;

    let pid = launch(&mut host, start("files", tricky.map(shared).to_vec())).await.unwrap();
    let started = session.started(pid).await;
    let docs = session.home.join("Host/docs").display().to_string();
    let mut expected = vec!["--file=%f".to_owned(), "a $(touch x) b".into(), "single %F".into()];
    expected.extend(tricky.map(|name| format!("{docs}/{name}")));
    expected.extend(["--icon", "an-icon", "Der $(Name)", ""].map(str::to_owned));
    assert_eq!(started.arguments, expected);
    assert_eq!(started.folder, work);
    for (name, value) in [("DISPLAY", ":7"), ("SPACED", "a b"), ("OWN", "kept")] {
        assert_eq!(started.variables[name], value);
    }
    for name in ["DESKTOP_STARTUP_ID", "XDG_ACTIVATION_TOKEN"] {
        assert!(!started.variables.contains_key(name), "{name}");
    }
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);

    let targets = vec![shared("a b%F%u%%\"'"), Target::Url("https://x/?q=%25f'$(id)".into())];
    let pid = launch(&mut host, start("urls", targets)).await.unwrap();
    assert_eq!(
        session.started(pid).await.arguments,
        [&format!("file://{docs}/a%20b%25F%25u%25%25%22'"), "https://x/?q=%25f%27$(id)"]
    );
    let action = LaunchRequest { action: "other".into(), ..start("files", Vec::new()) };
    let pid = launch(&mut host, action).await.unwrap();
    assert_eq!(session.started(pid).await.arguments, ["other"]);

    // One process for each file, where one file is all it takes.
    let before = std::fs::read_dir(session.home.join("started")).unwrap().count();
    let paths = ["/1", "/2", "/3"].map(|path| Target::Path(path.into())).to_vec();
    launch(&mut host, start("one", paths)).await.unwrap();
    let all = async {
        let done = |entry: &std::fs::DirEntry| entry.path().extension().is_none();
        while std::fs::read_dir(session.home.join("started"))
            .unwrap()
            .flatten()
            .filter(done)
            .count()
            < before + 3
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("three programs start");

    let path = |path: &str| vec![Target::Path(path.into())];
    let gone = LaunchRequest { action: "gone".into(), ..start("files", Vec::new()) };
    for (request, code) in [
        (start("unknown", Vec::new()), Code::NotFound),
        (start("../files", Vec::new()), Code::NotFound),
        (gone, Code::NotFound),
        (start("files", path("relative")), Code::InvalidArgument),
        (start("files", vec![shared("../up")]), Code::InvalidArgument),
        (start("files", vec![Target::Url("https://x/".into())]), Code::FailedPrecondition),
        (start("none", path("/x")), Code::FailedPrecondition),
        (start("files", vec![Target::Path("/x".into()); 257]), Code::InvalidArgument),
        (start("files", vec![shared("not there")]), Code::FailedPrecondition),
    ] {
        let refusal = launch(&mut host, request.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), code, "{request:?}: {refusal}");
    }
}

#[tokio::test]
async fn a_program_for_a_terminal_is_started_in_one() {
    let session = Session::new().await;
    session.recorder("x-terminal-emulator");
    session.program("top", "exit 1");
    session.application("top", "Exec=top -d '1 2'\nTerminal=true\n");
    session.application("missing", "Exec=not-installed\n");
    let (_agent, mut host) = session.agent().await;
    list(&mut host).await;
    let pid = launch(&mut host, start("top", Vec::new())).await.unwrap();
    let top = session.home.join("bin/top").display().to_string();
    let started = session.started(pid).await;
    assert_eq!(started.arguments, ["-e", &top, "-d", "1 2"]);
    assert_eq!(started.folder, session.home);
    let refusal = launch(&mut host, start("missing", Vec::new())).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert!(refusal.message().contains("not-installed"), "{refusal}");
}

#[tokio::test]
async fn hostile_files_stop_no_others_and_what_is_too_much_is_counted() {
    let session = Session::new().await;
    for number in 0..3000 {
        session.application(&format!("many{number:04}"), "Exec=true\n");
    }
    let folder = session.home.join(".local/share/applications");
    for (id, keys) in [
        ("a-newline", "Exec=true\\n\\nHidden=true\n"),
        ("a-quote", "Exec=sh -c \"echo\n"),
        ("a-field", "Exec=true %z\n"),
        ("a-assign", "Exec=LD_PRELOAD=/x true\n"),
    ] {
        session.application(id, keys);
    }
    std::os::unix::fs::symlink("..", folder.join("loop")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.join("a-zero.desktop")).unwrap();
    std::os::unix::fs::symlink("self.desktop", folder.join("self.desktop")).unwrap();
    let (mut agent, mut host) = session.agent().await;
    let told = list(&mut host).await;
    assert_eq!(told.applications.len(), 2048);
    assert_eq!(told.applications[0].id, "a-newline");
    assert_eq!(told.applications[2047].id, "many2046");
    let mut log = BufReader::new(agent.stderr.take().unwrap()).lines();
    // Three commands that are none, the device, the link to itself, and those over the limit.
    let mut missing = vec![
        "count=953 why=over the limit of the list",
        "count=2 why=not a readable desktop file",
        "count=1 why=Exec: a quote does not end",
        "count=1 why=Exec: it has a field that does not exist",
        "count=1 why=Exec: its first word is no program",
    ];
    while !missing.is_empty() {
        let line = tokio::time::timeout(PATIENCE, log.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("not logged: {missing:?}")).unwrap().unwrap();
        missing.retain(|expected| !line.contains(expected));
    }
}

#[tokio::test]
async fn what_was_started_outlives_the_agent_and_a_new_agent_tells_everything_again() {
    let session = Session::new().await;
    let (go, alive) = (session.home.join("go"), session.home.join("alive"));
    session.program(
        "wait-for",
        "while ! [ -e \"$1\" ]; do sleep 0.05; done; cut -d ' ' -f 6 /proc/$$/stat > \"$2.tmp\"; mv \"$2.tmp\" \"$2\"",
    );
    session.application("wait", &format!("Exec=wait-for {} {}\n", go.display(), alive.display()));
    let (mut agent, mut host) = session.agent().await;
    let first = list(&mut host).await;
    let pid = launch(&mut host, start("wait", Vec::new())).await.unwrap();
    agent.kill().await.unwrap();
    tokio::time::timeout(PATIENCE, host.gone.wait()).await.expect("the end is not noticed");
    session.application("later", "Exec=true\n");

    let (_agent, mut host) = session.agent().await;
    let second = list(&mut host).await;
    assert_eq!((ids(&first), ids(&second)), (vec!["wait"], vec!["later", "wait"]));
    std::fs::write(&go, "").unwrap();
    // It leads a session of its own, which no signal to the agent's reaches.
    assert_eq!(String::from_utf8(there(&alive).await).unwrap().trim(), pid.to_string());
    host.guest.resync(ResyncRequest {}).await.unwrap();
    assert_eq!(list(&mut host).await.digest, second.digest);
}

/// An application that is asked over D-Bus.
struct Asked(tokio::sync::mpsc::UnboundedSender<String>);

#[zbus::interface(name = "org.freedesktop.Application")]
impl Asked {
    fn activate(&self, _platform: BTreeMap<String, zbus::OwnedVariant>) {
        let _ = self.0.send("activate".into());
    }

    fn open(&self, urls: Vec<String>, _platform: BTreeMap<String, zbus::OwnedVariant>) {
        let _ = self.0.send(format!("open {}", urls.join(" ")));
    }

    fn activate_action(
        &self,
        action: String,
        _parameters: Vec<zbus::OwnedVariant>,
        _platform: BTreeMap<String, zbus::OwnedVariant>,
    ) {
        let _ = self.0.send(format!("action {action}"));
    }
}

#[tokio::test]
async fn an_application_on_the_session_bus_is_asked_and_one_that_is_not_there_is_started() {
    let mut session = Session::new().await;
    let socket = session.home.join("bus");
    let address = format!("unix:path={}", socket.display());
    let mut bus = Command::new("dbus-daemon");
    bus.args(["--session", "--nofork", "--nopidfile", "--address", &address]);
    bus.stderr(std::process::Stdio::null()).kill_on_drop(true);
    let Ok(_bus) = bus.spawn() else {
        eprintln!("SKIPPED: no dbus-daemon (package dbus-daemon)");
        return;
    };
    let coming = async {
        while !socket.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, coming).await.expect("the bus starts");
    let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let _application = zbus::connection::Builder::address(address.as_str())
        .serve_at("/org/example/An_Editor", Asked(tell))
        .name("org.example.An-Editor")
        .build()
        .await
        .unwrap();
    session.variables.push(("DBUS_SESSION_BUS_ADDRESS".into(), address));
    session.recorder("record");
    let keys = "DBusActivatable=true\nMimeType=text/plain;\nActions=new;\n[Desktop Action new]\nName=New\n";
    session.application("org.example.An-Editor", keys);
    session.application("org.example.Absent", "DBusActivatable=true\nExec=record absent %u\n");
    let (_agent, mut host) = session.agent().await;
    let told = list(&mut host).await;
    assert!(told.applications[1].opens);

    let id = "org.example.An-Editor";
    let file = || vec![Target::Path("/x/a b".into())];
    let action = LaunchRequest { action: "new".into(), ..start(id, Vec::new()) };
    for (request, what) in [
        (start(id, Vec::new()), "activate"),
        (start(id, file()), "open file:///x/a%20b"),
        (action, "action new"),
    ] {
        assert_eq!(launch(&mut host, request).await.unwrap(), 0);
        assert_eq!(asked.recv().await.unwrap(), what);
    }
    let pid = launch(&mut host, start("org.example.Absent", file())).await.unwrap();
    assert_eq!(session.started(pid).await.arguments, ["absent", "file:///x/a%20b"]);
}
