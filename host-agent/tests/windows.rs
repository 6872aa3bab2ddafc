//! A VM's windows as the daemon has them shown: the real daemon and VM process, a guest that speaks the window
//! protocol, and the control end of a compositor (`examples/compositor_end.rs`), which shows nothing
//! but can be made to die and to hang.

mod support;

use agent_link::{Direction, Hello, Role, Token, introduce};
use proto::v1::{FromGuest, FromHost, Rectangle, WindowsHello, from_guest, from_host};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
use support::displays::Display;
use support::{Desk, is_alive, kill, kvm, wait_until};
use vm_control::Client;

const USER: u32 = 1000;

/// A desk with a desktop, as far as the daemon looks at it, and one running VM.
struct Scene {
    desk: Desk,
    daemon: Option<Child>,
    compositor: PathBuf,
}

fn compositor_end() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    folder.join("examples/compositor_end")
}

/// The real compositor, where it has been built.
fn compositor() -> Option<PathBuf> {
    let built = compositor_end().parent().unwrap().with_file_name("macrohard-compositor");
    let named = std::env::var_os("MACROHARD_TEST_COMPOSITOR").map(PathBuf::from);
    let program = named.unwrap_or(built);
    if !program.exists() {
        eprintln!("SKIPPED: there is no {}", program.display());
        return None;
    }
    Some(program)
}

impl Scene {
    fn new() -> Self {
        Self::with(&compositor_end(), ":4711")
    }

    fn with(compositor: &Path, display: &str) -> Self {
        let mut scene = Self { desk: Desk::new(), daemon: None, compositor: compositor.into() };
        scene.start_daemon(Some(display));
        scene.desk.start("vm");
        scene
    }

    fn start_daemon(&mut self, display: Option<&str>) {
        let log = File::options().append(true).create(true).open(self.desk.path("daemon.log"));
        let mut command = self.desk.daemon();
        command.env("MACROHARD_COMPOSITOR", &self.compositor).stderr(log.unwrap());
        if let Some(display) = display {
            command.env("DISPLAY", display);
        }
        self.daemon = Some(command.spawn().unwrap());
        wait_until("the daemon", || self.desk.daemon_answers());
    }

    fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.desk.path("daemon.log")).unwrap_or_default()
    }

    fn folder(&self) -> PathBuf {
        let mut folders = std::fs::read_dir(self.desk.runtime().join("vms")).unwrap();
        folders.next().unwrap().unwrap().path()
    }

    /// In place of a VM process that has a screen.
    fn screen(&self) -> OwnedFd {
        use rustix::net::{
            AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
        };
        let flags = SocketFlags::CLOEXEC;
        let screen = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let path = self.folder().join("display.sock");
        bind(&screen, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&screen, 8).unwrap();
        screen
    }

    fn token(&self) -> Token {
        let launch = std::fs::read(self.folder().join("launch.json")).unwrap();
        let launch: serde_json::Value = serde_json::from_slice(&launch).unwrap();
        launch["agent_token"].as_str().unwrap().parse().unwrap()
    }

    /// A guest's connection for windows, `None` when it is turned away.
    fn try_connect(&self, role: Role) -> Option<UnixStream> {
        // More than two a second are turned away for that alone.
        std::thread::sleep(Duration::from_millis(550));
        let path = self.folder().join(format!("vsock.sock_{}", agent_link::PORT));
        let hello = Hello { role, direction: Direction::Windows, proof: self.token().proof(role) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(async {
            let mut stream = tokio::net::UnixStream::connect(path).await.ok()?;
            introduce(&mut stream, &hello).await.ok()?;
            stream.into_std().ok()
        })?;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Some(stream)
    }

    /// A guest whose windows are shown, as an agent that tries again until they are.
    fn guest(&self) -> Guest {
        let mut guest = None;
        wait_until("a guest is connected", || {
            guest = self.try_connect(Role::User(USER)).and_then(Guest::greeted);
            guest.is_some()
        });
        guest.unwrap()
    }

    fn windows(&self) -> Vec<serde_json::Value> {
        let said = self.desk.cli(&["windows", "vm", "--json"]).ok();
        said.json().as_array().unwrap().clone()
    }

    fn wait_for_titles(&self, titles: &[&str]) {
        wait_until(&format!("windows {titles:?}"), || {
            let windows = self.windows();
            windows
                .iter()
                .map(|window| window["title"].as_str().unwrap())
                .eq(titles.iter().copied())
        });
    }

    fn compositor(&self) -> u32 {
        let path = self.folder().join("compositor.pid");
        let mut number = None;
        // It is made, then written.
        wait_until("the compositor's number", || {
            number = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            number.is_some()
        });
        number.unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
        if self.daemon.is_some() {
            self.kill_daemon();
        }
    }
}

