//! A desktop of its own for a test: Xvfb, a window manager, the compositor, and a guest that the test plays.
#![allow(dead_code, reason = "each test uses some of it")]

pub(crate) mod guest;

use compositor_control::{
    Answer, FromCompositor, Mode, Question, Receiver, Sender, Start, Status, ToCompositor, VERSION,
    Window,
};
use guest::Guest;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use window_memory::WindowMemory;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    AtomEnum, ConfigureWindowAux, ConnectionExt as _, CreateGCAux, CreateWindowAux, ImageFormat,
    StackMode, WindowClass,
};
use x11rb::rust_connection::RustConnection;

/// How long a test waits for what must come before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what cannot be waited for.
const LOOK: Duration = Duration::from_millis(20);
pub(crate) const COLOUR: [u8; 3] = [0xc0, 0x40, 0x10];
pub(crate) const VM: &str = "Test VM";
/// Of an ordinary window at 100 %.
pub(crate) const BORDER: i32 = 2;

/// Ends its process with it.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it, to be heard of no more.
    pub(crate) fn of(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An X server with a window manager.
pub(crate) struct Desktop {
    pub(crate) display: String,
    pub(crate) x: RustConnection,
    pub(crate) root: u32,
    // In this order: the window manager first.
    _manager: Process,
    _server: Process,
    folder: tempfile::TempDir,
}

/// True when these programs are there; says which is not.
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&path).any(|folder| folder.join(program).exists()) {
            println!("SKIPPED: {program} is not installed");
            return false;
        }
    }
    true
}

impl Desktop {
    /// `None` where it cannot be had.
    pub(crate) fn new() -> Option<Self> {
        Self::with(None)
    }

