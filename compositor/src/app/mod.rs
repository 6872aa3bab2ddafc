//! The one thread that has everything: it hears guest, daemon and desktop, and draws.
//!
//! Woken by winit's loop ([`Wake`] for what is not winit's), it takes what came, lets the model say what is to be
//! done, draws, and answers presents: not before the pixels are read, and not more often than the fastest
//! monitor shows pictures. With nothing to do it sleeps without a timer.

mod daemon;
mod display;
mod drawing;
mod newest;
mod screen;
mod screenshot;
mod window;

pub use daemon::{Daemon, Voice};
pub use newest::Newest;

use crate::link::{Heard, Link};
use crate::model::{Act, Model, Rect, Refusal, Screen, Seen, Untrusted, View};
use crate::paint::{Colour, Content, PaintError, Painter, Preference};
use crate::windowing::x11::X11;
use crate::windowing::{Notice, Windowing, WindowingError};
use compositor_control::{Mode, ToCompositor};
use log_limits::Seldom;
use proto::v1::{self, from_host};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use window::Open;
use window_link::latency;
use window_memory::WindowMemory;
use winit::application::ApplicationHandler;
use winit::event::WindowEvent;
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoopProxy};
use winit::window::WindowId;

/// Pictures a second where no monitor says how many it shows.
const RATE: u32 = 60;
/// Between two rings.
const BELL: Duration = Duration::from_millis(250);

/// What wakes the loop, beside winit's own.
#[derive(Debug)]
pub enum Wake {
    /// Of the second connection to the X server.
    Desktop(Box<x11rb::protocol::Event>),
    /// That connection has ended.
    DesktopGone(String),
    /// An agent has come, without a daemon (stand-alone).
    Connected(UnixStream),
    /// The guest of this number has said something.
    Guest(u64),
    /// The VM's display of this number has something to show.
    Display(u64),
    /// The daemon has brought a guest's agent, and the id of the guest's user it belongs to.
    Agent(Newest<(OwnedFd, u32)>),
    /// The daemon has brought the VM's display.
    Screen(Newest<OwnedFd>),
    /// The daemon has said something else.
    Daemon(ToCompositor),
    /// The daemon is gone.
    DaemonGone,
    /// The GPU is to be lost, for tests.
    LoseGpu,
}

/// How the program is to be.
#[derive(Debug)]
pub struct Settings {
    /// Name of the VM.
    pub vm: String,
    /// Of the border.
    pub colour: Colour,
    /// What draws.
    pub painter: Preference,
    /// Most pictures of a window in a second; none: those of the fastest monitor.
    pub rate: Option<u32>,
    /// The guest's window memory, where it is known at the start.
    pub memory: Option<WindowMemory>,
    /// Where the daemon hears; none stand-alone.
    pub voice: Option<Voice>,
    /// How the guest is shown at first.
    pub mode: Mode,
}

/// The program.
pub struct App {
    settings: Settings,
    proxy: EventLoopProxy<Wake>,
    windowing: X11,
    painter: Option<Box<dyn Painter>>,
    losses: u32,
    model: Model,
    link: Option<(u64, Link)>,
    links: u64,
    /// Batches of what the guest has said that are not taken.
    untaken: usize,
    screen: Option<screen::Screen>,
    daemon: bool,
    windows: BTreeMap<u32, Open>,
    monitors: v1::Monitors,
    keyboard: v1::Keyboard,
    interval: Duration,
    bell: Option<Instant>,
    /// Until when the model knows of time.
    passed: Instant,
    failed: Option<AppError>,
    /// Lines about agents that come and go.
    coming: Seldom,
    /// Lines about pixels there is no memory for.
    undrawn: Seldom,
}

