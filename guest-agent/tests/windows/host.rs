//! A host for the real agent: it takes connections, maps the same memory, keeps what it is told and copies
//! what is presented. It checks with every message that the agent keeps to the protocol.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proto::v1::{
    Configure, Cursor, Focus, FromGuest, FromHost, Key, Monitor, Monitors, MoveResize, Ping,
    PointerButton, PointerMotion, Present, PresentAck, Rectangle, Window, WindowIcon, WindowRaised,
    WindowState, WindowsHello, from_guest, from_host,
};
use window_link::{Decoder, encode, limits};
use window_memory::WindowMemory;

/// Bound on waits for things that take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of window memory.
pub const MEMORY: u64 = 64 << 20;

/// True when all these programs are here; says so loudly otherwise.
pub fn there_are(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs
        .iter()
        .find(|program| !std::env::split_paths(&path).any(|place| place.join(program).is_file()));
    if let Some(program) = missing {
        eprintln!("SKIPPED: {program} is not installed");
    }
    missing.is_none()
}

/// Ends the X server with this key, which outlives its agent and would outlive the test.
pub fn end_server(authority: &Path) {
    let own = authority.to_str().unwrap().as_bytes();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(own.len()).any(|part| part == own) && line.starts_with(b"Xvfb") {
            let pid: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
    }
}

/// A process that ends with the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with a socket, window memory, an X server and an agent.
pub struct Desk {
    folder: tempfile::TempDir,
    listener: UnixListener,
    pub memory: WindowMemory,
    agent: Option<Process>,
    pub display: String,
    server: Process,
}

impl Desk {
    /// With an agent that has not connected yet.
    pub fn new() -> Self {
        Self::with(MEMORY)
    }