/// All windows of a desktop as xwininfo(1) names them.
fn desktop_windows(display: &Display) -> String {
    let mut command = Command::new("xwininfo");
    let output = command.args(["-root", "-tree", "-display", &display.name]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

struct Guest(UnixStream);

impl Guest {
    /// After both hellos; `None` where the host's does not come.
    fn greeted(stream: UnixStream) -> Option<Self> {
        let mut guest = Self(stream);
        let hello = WindowsHello { version: window_link::VERSION, ..WindowsHello::default() };
        guest.tell(from_guest::Message::Hello(hello))?;
        let mut decoder = window_link::Decoder::<FromHost>::default();
        let message = loop {
            if let Some(message) = decoder.take().unwrap() {
                break message;
            }
            let mut byte = [0];
            match guest.0.read(&mut byte) {
                Ok(1) => decoder.give(&byte),
                _ => return None,
            }
        };
        match message.message {
            Some(from_host::Message::Hello(hello)) => assert_eq!(hello.window_memory, 256 << 20),
            other => panic!("{other:?}"),
        }
        Some(guest)
    }

    fn tell(&mut self, message: from_guest::Message) -> Option<()> {
        let mut bytes = Vec::new();
        window_link::encode(&FromGuest { message: Some(message) }, &mut bytes).unwrap();
        self.0.write_all(&bytes).ok()
    }

    fn window(&mut self, id: u32, title: &str) {
        let geometry = Some(Rectangle { x: -5, y: 10, width: 300, height: 200 });
        let window = proto::v1::Window {
            id,
            generation: 1,
            geometry,
            title: title.to_owned(),
            class: "Test".to_owned(),
            ..Default::default()
        };
        let _ = self.tell(from_guest::Message::Window(window));
    }

    /// The host has ended the connection.
    fn is_over(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 64]), Ok(0) | Err(_))
    }
}