/// The program cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Of the desktop.
    #[error(transparent)]
    Windowing(#[from] WindowingError),
    /// Nothing draws.
    #[error(transparent)]
    Paint(#[from] PaintError),
    /// winit's loop.
    #[error("no event loop: {0}")]
    Loop(#[from] winit::error::EventLoopError),
    /// The desktop has gone.
    #[error("the X server has ended the connection: {0}")]
    DesktopGone(String),
    /// The system gives no thread.
    #[error("no thread can be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl App {
    /// Connects to the desktop, and reads its events in a thread of its own.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn new(settings: Settings, proxy: EventLoopProxy<Wake>) -> Result<Self, AppError> {
        let windowing = X11::new(settings.colour.0)?;
        let connection = windowing.connection();
        let waker = proxy.clone();
        std::thread::Builder::new().name("desktop".into()).spawn(move || {
            use x11rb::connection::Connection;
            loop {
                let (wake, end) = match connection.wait_for_event() {
                    Ok(event) => (Wake::Desktop(Box::new(event)), false),
                    Err(error) => (Wake::DesktopGone(error.to_string()), true),
                };
                // Without a loop there is nobody to tell.
                if waker.send_event(wake).is_err() || end {
                    return;
                }
            }
        })?;
        let bytes = settings.memory.as_ref().map_or(0, WindowMemory::len);
        let mut model = Model::new(&settings.vm, bytes);
        model.show_windows(settings.mode == Mode::Seamless);
        let mut app = Self {
            daemon: settings.voice.is_some(),
            model,
            settings,
            proxy,
            windowing,
            painter: None,
            losses: 0,
            link: None,
            links: 0,
            untaken: 0,
            screen: None,
            windows: BTreeMap::new(),
            monitors: v1::Monitors::default(),
            keyboard: v1::Keyboard::default(),
            interval: Duration::from_secs(1) / RATE,
            bell: None,
            passed: Instant::now(),
            failed: None,
            coming: Seldom::new(),
            undrawn: Seldom::new(),
        };
        app.read_monitors()?;
        app.keyboard = app.windowing.keyboard()?;
        Ok(app)
    }

    /// Why the loop has ended, where it should not have.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn into_result(self) -> Result<(), AppError> {
        self.failed.map_or(Ok(()), Err)
    }

    fn read_monitors(&mut self) -> Result<(), WindowingError> {
        let monitors = self.windowing.monitors()?;
        if monitors == self.monitors {
            return Ok(());
        }
        let screens: Vec<Screen> = monitors
            .monitors
            .iter()
            .map(|monitor| Screen {
                rect: Rect::clamped(&monitor.geometry.unwrap_or_default()).0,
                scale: monitor.scale,
            })
            .collect();
        self.model.set_screens(&screens);
        let fastest = monitors.monitors.iter().map(|monitor| monitor.refresh.div_ceil(1000)).max();
        let fastest = fastest.filter(|rate| (1..=1000).contains(rate)).unwrap_or(RATE);
        let rate = self.settings.rate.unwrap_or(fastest).max(1);
        self.interval = Duration::from_secs(1) / rate;
        self.monitors.clone_from(&monitors);
        self.say(from_host::Message::Monitors(monitors));
        Ok(())
    }

    fn say(&self, message: from_host::Message) {
        if let Some((_, link)) = &self.link {
            link.say(message);
        }
    }

    /// An agent takes the place of the one before.
    fn connect(&mut self, stream: UnixStream) {
        self.disconnect("another one has come");
        self.links += 1;
        self.untaken = 0;
        let number = self.links;
        let proxy = self.proxy.clone();
        let wake = move || {
            // Without a loop there is nobody to tell.
            let _ = proxy.send_event(Wake::Guest(number));
        };
        match Link::new(stream, wake) {
            Ok(link) => self.link = Some((number, link)),
            Err(error) => {
                tracing::error!("the guest's agent cannot be heard: {error}");
                return;
            }
        }
        let memory = self.settings.memory.as_ref().map_or(0, WindowMemory::len);
        self.say(from_host::Message::Hello(v1::WindowsHello {
            version: window_link::VERSION,
            window_memory: memory,
            program: concat!("macrohard-compositor ", env!("CARGO_PKG_VERSION")).into(),
        }));
        self.say(from_host::Message::Monitors(self.monitors.clone()));
        self.say(from_host::Message::Keyboard(self.keyboard.clone()));
        self.say_mode();
        if self.settings.voice.is_none() {
            // Nobody else says so: whoever started the agent wants to see it.
            self.model.launched();
        }
    }

    fn say_mode(&self) {
        let mode = match self.settings.mode {
            Mode::Seamless => v1::WindowsMode::Seamless,
            Mode::Desktop => v1::WindowsMode::Desktop,
        };
        self.say(from_host::Message::Mode(v1::Mode { mode: mode.into() }));
    }

    fn disconnect(&mut self, reason: &str) {
        if self.link.take().is_none() {
            return;
        }
        if let Some(kept) = self.coming.due() {
            tracing::info!(kept, "the guest's agent is gone: {reason}");
        }
        self.model.disconnected();
        if let Some(voice) = &self.settings.voice {
            voice.guest_gone(reason);
        }
    }

    /// Takes what the guest has said, at most one batch between two pictures: whatever it says, the others get
    /// their turn, and what there is is drawn.
    fn hear(&mut self) {
        let Some((_, link)) = self.link.as_ref().filter(|_| self.untaken > 0) else { return };
        self.untaken -= 1;
        match link.take() {
            None => {}
            Some(Heard::End(reason)) => self.disconnect(&reason),
            Some(Heard::Messages(messages)) => {
                latency::pass("read", "taken");
                for message in messages {
                    if let Err(error) = self.model.hear(Untrusted::new(message)) {
                        self.disconnect(&error.to_string());
                        return;
                    }
                }
            }
        }
    }

    /// Does what is to be done until nothing is.
    fn pump(&mut self, event_loop: &ActiveEventLoop) -> Result<(), AppError> {
        let now = Instant::now();
        self.model.pass(now - std::mem::replace(&mut self.passed, now));
        loop {
            let notices = self.windowing.settle();
            tracing::trace!(?notices);
            for notice in &notices {
                self.notice(notice)?;
            }
            let acts = self.model.acts();
            if notices.is_empty() && acts.is_empty() {
                break;
            }
            for act in acts {
                self.act(event_loop, act)?;
            }
        }
        self.draw(event_loop)?;
        latency::end("taken", "drawn");
        let now = Instant::now();
        for (id, window) in &mut self.windows {
            match window.answer(now, self.interval) {
                Some(_) if *id == screen::WINDOW => {
                    if let Some(screen) = &self.screen {
                        screen.painted();
                    }
                }
                Some(sequence) => self.model.painted(*id, sequence),
                None => {}
            }
        }
        for act in self.model.acts() {
            self.act(event_loop, act)?;
        }
        if let Some(screen) = &mut self.screen {
            screen.drawn();
        }
        tracing::trace!(windows = ?self.windows, self.untaken, "asleep");
        if self.untaken > 0 {
            event_loop.set_control_flow(ControlFlow::Poll);
            return Ok(());
        }
        let waits = self.model.wait().map(|wait| self.passed + wait);
        let due = self.windows.values().filter_map(Open::due).chain(waits).min();
        event_loop.set_control_flow(due.map_or(ControlFlow::Wait, ControlFlow::WaitUntil));
        Ok(())
    }

    fn notice(&mut self, notice: &Notice) -> Result<(), WindowingError> {
        match *notice {
            Notice::Seen(seen) => {
                if let Some(seen) = self.screen_sees(seen) {
                    self.model.see(seen);
                }
            }
            Notice::Exposed(id) => {
                if let Some(window) = self.windows.get_mut(&id) {
                    window.expose();
                }
            }
            Notice::Sized(id, size) => {
                if let Some(window) = self.windows.get_mut(&id) {
                    window.size = size;
                    window.expose();
                }
            }
            Notice::Copied(id) => {
                if let Some(window) = self.windows.get_mut(&id) {
                    window.copied();
                }
            }
            Notice::Monitors => self.read_monitors()?,
            Notice::Titles(titles) => self.model.set_titles(titles),
            Notice::Keyboard => {
                let keyboard = self.windowing.keyboard()?;
                if keyboard != self.keyboard {
                    self.keyboard.clone_from(&keyboard);
                    self.say(from_host::Message::Keyboard(keyboard));
                }
            }
            Notice::Toggle => {
                let wish = match self.settings.mode {
                    Mode::Seamless => Mode::Desktop,
                    Mode::Desktop => Mode::Seamless,
                };
                if let Some(voice) = &self.settings.voice {
                    voice.wish(wish);
                }
            }
        }
        Ok(())
    }

    /// Does it. What the desktop refuses of a guest is counted: none ends the others' windows by it.
    fn act(&mut self, event_loop: &ActiveEventLoop, act: Act) -> Result<(), AppError> {
        match self.attempt(event_loop, act) {
            Err(AppError::Windowing(error)) if !error.is_the_end() => {
                self.model.refuse(Refusal::Desktop, error);
                Ok(())
            }
            done => done,
        }
    }

    fn attempt(&mut self, event_loop: &ActiveEventLoop, act: Act) -> Result<(), AppError> {
        match act {
            Act::Open(id, view) => self.open(event_loop, id, &view)?,
            Act::Reopen(id, view) => {
                let before = self.windows.remove(&id);
                self.windowing.shut(id);
                self.open(event_loop, id, &view)?;
                if let (Some(before), Some(new)) = (before, self.windows.remove(&id)) {
                    self.windows.insert(id, before.reopen(new));
                }
            }
            Act::Change(id, view) => {
                self.windowing.change(id, &view)?;
                if let Some(window) = self.windows.get_mut(&id) {
                    window.change(&view, &self.settings.vm, self.settings.colour);
                }
            }
            Act::Shut(id) => {
                // What draws into it first.
                self.windows.remove(&id);
                self.windowing.shut(id);
            }
            Act::Icon(id, icon) => self.windowing.icon(id, &icon)?,
            Act::Cursor(cursor) => self.windowing.cursor(&cursor)?,
            Act::Raise(id) => self.windowing.raise(id)?,
            Act::Activate(id) => self.windowing.activate(id)?,
            Act::MoveResize(id, direction) => {
                self.windowing.move_resize(id, direction);
                // The window manager has the pointer now, and the button's release.
                for button in 1..=3 {
                    let release = Seen::Button { window: id, button, pressed: false, time: 0 };
                    self.model.see(release);
                }
            }
            Act::Bell => {
                let now = Instant::now();
                if self.bell.is_some_and(|last| now.duration_since(last) < BELL) {
                    self.model.refuse(Refusal::Bell, "it rings without an end");
                } else {
                    self.bell = Some(now);
                    self.windowing.bell()?;
                }
            }
            Act::Paint { window: id, picture, damage, sequence } => {
                let (Some(window), Some(memory)) =
                    (self.windows.get_mut(&id), &self.settings.memory)
                else {
                    self.model.painted(id, sequence);
                    return Ok(());
                };
                let shadow = window.shadow;
                let alpha = window.alpha;
                match Content::take(&mut window.content, memory, &picture, &damage, shadow, alpha) {
                    Ok(areas) => window.present(areas, sequence),
                    Err(error) => {
                        if let Some(kept) = self.undrawn.due() {
                            tracing::error!(kept, "window {id} is not drawn: {error}");
                        }
                        self.model.painted(id, sequence);
                    }
                }
            }
            Act::Tell(message) => {
                // Before: the answer may be read before this thread goes on.
                if matches!(message, from_host::Message::Key(_)) {
                    latency::pass("pressed", "said");
                }
                self.say(message);
            }
        }
        Ok(())
    }

    fn open(&mut self, event_loop: &ActiveEventLoop, id: u32, view: &View) -> Result<(), AppError> {
        let target = self.windowing.open(event_loop, id, view)?;
        let surface = self.surface(event_loop, &target)?;
        let vm = &self.settings.vm;
        self.windows.insert(id, Open::new(target, surface, view, vm, self.settings.colour));
        Ok(())
    }

    fn set_mode(&mut self, event_loop: &ActiveEventLoop, mode: Mode) -> Result<(), AppError> {
        if mode == self.settings.mode {
            return Ok(());
        }
        self.settings.mode = mode;
        self.say_mode();
        self.model.show_windows(mode == Mode::Seamless);
        self.show_screen(event_loop)
    }

    fn end_if_alone(&self, event_loop: &ActiveEventLoop) {
        if self.settings.voice.is_some() && !self.daemon && self.link.is_none() {
            event_loop.exit();
        }
    }
}