    pub fn with(memory: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let memory = WindowMemory::create(memory).unwrap();
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", "1600x1200x24"]);
        command.args(["-nolisten", "tcp", "-noreset"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        let mut number = String::new();
        let mut said = std::io::BufReader::new(server.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut number).unwrap();
        let display = format!(":{}", number.trim());
        let server = Process(server);
        // What the agent finds is what a test says: window managers of this machine are none of it.
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        let mut desk = Self { folder, listener, memory, agent: None, display, server };
        for program in ["Xvfb", "setxkbmap"] {
            desk.install(program);
        }
        desk.start_agent();
        desk
    }

    /// Lets the agent find a program of this machine.
    pub fn install(&self, program: &str) {
        let path = std::env::var_os("PATH").unwrap();
        let places = std::env::split_paths(&path).map(|place| place.join(program));
        for found in places.filter(|path| path.is_file()).take(1) {
            std::os::unix::fs::symlink(found, self.path().join("bin").join(program)).unwrap();
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_macrohard-guest-agent"));
        let socket = self.folder.path().join("socket");
        command.env("PATH", self.path().join("bin"));
        command.arg("windows").arg(format!("--connect=unix:{}", socket.display()));
        let memory = self.memory.descriptor().as_raw_fd();
        command.arg(format!("--memory=/proc/{}/fd/{memory}", std::process::id()));
        command
    }

    pub fn start_agent(&mut self) {
        let mut command = self.command();
        command.arg(format!("--display={}", self.display)).stdout(Stdio::null());
        self.agent = Some(Process(command.spawn().unwrap()));
    }

    /// Ends the agent as a crash would.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// Whether the agent still runs.
    pub fn agent_lives(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|agent| matches!(agent.0.try_wait(), Ok(None)))
    }

    /// Seconds of processor time that agent and X server have used.
    pub fn processor_time(&self) -> f64 {
        let agent = self.agent.as_ref().map(|agent| agent.0.id());
        let of = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<u64> = stat
                .rsplit_once(") ")
                .unwrap()
                .1
                .split(' ')
                .skip(11)
                .take(2)
                .map(|field| field.parse().unwrap())
                .collect();
            (fields[0] + fields[1]) as f64 / 100.0
        };
        agent.into_iter().chain([self.server.0.id()]).map(of).sum()
    }

    /// An agent with an X server of its own, whose files are in `folder`.
    pub fn own_server(&self, folder: &Path) -> (Process, String, PathBuf) {
        let mut command = self.command();
        command.arg("--runtime").arg(folder).args(["--screen", "800x600"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = |name: &str| {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            line.trim().strip_prefix(name).unwrap_or_else(|| panic!("{line:?}")).to_owned()
        };
        let (display, authority) = (line("DISPLAY="), line("XAUTHORITY="));
        (Process(child), display, authority.into())
    }

    /// Runs a program in the session.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(program);
        command.args(arguments).env("DISPLAY", &self.display).env_remove("WAYLAND_DISPLAY");
        command.env("GDK_BACKEND", "x11").env("QT_QPA_PLATFORM", "xcb").env("LC_ALL", "C.UTF-8");
        command.env("NO_AT_BRIDGE", "1").env("HOME", self.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().unwrap())
    }

    /// What a program in the session says.
    pub fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command.args(["60", program]).args(arguments).env("DISPLAY", &self.display);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The next connection of the agent, after the hellos.
    pub fn connected(&self) -> Peer<'_> {
        let mut peer = self.greeted(window_link::VERSION);
        peer.until("everything is told", |peer| peer.told > 0);
        peer
    }

    /// The next connection, with a hello of this version sent.
    pub fn greeted(&self, version: u32) -> Peer<'_> {
        self.listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("the agent does not connect: {error}"),
            }
        };
        self.peer(stream, version)
    }

    /// The host's end of a connection, with a hello of this version sent.
    pub fn peer(&self, stream: UnixStream, version: u32) -> Peer<'_> {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut peer = Peer {
            memory: &self.memory,
            stream,
            decoder: Decoder::default(),
            windows: BTreeMap::new(),
            gone: Vec::new(),
            cursor: None,
            told: 0,
            pongs: 0,
            bells: 0,
            raised: Vec::new(),
            move_resizes: Vec::new(),
            hello: None,
            generation: 0,
            sequence: 0,
            holds: false,
            closed: false,
            presents: 0,
        };
        let program = "test host".to_owned();
        let hello = WindowsHello { version, window_memory: self.memory.len(), program };
        peer.send(from_host::Message::Hello(hello));
        peer
    }
}

/// A window as the host knows it.
#[derive(Default)]
pub struct Seen {
    pub record: Window,
    pub icon: Option<WindowIcon>,
    /// Blue, green, red and alpha of each pixel.
    pub pixels: Vec<u8>,
    pub size: (u32, u32),
    pub presents: Vec<Present>,
    unanswered: Option<u64>,
}

impl Seen {
    /// Blue, green and red.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = ((y * self.size.0 + x) * 4) as usize;
        self.pixels[at..at + 3].try_into().unwrap()
    }

    pub fn geometry(&self) -> Rectangle {
        self.record.geometry.unwrap()
    }

    pub fn state(&self) -> WindowState {
        self.record.state.unwrap()
    }

    /// How many pixels have this colour.
    pub fn count(&self, colour: [u8; 3]) -> usize {
        self.pixels.chunks_exact(4).filter(|pixel| pixel[..3] == colour).count()
    }
}

/// The host's end of a connection.
pub struct Peer<'a> {
    memory: &'a WindowMemory,
    stream: UnixStream,
    decoder: Decoder<FromGuest>,
    pub windows: BTreeMap<u32, Seen>,
    pub gone: Vec<u32>,
    pub cursor: Option<Cursor>,
    pub told: u32,
    pub pongs: u64,
    pub bells: u32,
    pub raised: Vec<WindowRaised>,
    pub move_resizes: Vec<MoveResize>,
    pub hello: Option<WindowsHello>,
    generation: u64,
    sequence: u64,
    /// Presents are not answered.
    pub holds: bool,
    pub closed: bool,
    pub presents: u64,
}