#[test]
fn a_guests_windows_are_listed_and_pictured() {
    if !kvm() {
        return;
    }
    let scene = Scene::new();
    assert_eq!(scene.windows(), Vec::<serde_json::Value>::new());
    let nothing = scene.desk.cli(&["screenshot", "vm"]);
    nothing.refused(1, &["no window of VM \"vm\" is shown"]);
    let mut guest = scene.guest();
    guest.window(7, "Editor");
    scene.wait_for_titles(&["Editor"]);
    let window = scene.windows().remove(0);
    assert_eq!(
        (&window["id"], &window["class"], &window["x"], &window["width"]),
        (&7.into(), &"Test".into(), &(-5).into(), &300.into())
    );
    let list = scene.desk.cli(&["windows", "vm"]).ok().out;
    assert!(list.contains("7   Test   300x200-5+10  Editor"), "{list}");
    let status = scene.desk.cli(&["status", "vm"]).ok().out;
    assert!(status.contains("seamless, 1 window"), "{status}");
    // What the compositor says of itself: here, its colour, and how many guests there were.
    assert!(status.contains("drawn by") && status.contains("refused"), "{status}");
    let windows = &scene.desk.status("vm")["windows"];
    assert!(windows["renderer"].as_str().unwrap().starts_with('['), "{windows}");
    assert!(windows["refused"]["guests"].as_u64().unwrap() >= 1, "{windows}");

    // What the VM's memory holds is what the compositor sees.
    let mut client = Client::connect(&scene.folder().join("control.sock"), Duration::from_secs(10));
    let memory = client.as_mut().unwrap().window_memory().unwrap().file;
    File::from(memory).write_all_at(&[0x30, 0x20, 0x10, 0], 0).unwrap();
    scene.desk.cli(&["screenshot", "vm", "--window", "7", "--output", "picture.png"]).ok();
    let picture = File::open(scene.desk.path("picture.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(picture)).read_info().unwrap();
    let mut pixels = [0; 3];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, [0x10, 0x20, 0x30]);
    let unknown = scene.desk.cli(&["screenshot", "vm", "--window", "8"]);
    unknown.refused(1, &["there is no window 8"]);
}

#[test]
fn a_guests_window_is_a_window_of_the_desktop_until_the_vm_ends() {
    let Some(program) = compositor().filter(|_| kvm()) else { return };
    if Command::new("Xvfb").arg("-help").output().is_err() {
        eprintln!("SKIPPED: Xvfb cannot be started");
        return;
    }
    let display = Display::start();
    let scene = Scene::with(&program, &display.name);
    let mut client = Client::connect(&scene.folder().join("control.sock"), Duration::from_secs(10));
    let memory = client.as_mut().unwrap().window_memory().unwrap().file;
    let (width, height) = (64, 32);
    let pixels = [0x10, 0x80, 0xf0, 0].repeat(width * height);
    File::from(memory).write_all_at(&pixels, 4096).unwrap();
    let mut guest = scene.guest();
    let geometry = Some(Rectangle { x: 100, y: 50, width: 64, height: 32 });
    guest.tell(from_guest::Message::Window(proto::v1::Window {
        id: 3,
        generation: 1,
        geometry,
        title: "Notes".to_owned(),
        class: "Editor".to_owned(),
        kind: proto::v1::WindowKind::Normal.into(),
        ..Default::default()
    }));
    guest.tell(from_guest::Message::Present(proto::v1::Present {
        window: 3,
        sequence: 1,
        offset: 4096,
        stride: 256,
        width: 64,
        height: 32,
        damage: Vec::new(),
    }));
    wait_until("a window in the list", || {
        scene.windows().iter().any(|window| window["title"].as_str().unwrap().ends_with("Notes"))
    });
    wait_until("a window of the desktop", || desktop_windows(&display).contains("[vm] Notes"));
    wait_until("its pixels", || {
        let shot = ["screenshot", "vm", "--window", "3", "--output", "3.png"];
        if scene.desk.cli(&shot).code != Some(0) {
            return false;
        }
        let picture = File::open(scene.desk.path("3.png")).unwrap();
        let mut decoder = png::Decoder::new(std::io::BufReader::new(picture));
        decoder.set_transformations(png::Transformations::STRIP_16);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        // The host's border is around them.
        let (width, samples) = (info.width as usize, info.color_type.samples());
        let border = (width - 64) / 2;
        let rows = pixels.chunks(width * samples).skip(border).take(32);
        let guests = rows.flat_map(|row| row[border * samples..][..64 * samples].chunks(samples));
        guests.map(|pixel| &pixel[..3]).all(|pixel| pixel == [0xf0, 0x80, 0x10])
    });
    let whole = scene.desk.cli(&["screenshot", "vm"]).ok();
    assert_eq!(whole.out, "vm.png\n");
    scene.desk.cli(&["stop", "vm", "--force"]).ok();
    wait_until("no window is left", || !desktop_windows(&display).contains("Notes"));
}

#[test]
fn the_way_windows_are_shown_is_changed_at_once_and_stays() {
    if !kvm() {
        return;
    }
    let scene = Scene::new();
    let _guest = scene.guest();
    scene.desk.cli(&["seamless", "vm", "--disable"]).refused(1, &["has no screen", "[display]"]);
    scene.desk.cli(&["seamless", "vm", "--toggle"]).refused(1, &["has no screen"]);
    let _screen = scene.screen();
    let way = |option: &[&str]| {
        let arguments = [&["seamless", "vm", "--json"], option].concat();
        scene.desk.cli(&arguments).ok().json()["seamless"].clone()
    };
    let definition = || std::fs::read_to_string(scene.desk.definition("vm")).unwrap();
    assert_eq!(way(&[]), true);
    assert!(!definition().contains("[windows]"));
    assert_eq!(way(&["--disable"]), false);
    assert!(definition().contains("[windows]\nseamless = false"), "{}", definition());
    assert!(scene.desk.cli(&["status", "vm"]).ok().out.contains("desktop, 0 windows"));
    assert_eq!(way(&["--toggle"]), true);
    assert_eq!(way(&["--toggle"]), false);
    assert_eq!(way(&["--enable"]), true);
    assert_eq!(scene.desk.status("vm")["windows"]["seamless"], true);
    scene.desk.cli(&["seamless", "vm", "--enable", "--toggle"]).refused(2, &["--toggle"]);
    scene.desk.cli(&["seamless", "other"]).refused(1, &["no VM \"other\""]);
}

#[test]
fn a_compositor_that_dies_is_followed_by_another_and_the_agent_tells_again() {
    if !kvm() {
        return;
    }
    let scene = Scene::new();
    let mut guest = scene.guest();
    guest.window(1, "before");
    scene.wait_for_titles(&["before"]);
    let first = scene.compositor();
    kill(first);
    assert!(guest.is_over(), "the guest hears nothing of it");
    let mut guest = scene.guest();
    guest.window(2, "after");
    scene.wait_for_titles(&["after"]);
    assert_ne!(scene.compositor(), first);
}

#[test]
fn a_guest_that_kills_compositors_waits_longer_and_longer_for_the_next() {
    if !kvm() {
        return;
    }
    let scene = Scene::new();
    for _ in 0..5 {
        let mut guest = scene.guest();
        guest.window(1, "die");
        assert!(guest.is_over());
    }
    wait_until("a refusal", || {
        let _ = scene.try_connect(Role::User(USER));
        scene.log().contains("its compositors have died")
    });
    // The rest of the VM is as it was, and windows come back.
    assert_eq!(scene.desk.state("vm"), "running");
    let mut guest = scene.guest();
    guest.window(1, "alive");
    scene.wait_for_titles(&["alive"]);
}

#[test]
fn a_compositor_that_hangs_holds_nobody_up() {
    if !kvm() {
        return;
    }
    let scene = Scene::new();
    let mut guest = scene.guest();
    guest.window(1, "hang");
    let pid = scene.compositor();
    wait_until("nobody answers", || {
        scene.desk.cli(&["status", "vm"]).ok().out.contains("seamless, not connected")
    });
    scene.desk.cli(&["windows", "vm"]).refused(1, &["does not answer"]);
    scene.desk.cli(&["stop", "vm", "--force"]).ok();
    wait_until("it is ended with its VM", || !is_alive(pid));
}

#[test]
fn windows_outlive_the_daemon_and_the_next_one_finds_them() {
    if !kvm() {
        return;
    }
    let mut scene = Scene::new();
    let mut guest = scene.guest();
    guest.window(1, "kept");
    scene.wait_for_titles(&["kept"]);
    let pid = scene.compositor();
    scene.kill_daemon();
    // It has no desktop: what it shows it has found.
    scene.start_daemon(None);
    scene.wait_for_titles(&["kept"]);
    assert_eq!(scene.compositor(), pid);
    guest.window(2, "new");
    scene.wait_for_titles(&["kept", "new"]);
    scene.desk.cli(&["stop", "vm", "--force"]).ok();
    wait_until("it is ended with its VM", || !is_alive(pid));
}

#[test]
fn a_vm_that_ended_without_a_daemon_leaves_no_compositor_to_the_next() {
    if !kvm() {
        return;
    }
    let mut scene = Scene::new();
    let guest = scene.guest();
    let (pid, vm) = (scene.compositor(), scene.desk.vm_pid("vm"));
    scene.kill_daemon();
    kill(vm);
    wait_until("the VM has ended", || !is_alive(vm));
    // The connection of this guest does not end with its VM.
    assert!(is_alive(pid));
    scene.start_daemon(Some(":4711"));
    wait_until("it is swept away", || !is_alive(pid));
    drop(guest);
}

#[test]
fn in_desktop_mode_the_screen_is_shown_without_an_agent_and_again_when_its_compositor_dies() {
    use rustix::net::accept;
    if !kvm() {
        return;
    }
    let scene = Scene::new();
    let screen = scene.screen();
    let pid_file = scene.folder().join("compositor.pid");
    assert!(!pid_file.exists());
    scene.desk.cli(&["seamless", "vm", "--disable"]).ok();
    let _first = accept(&screen).unwrap();
    let pid = scene.compositor();
    kill(pid);
    let _second = accept(&screen).unwrap();
    wait_until("another compositor", || scene.compositor() != pid);
    scene.desk.cli(&["stop", "vm", "--force"]).ok();
    assert!(!is_alive(pid));
}

#[test]
fn without_a_desktop_nothing_is_shown_and_the_vm_runs_on() {
    if !kvm() {
        return;
    }
    let compositor = compositor_end();
    let mut scene = Scene { desk: Desk::new(), daemon: None, compositor };
    scene.start_daemon(None);
    scene.desk.start("vm");
    assert!(scene.try_connect(Role::User(USER)).is_none());
    assert!(scene.log().contains("no desktop"), "{}", scene.log());
    assert!(!scene.folder().join("compositor.pid").exists());
    scene.desk.cli(&["screenshot", "vm"]).refused(1, &["no window of VM"]);
    assert_eq!(scene.desk.state("vm"), "running");
}

/// Takes what a viewer says, and does nothing with it.
struct Seat;

impl display::Seat for Seat {
    fn take(&mut self, _: display::FromViewer) {}
}

#[test]
fn without_a_desktop_a_picture_is_of_the_screen() {
    use display::Scanout as _;
    if !kvm() {
        return;
    }
    let mut scene = Scene { desk: Desk::new(), daemon: None, compositor: compositor_end() };
    scene.start_daemon(None);
    scene.desk.start("vm");
    // In place of a VM process that has a screen.
    let shared = display::Display::new().unwrap();
    let mut screen = shared.screen();
    let path = scene.folder().join("display.sock");
    let _server = display::Server::start(&shared, &path, Box::new(Seat)).unwrap();
    let to = scene.desk.path("screen.png");
    let picture = || scene.desk.cli(&["screenshot", "vm", "--output", to.to_str().unwrap()]);
    picture().refused(1, &["shows nothing"]);
    let size = display::Size::new(3, 2).unwrap();
    screen.configure(Some(size)).unwrap();
    screen.paint(size.whole(), &mut |y, x, row| {
        for (column, pixel) in row.chunks_exact_mut(4).enumerate() {
            pixel.copy_from_slice(&[x as u8 + column as u8, y as u8, 7, 0]);
        }
    });
    picture().ok();
    let file = std::io::BufReader::new(File::open(&to).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (3, 2));
    let expected: Vec<u8> = (0..2).flat_map(|y| (0..3).flat_map(move |x| [7, y, x])).collect();
    assert_eq!(pixels, expected);
    // A window is another thing.
    scene.desk.cli(&["screenshot", "vm", "--window", "1"]).refused(1, &["no window"]);
}

#[test]
fn a_flood_of_connections_and_connections_of_the_system_harm_nobody() {
    if !kvm() {
        return;
    }
    let scene = Scene::new();
    assert!(scene.try_connect(Role::System).is_none());
    assert!(scene.log().contains("only a session has windows"), "{}", scene.log());
    let held: Vec<_> = (0..100).map(|_| scene.try_connect(Role::User(USER))).collect();
    let mut guest = scene.guest();
    guest.window(1, "last");
    scene.wait_for_titles(&["last"]);
    drop(held);
    scene.wait_for_titles(&["last"]);
}