impl ApplicationHandler<Wake> for App {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        // Choosing takes a while: before the first window needs it.
        if let Err(error) = self.painter(event_loop).map(|_| ()) {
            self.failed = Some(error);
            event_loop.exit();
        }
    }

    fn user_event(&mut self, event_loop: &ActiveEventLoop, wake: Wake) {
        match wake {
            Wake::Desktop(event) => self.windowing.event(*event),
            Wake::DesktopGone(reason) => {
                self.failed = Some(AppError::DesktopGone(reason));
                event_loop.exit();
            }
            Wake::Connected(stream) => self.connect(stream),
            Wake::Guest(number) => {
                if self.link.as_ref().is_some_and(|(of, _)| *of == number) {
                    self.untaken += 1;
                }
            }
            Wake::Display(number) => {
                if let Some(screen) = &mut self.screen {
                    screen.woke(number);
                }
                if let Err(error) = self.screen_shows(event_loop, number) {
                    self.failed = Some(error);
                    event_loop.exit();
                }
            }
            Wake::Agent(waiting) => {
                if let Some((connection, user)) = waiting.take() {
                    self.agent(connection, user);
                }
            }
            Wake::Screen(waiting) => {
                let connected =
                    waiting.take().map(|connection| self.connect_screen(event_loop, connection));
                if let Some(Err(error)) = connected {
                    self.failed = Some(error);
                    event_loop.exit();
                }
            }
            Wake::Daemon(message) => {
                if let Err(error) = self.order(event_loop, message) {
                    self.failed = Some(error);
                    event_loop.exit();
                }
            }
            Wake::LoseGpu => {
                if let Some(painter) = &mut self.painter {
                    painter.lose();
                }
            }
            Wake::DaemonGone => {
                self.daemon = false;
                self.end_if_alone(event_loop);
            }
        }
    }

    fn window_event(&mut self, _: &ActiveEventLoop, window: WindowId, event: WindowEvent) {
        self.windowing.winit_event(window, event);
    }

    fn about_to_wait(&mut self, event_loop: &ActiveEventLoop) {
        self.hear();
        self.end_if_alone(event_loop);
        if let Err(error) = self.pump(event_loop) {
            self.failed = Some(error);
            event_loop.exit();
        }
    }
}

/// Shares the settings' voice with threads that answer.
fn aside(voice: &Voice, work: impl FnOnce(&Voice) + Send + 'static) {
    let voice = Voice::clone(voice);
    let spawned = std::thread::Builder::new().name("answer".into()).spawn(move || work(&voice));
    if let Err(error) = spawned {
        tracing::error!("a question is not answered: {error}");
    }
}