    /// With this for openbox's configuration.
    pub(crate) fn with(configuration: Option<&str>) -> Option<Self> {
        if !have(&["Xvfb", "openbox", "xprop", "xwininfo", "xdotool", "wmctrl"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut server = Command::new("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "1280x800x24",
                "-nolisten",
                "tcp",
                "-noreset",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let server = Process(server);
        let display = format!(":{}", number.trim());
        let (x, screen) = x11rb::connect(Some(&display)).unwrap();
        let root = x.setup().roots[screen].root;
        if let Some(configuration) = configuration {
            std::fs::create_dir(folder.path().join("openbox")).unwrap();
            std::fs::write(folder.path().join("openbox/rc.xml"), configuration).unwrap();
        }
        let manager = Command::new("openbox")
            .env("DISPLAY", &display)
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .env("XDG_CACHE_HOME", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let desktop =
            Self { display, x, root, _manager: Process(manager), _server: server, folder };
        desktop.wait_for_manager();
        Some(desktop)
    }

    /// A window manager that is just starting forgets windows that are mapped then: until it has taken one.
    fn wait_for_manager(&self) {
        let state = self.atom("WM_STATE");
        let window = self.x.generate_id().unwrap();
        let attributes = CreateWindowAux::new();
        let class = WindowClass::INPUT_OUTPUT;
        self.x.create_window(0, window, self.root, 0, 0, 9, 9, 0, class, 0, &attributes).unwrap();
        self.until("a window manager", || {
            self.x.unmap_window(window).unwrap();
            self.x.map_window(window).unwrap();
            let cookie = self.x.get_property(false, window, state, AtomEnum::ANY, 0, 1);
            (cookie.unwrap().reply().unwrap().length > 0).then_some(())
        });
        self.x.destroy_window(window).unwrap();
        let list = self.atom("_NET_CLIENT_LIST");
        self.until("the end of the first window", || {
            let cookie = self.x.get_property(false, self.root, list, AtomEnum::ANY, 0, 1);
            (cookie.unwrap().reply().unwrap().length == 0).then_some(())
        });
    }

    fn atom(&self, name: &str) -> u32 {
        self.x.intern_atom(false, name.as_bytes()).unwrap().reply().unwrap().atom
    }

    /// Looks again and again.
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{what} has not come");
            std::thread::sleep(LOOK);
        }
    }

    /// For files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a program of the desktop and gives what it printed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output =
            Command::new(program).args(arguments).env("DISPLAY", &self.display).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// A property as xprop(1) says it.
    pub(crate) fn property(&self, window: u64, name: &str) -> String {
        self.run("xprop", &["-id", &window.to_string(), name]).trim().to_owned()
    }

    /// A window of the host's own that is open.
    pub(crate) fn own_window(&self) -> u64 {
        let window = self.x.generate_id().unwrap();
        let class = WindowClass::INPUT_OUTPUT;
        let attributes = CreateWindowAux::new();
        self.x
            .create_window(0, window, self.root, 900, 500, 99, 99, 0, class, 0, &attributes)
            .unwrap();
        self.x.map_window(window).unwrap();
        self.x.flush().unwrap();
        window.into()
    }

    /// A window of the host's own that is the whole screen in one colour: blue, green, red.
    pub(crate) fn backdrop(&self, colour: [u8; 3]) {
        let [blue, green, red] = colour;
        let window = self.x.generate_id().unwrap();
        let attributes = CreateWindowAux::new()
            .background_pixel(u32::from_be_bytes([0, red, green, blue]))
            .override_redirect(1);
        let class = WindowClass::INPUT_OUTPUT;
        self.x
            .create_window(0, window, self.root, 0, 0, 1280, 800, 0, class, 0, &attributes)
            .unwrap();
        self.x.map_window(window).unwrap();
        let below = ConfigureWindowAux::new().stack_mode(StackMode::BELOW);
        self.x.configure_window(window, &below).unwrap();
        self.x.flush().unwrap();
        self.until("the backdrop", || (self.pixels(505, 305, 1, 1) == [colour]).then_some(()));
    }

    /// Lets the X server ask for all of a window's pixels.
    pub(crate) fn expose(&self, window: u64) {
        let window = u32::try_from(window).unwrap();
        self.x.clear_area(true, window, 0, 0, 0, 0).unwrap();
        self.x.get_input_focus().unwrap().reply().unwrap();
    }

    /// Draws over all of a window: nothing of what it showed is left.
    pub(crate) fn spoil(&self, window: u64) {
        let window = u32::try_from(window).unwrap();
        let gc = self.x.generate_id().unwrap();
        self.x.create_gc(gc, window, &CreateGCAux::new().foreground(0x00_ff_00)).unwrap();
        let all = x11rb::protocol::xproto::Rectangle { x: 0, y: 0, width: 4000, height: 4000 };
        self.x.poly_fill_rectangle(window, gc, &[all]).unwrap();
        self.x.free_gc(gc).unwrap();
        self.x.get_input_focus().unwrap().reply().unwrap();
    }

    /// Gives a window the keyboard: keys pressed from here on are its own.
    pub(crate) fn activate(&self, window: u64) {
        self.until("the keyboard", || {
            // A window manager that has not seen the window yet does not hear it.
            self.run("xdotool", &["windowactivate", &window.to_string()]);
            let focus = self.x.get_input_focus().unwrap().reply().unwrap().focus;
            (self.active() == window && u64::from(focus) == window).then_some(())
        });
    }

    /// The window that has the keyboard, as the window manager says.
    pub(crate) fn active(&self) -> u64 {
        let active = self.atom("_NET_ACTIVE_WINDOW");
        let cookie = self.x.get_property(false, self.root, active, AtomEnum::ANY, 0, 1);
        let reply = cookie.unwrap().reply().unwrap();
        reply.value32().and_then(|mut it| it.next()).unwrap_or(0).into()
    }

    /// What is on the screen: rows of blue, green, red, and a byte that means nothing.
    pub(crate) fn pixels(&self, x: i32, y: i32, width: u32, height: u32) -> Vec<[u8; 3]> {
        let short = |number: i32| i16::try_from(number).unwrap();
        let size = |number: u32| u16::try_from(number).unwrap();
        let image = self.x.get_image(
            ImageFormat::Z_PIXMAP,
            self.root,
            short(x),
            short(y),
            size(width),
            size(height),
            u32::MAX,
        );
        let image = image.unwrap().reply().unwrap();
        image.data.chunks_exact(4).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    }

    /// Whether the process has an open window of this id.
    pub(crate) fn has_window(&self, window: u64) -> bool {
        let window = u32::try_from(window).unwrap();
        self.x.get_window_attributes(window).unwrap().reply().is_ok()
    }
}

/// A compositor, and the daemon that the test plays.
pub(crate) struct Compositor {
    process: Process,
    pub(crate) sender: Sender<ToCompositor>,
    pub(crate) receiver: Receiver<FromCompositor>,
    pub(crate) memory: WindowMemory,
    asked: u64,
    socket: std::path::PathBuf,
}

impl Compositor {
    pub(crate) fn start(desktop: &Desktop, painter: &str) -> Self {
        Self::start_as(desktop, painter, painter, |_| {})
    }

    /// By another name than its painter's, with more arguments or variables.
    pub(crate) fn start_as(
        desktop: &Desktop,
        name: &str,
        painter: &str,
        more: impl FnOnce(&mut Command),
    ) -> Self {
        let socket = desktop.folder.path().join(format!("control-{name}"));
        let listener = UnixListener::bind(&socket).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_macrohard-compositor"));
        command
            .args(["--painter", painter])
            .env("DISPLAY", &desktop.display)
            .env("MACROHARD_LOG", std::env::var("MACROHARD_LOG").unwrap_or("error".into()))
            .env("XCURSOR_PATH", desktop.folder.path().join("icons"))
            .env_remove("WAYLAND_DISPLAY")
            .env("XDG_RUNTIME_DIR", desktop.folder.path())
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
        more(&mut command);
        let process = Process(command.spawn().unwrap());
        let memory = WindowMemory::create(64 << 20).unwrap();
        let (sender, receiver) = daemon(&socket);
        let mut compositor = Self { process, sender, receiver, memory, asked: 0, socket };
        compositor.greet(VM, COLOUR);
        compositor
    }

    /// As a daemon does first.
    pub(crate) fn greet(&mut self, vm: &str, colour: [u8; 3]) {
        let Some(FromCompositor::Ready { version, .. }) = self.receiver.receive().unwrap() else {
            panic!("the compositor is not ready");
        };
        assert_eq!(version, VERSION);
        let start = Start { version: VERSION, vm: vm.into(), colour, mode: Mode::Seamless };
        self.sender.send(ToCompositor::Start(start)).unwrap();
        let memory = self.memory.descriptor().try_clone_to_owned().unwrap();
        let length = self.memory.len();
        self.sender.send(ToCompositor::Memory { memory, offset: 0, length }).unwrap();
    }

    /// A daemon that was started anew.
    pub(crate) fn again(&mut self) {
        self.sender.close();
        (self.sender, self.receiver) = daemon(&self.socket);
    }

    /// An agent comes and says hello.
    pub(crate) fn guest(&mut self) -> Guest {
        let mut guest = self.silent_guest();
        guest.hello();
        guest
    }

    /// An agent comes.
    pub(crate) fn silent_guest(&mut self) -> Guest {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = theirs.into();
        self.sender.send(ToCompositor::Guest { connection, user: 1000 }).unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let memory = self.memory.descriptor().try_clone_to_owned().unwrap();
        Guest::new(ours, WindowMemory::map_shared(memory, 0, self.memory.len()).unwrap())
    }

    pub(crate) fn ask(&mut self, question: Question) -> Answer {
        self.asked += 1;
        self.sender.send(ToCompositor::Ask { number: self.asked, question }).unwrap();
        loop {
            match self.receiver.receive().unwrap().expect("the compositor has ended") {
                FromCompositor::Answer { number, answer } if number == self.asked => return answer,
                _ => {}
            }
        }
    }

    pub(crate) fn status(&mut self) -> Status {
        match self.ask(Question::Status) {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn windows(&mut self) -> Vec<Window> {
        match self.ask(Question::Windows) {
            Answer::Windows(windows) => windows,
            other => panic!("{other:?}"),
        }
    }

    /// The window of the desktop that shows the guest's `id`.
    pub(crate) fn host(&mut self, id: u32) -> u64 {
        let windows = self.windows();
        windows.iter().find(|window| window.id == id).expect("a window").host
    }

    /// As pixels: red, green, blue, alpha.
    pub(crate) fn screenshot(&mut self, window: Option<u32>) -> (u32, u32, Vec<u8>) {
        let Answer::Picture { file, length } = self.ask(Question::Screenshot { window }) else {
            panic!("no picture");
        };
        let mut file = std::fs::File::from(file);
        std::io::Seek::rewind(&mut file).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, length);
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    /// Waits for its end.
    /// Lets it open so many more files and no more; says how many it was allowed before.
    pub(crate) fn leave_descriptors(&self, count: usize) -> Option<u64> {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let id = self.process.0.id();
        let used: BTreeSet<u64> = std::fs::read_dir(format!("/proc/{id}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        let first_refused = (0..).filter(|number| !used.contains(number)).nth(count);
        let pid = Pid::from_raw(id.cast_signed()).unwrap();
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: first_refused, maximum };
        prlimit(Some(pid), Resource::Nofile, limit).unwrap().current
    }

    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        self.process.0.wait().unwrap()
    }

    /// What the kernel says of it under this name (proc(5), status).
    pub(crate) fn fact(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.process.0.id());
        let status = std::fs::read_to_string(path).unwrap();
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap().trim().to_owned()
    }

    /// Processor time it has used, in clock ticks (proc(5), stat: utime and stime).
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

fn daemon(socket: &Path) -> (Sender<ToCompositor>, Receiver<FromCompositor>) {
    compositor_control::link(UnixStream::connect(socket).unwrap()).unwrap()
}