impl Peer<'_> {
    pub fn send(&mut self, message: from_host::Message) {
        let mut bytes = Vec::new();
        encode(&FromHost { message: Some(message) }, &mut bytes).unwrap();
        // It may have ended, which the next read says.
        let _ = self.stream.write_all(&bytes);
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Takes what comes until this is so.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let windows: Vec<_> = self.windows.values().map(|seen| &seen.record).collect();
            assert!(Instant::now() < deadline, "not so in {PATIENCE:?}: {what}; {windows:?}");
            self.take();
        }
    }

    /// Takes what comes for so long.
    pub fn listen(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.take();
        }
    }

    /// Waits until the agent has done all that was said.
    pub fn settle(&mut self) {
        let number = self.pongs + 1;
        self.send(from_host::Message::Ping(Ping { number }));
        self.until("a pong", |peer| peer.pongs == number);
    }

    /// The one window with such a class.
    pub fn find(&mut self, class: &str) -> u32 {
        let mut found = 0;
        self.until(&format!("a window of {class}"), |peer| {
            let is = |seen: &&Seen| seen.record.class == class && !seen.record.override_redirect;
            found = peer.windows.values().find(is).map_or(0, |seen| seen.record.id);
            found != 0
        });
        self.until("its pixels", |peer| !peer.windows[&found].presents.is_empty());
        found
    }

    pub fn monitors(&mut self, monitors: &[(i32, i32, u32, u32, u32)]) {
        let monitor = |&(x, y, width, height, scale): &(i32, i32, u32, u32, u32)| Monitor {
            geometry: Some(Rectangle { x, y, width, height }),
            work_area: Some(Rectangle { x, y: y + 30, width, height: height - 30 }),
            scale,
            ..Monitor::default()
        };
        let mut monitors: Vec<Monitor> = monitors.iter().map(monitor).collect();
        monitors[0].primary = true;
        self.send(from_host::Message::Monitors(Monitors { monitors }));
    }

    pub fn configure(&mut self, window: u32, generation: u64, place: (i32, i32, u32, u32)) {
        let (x, y, width, height) = place;
        self.send(from_host::Message::Configure(Configure {
            window,
            generation,
            geometry: Some(Rectangle { x, y, width, height }),
            ..Configure::default()
        }));
    }

    pub fn focus(&mut self, window: u32) {
        self.send(from_host::Message::Focus(Focus { window }));
    }

    /// Presses and releases keys of linux/input-event-codes.h.
    pub fn keys(&mut self, window: u32, codes: &[u32]) {
        for code in codes {
            for pressed in [true, false] {
                let key = Key { window, code: *code, pressed, time: 0 };
                self.send(from_host::Message::Key(key));
            }
        }
    }

    pub fn point(&mut self, window: u32, x: i32, y: i32) {
        let motion = PointerMotion { window, x: x * 256 + 128, y: y * 256 + 128, time: 0 };
        self.send(from_host::Message::Motion(motion));
    }

    pub fn button(&mut self, window: u32, button: u32, pressed: bool) {
        let button = PointerButton { window, button, pressed, time: 0 };
        self.send(from_host::Message::Button(button));
    }

    pub fn click(&mut self, window: u32, x: i32, y: i32) {
        self.point(window, x, y);
        self.button(window, 1, true);
        self.button(window, 1, false);
    }

    fn take(&mut self) {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.closed = true;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(count) => self.decoder.give(&buffer[..count]),
            Err(_) => {}
        }
        while let Some(message) = self.decoder.take().unwrap() {
            self.handle(message.message.unwrap());
        }
    }

    fn handle(&mut self, message: from_guest::Message) {
        use from_guest::Message as M;
        if self.hello.is_none() {
            let M::Hello(hello) = message else { panic!("{message:?} before the hello") };
            assert_eq!(hello.version, window_link::VERSION);
            self.hello = Some(hello);
            return;
        }
        match message {
            M::Hello(_) => panic!("another hello"),
            M::Window(record) => self.window(record),
            M::Gone(gone) => {
                assert!(self.windows.remove(&gone.id).is_some(), "gone, and never told");
                self.gone.push(gone.id);
            }
            M::Present(present) => self.present(present),
            M::Icon(icon) => {
                assert!((1..=limits::ICON).contains(&icon.width));
                assert_eq!(icon.pixels.len() as u32, icon.width * icon.height * 4);
                let window = icon.window;
                self.windows.get_mut(&window).unwrap().icon = Some(icon);
            }
            M::Cursor(cursor) => {
                assert!(cursor.width <= limits::CURSOR && cursor.height <= limits::CURSOR);
                assert_eq!(cursor.pixels.len() as u32, cursor.width * cursor.height * 4);
                assert!(cursor.name.len() <= limits::CURSOR_NAME);
                self.cursor = Some(cursor);
            }
            M::Raised(raised) => self.raised.push(raised),
            M::MoveResize(request) => self.move_resizes.push(request),
            M::Bell(_) => self.bells += 1,
            M::Told(_) => self.told += 1,
            M::Pong(pong) => self.pongs = pong.number,
        }
    }

    fn window(&mut self, record: Window) {
        assert!(record.generation > self.generation, "{record:?}");
        self.generation = record.generation;
        let place = record.geometry.unwrap();
        assert!((1..=limits::SIDE).contains(&place.width), "{place:?}");
        assert!((1..=limits::SIDE).contains(&place.height), "{place:?}");
        assert!((-limits::COORDINATE..limits::COORDINATE).contains(&place.x), "{place:?}");
        assert!((-limits::COORDINATE..limits::COORDINATE).contains(&place.y), "{place:?}");
        assert!(record.title.len() <= limits::TITLE && record.class.len() <= limits::CLASS);
        assert!(!record.title.contains(char::is_control), "{:?}", record.title);
        assert!(record.shape.len() <= limits::SHAPE);
        let id = record.id;
        self.windows.entry(id).or_default().record = record;
        assert!(self.windows.len() <= limits::WINDOWS);
    }

    fn present(&mut self, present: Present) {
        assert!(present.sequence > self.sequence);
        self.sequence = present.sequence;
        self.presents += 1;
        let seen = self.windows.get_mut(&present.window).expect("of a window that was told");
        assert_eq!(seen.unanswered, None, "one present at a time");
        let picture = self.memory.picture(&present).unwrap();
        let size = (present.width, present.height);
        let stride = present.width as usize * 4;
        let mut pixels = vec![0; stride * present.height as usize];
        self.memory.copy_out(&picture, picture.area(), &mut pixels, stride);
        if seen.size != size {
            assert!(present.damage.is_empty(), "all of it where the size changes");
        }
        if !present.damage.is_empty() {
            // What is not said to be damaged has not changed, as far as the host has been told.
            for rectangle in &present.damage {
                assert!(rectangle.x >= 0 && rectangle.y >= 0, "{rectangle:?}");
                assert!(
                    rectangle.x as u32 + rectangle.width <= size.0,
                    "{rectangle:?} of {size:?}"
                );
                assert!(
                    rectangle.y as u32 + rectangle.height <= size.1,
                    "{rectangle:?} of {size:?}"
                );
                for row in rectangle.y as usize..rectangle.y as usize + rectangle.height as usize {
                    let from = row * stride + rectangle.x as usize * 4;
                    let bytes = rectangle.width as usize * 4;
                    seen.pixels[from..from + bytes].copy_from_slice(&pixels[from..from + bytes]);
                }
            }
        } else {
            seen.pixels = pixels;
            seen.size = size;
        }
        let (window, sequence) = (present.window, present.sequence);
        seen.unanswered = Some(sequence);
        seen.presents.push(present);
        if !self.holds {
            self.acknowledge(window);
        }
    }

    /// Answers a window's present.
    pub fn acknowledge(&mut self, window: u32) {
        let seen = self.windows.get_mut(&window).unwrap();
        if let Some(sequence) = seen.unanswered.take() {
            self.send(from_host::Message::Ack(PresentAck { window, sequence }));
        }
    }
}
