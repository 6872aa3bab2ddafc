//! The VM's windows on the host's desktop. A process of its own draws them, the compositor: it gets the
//! connection on which the guest's agent tells of them, and the memory they are in, and from then on speaks with
//! the guest by itself. It is started with the first such connection, ends with the VM, and outlives the daemon.
//!
//! When it dies, its windows and the guest's connection go with it; the agent connects anew, and another
//! is started, later and later the oftener it dies. In desktop mode the VM's screen is shown, which needs
//! no agent: then one is started when the VM is, and when the mode is chosen.

mod coming;
mod compositor;
mod picture;
mod process;
mod restart;
mod screen;
mod status;

use super::About;
use crate::problem::{Kind, Problem};
use clipboard::Display;
use coming::Coming;
use compositor::Compositor;
use compositor_control::{Answer, Mode, Question, Start, ToCompositor};
use definition::Colour;
pub(in crate::daemon) use picture::Picture;
use process::Where;
use proto::v1::{SeamlessReply, SeamlessRequest, ShownWindow, VmWindows, WindowsReply};
use restart::Restarts;
use status::{Last, Shown};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vm_control::{Client, Files, WindowMemory, WireError};

/// Connections of agents that wait to be shown.
const MOST_WAITING: usize = 4;
/// How long the VM process may take to hand out the window memory.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);
/// How long is waited for the compositor to say how it fares; then it is what it said last.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
/// How long after a launch a compositor that is started is told of it.
const LAUNCH: Duration = Duration::from_secs(60);
/// How long it may take to list its windows.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to make a picture.
const PICTURE_PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Windows {
    about: Arc<About>,
    own: Weak<Self>,
    files: Where,
    /// Held while the compositor is looked for or started, so that there is one.
    turn: tokio::sync::Mutex<()>,
    waiting: Arc<Semaphore>,
    coming: Coming,
    status: Last,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    compositor: Option<Arc<Compositor>>,
    restarts: Restarts,
    /// When the person last launched an application.
    launched: Option<Instant>,
    /// Counts the VM's runs: what belongs to an earlier one is not for this.
    run: u64,
    runs: bool,
    /// There has been a compositor in this run.
    shown: bool,
}

/// How a VM's windows stand on the desktop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Looks {
    /// Red, green, blue: of the border.
    pub(in crate::daemon) colour: [u8; 3],
    /// Each window of an application is one of the desktop's; else there is one with the guest's screen.
    pub(in crate::daemon) seamless: bool,
}

/// The right to be shown.
#[derive(Debug)]
pub(in crate::daemon) struct Place {
    _permit: OwnedSemaphorePermit,
    display: Option<Display>,
}

impl Windows {
    pub(super) fn new(about: Arc<About>) -> Arc<Self> {
        let runtime = about.places.runtime_of(&about.vm);
        let state = about.places.state_of(&about.vm);
        Arc::new_cyclic(|own| Self {
            files: Where::new(&runtime, &state),
            about,
            own: own.clone(),
            turn: tokio::sync::Mutex::default(),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            coming: Coming::default(),
            status: Last::default(),
            now: Mutex::default(),
        })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that runs and listens.
    fn compositor(&self) -> Option<Arc<Compositor>> {
        self.now().compositor.clone().filter(|compositor| compositor.is_there())
    }

    /// Whether an agent's windows could be shown now. Returns soon.
    ///
    /// # Errors
    /// There is no desktop, too many wait or come, or compositors die one after the other.
    pub(in crate::daemon) async fn place(&self) -> Result<Place, Problem> {
        if !self.coming.may(Instant::now()) {
            return Err(Problem::failed("it comes too often"));
        }
        self.place_for_screen().await
    }

    /// As [`Self::place`], for what no guest asks for.
    async fn place_for_screen(&self) -> Result<Place, Problem> {
        let permit = Arc::clone(&self.waiting).try_acquire_owned();
        let permit = permit.map_err(|_| Problem::failed("others wait to be shown"))?;
        if self.compositor().is_some() {
            return Ok(Place { _permit: permit, display: None });
        }
        if let Some(left) = self.now().restarts.wait(Instant::now()) {
            return Err(Problem::failed(format!(
                "its compositors have died; the next one is started in {} s",
                left.as_secs() + 1
            )));
        }
        let display = clipboard_relay::desktop().await;
        if display.is_none() {
            return Err(Problem::failed("this daemon has no desktop (DISPLAY, WAYLAND_DISPLAY)"));
        }
        Ok(Place { _permit: permit, display })
    }

    /// The person launches an application: its window may come forward.
    pub(in crate::daemon) fn launched(&self) {
        self.now().launched = Some(Instant::now());
        if let Some(compositor) = self.compositor()
            && let Err(problem) = compositor.say(ToCompositor::Launched)
        {
            tracing::warn!(vm = self.about.vm, %problem, "its window may stay behind others");
        }
    }

    /// Has the windows shown that the agent at the other end of `stream` tells of.
    ///
    /// # Errors
    /// There is no compositor and none can be started.
    pub(in crate::daemon) async fn show(
        &self,
        place: Place,
        stream: UnixStream,
        user: u32,
    ) -> Result<(), Problem> {
        let compositor = self.any(place.display).await?;
        let connection = stream.into_std().map_err(Problem::failed)?.into();
        compositor.say(ToCompositor::Guest { connection, user })
    }

    /// The compositor, which is started where there is none.
    async fn any(&self, display: Option<Display>) -> Result<Arc<Compositor>, Problem> {
        let _turn = self.turn.lock().await;
        if let Some(compositor) = self.compositor() {
            return Ok(compositor);
        }
        let (run, runs) = {
            let now = self.now();
            (now.run, now.runs)
        };
        if !runs {
            return Err(Problem::failed("the VM has ended"));
        }
        if let Some(found) = self.found().await {
            return Ok(found);
        }
        let display = match display {
            Some(display) => display,
            None => clipboard_relay::desktop()
                .await
                .ok_or_else(|| Problem::failed("this daemon has no desktop"))?,
        };
        let first = self.first().await;
        let (process, mut child) = self.files.start(&display)?;
        tracing::info!(vm = self.about.vm, pid = process.pid, "compositor started");
        let (own, started, watched) = (self.own.clone(), Instant::now(), process.clone());
        tokio::spawn(async move {
            let ended = watched.ended().await;
            let status = child.wait();
            if let Some(windows) = own.upgrade() {
                tracing::info!(
                    vm = windows.about.vm,
                    pid = watched.pid,
                    ?ended,
                    ?status,
                    "compositor ended"
                );
                windows.died(run, started);
            }
        });
        let met = Compositor::meet(process.clone(), &self.files.socket, first, self.wish()).await;
        if met.is_err() {
            let _ = process.kill();
        }
        Ok(self.keep(met?, run))
    }

    /// The one that an earlier daemon left.
    async fn found(&self) -> Option<Arc<Compositor>> {
        let process = self.files.find()?;
        let run = self.now().run;
        let first = self.first().await;
        match Compositor::meet(process.clone(), &self.files.socket, first, self.wish()).await {
            Ok(compositor) => {
                tracing::info!(vm = self.about.vm, pid = process.pid, "compositor found running");
                Some(self.keep(compositor, run))
            }
            Err(problem) => {
                tracing::warn!(vm = self.about.vm, %problem, "a compositor is replaced");
                let _ = process.kill();
                // Its lock and its windows go with it.
                let _ = process.ended().await;
                None
            }
        }
    }

    fn keep(&self, compositor: Compositor, run: u64) -> Arc<Compositor> {
        let compositor = Arc::new(compositor);
        let mut now = self.now();
        if now.run == run && now.runs {
            now.compositor = Some(Arc::clone(&compositor));
            now.shown = true;
            self.about.desktop.windows.send_replace(());
        } else {
            // The VM has ended meanwhile.
            let late = Arc::clone(&compositor);
            tokio::spawn(async move { late.end().await });
        }
        compositor
    }

    /// A compositor of this run has ended.
    fn died(&self, run: u64, started: Instant) {
        let pause = {
            let mut now = self.now();
            if now.run != run || !now.runs {
                return;
            }
            now.restarts.note(Instant::now(), started);
            now.restarts.wait(Instant::now()).unwrap_or_default()
        };
        // An agent comes again by itself; a screen does not.
        self.screen_after(pause, run);
    }

    /// What a compositor is told first.
    async fn first(&self) -> Vec<ToCompositor> {
        let mut first = vec![ToCompositor::Start(self.start())];
        let files = Files::new(
            &self.about.places.runtime_of(&self.about.vm),
            &self.about.places.state_of(&self.about.vm),
        )
        .control();
        let asked = tokio::task::spawn_blocking(move || {
            Client::connect(&files, MEMORY_PATIENCE)?.window_memory()
        });
        match asked.await {
            Ok(Ok(WindowMemory { file: memory, offset, length })) => {
                first.push(ToCompositor::Memory { memory, offset, length });
            }
            Ok(Err(WireError::Refused(reason))) => {
                tracing::info!(vm = self.about.vm, reason, "no window memory");
            }
            Ok(Err(error)) => tracing::warn!(vm = self.about.vm, %error, "no window memory"),
            Err(error) => tracing::error!(vm = self.about.vm, %error, "no window memory"),
        }
        if self.now().launched.is_some_and(|at| at.elapsed() < LAUNCH) {
            first.push(ToCompositor::Launched);
        }
        let screen = screen::connect(&self.about.places.runtime_of(&self.about.vm));
        first.extend(screen.map(|connection| ToCompositor::Display { connection }));
        first
    }

    fn start(&self) -> Start {
        let windows =
            self.about.definition().map(|definition| definition.windows).unwrap_or_default();
        let colour = windows.colour.unwrap_or_else(|| Colour::of(&self.about.vm));
        Start {
            version: compositor_control::VERSION,
            vm: self.about.vm.clone(),
            colour: [colour.red, colour.green, colour.blue],
            mode: mode(windows.seamless),
        }
    }

    /// How its windows stand on the desktop, or would; `None` of a VM that does not run, or that has no screen and
    /// has shown no windows in this run.
    pub(in crate::daemon) fn looks(&self) -> Option<Looks> {
        let (runs, shown) = {
            let now = self.now();
            (now.runs, now.shown)
        };
        let screen = || screen::is_there(&self.about.places.runtime_of(&self.about.vm));
        if !runs || !(shown || screen()) {
            return None;
        }
        let Start { colour, mode, .. } = self.start();
        Some(Looks { colour, seamless: mode == Mode::Seamless })
    }

    /// Shows the VM's screen, if it is to be shown and there is one.
    ///
    /// # Errors
    /// There is no desktop, or the compositor cannot be started.
    async fn show_screen(&self) -> Result<(), Problem> {
        let runtime = self.about.places.runtime_of(&self.about.vm);
        let wanted = self.start().mode == Mode::Desktop && self.now().runs;
        if !wanted || self.compositor().is_some() || !screen::is_there(&runtime) {
            return Ok(());
        }
        let place = self.place_for_screen().await?;
        self.any(place.display).await.map(drop)
    }

    /// The guest runs.
    pub(in crate::daemon) fn running(&self) {
        let run = self.now().run;
        self.screen_after(Duration::ZERO, run);
    }

    /// Shows the screen of this run after a pause.
    fn screen_after(&self, pause: Duration, run: u64) {
        let Some(own) = self.own.upgrade() else { return };
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if own.now().run != run {
                return;
            }
            if let Err(problem) = own.show_screen().await {
                tracing::warn!(vm = own.about.vm, %problem, "the screen is not shown");
            }
        });
    }

    /// What the person wants by the compositor's own means.
    fn wish(&self) -> impl Fn(Mode) + Send + 'static {
        let own = self.own.clone();
        move |mode| {
            if let Some(windows) = own.upgrade()
                && let Err(problem) = windows.set(|_| mode == Mode::Seamless)
            {
                tracing::warn!(vm = windows.about.vm, %problem, "the mode stays");
            }
        }
    }

    /// Keeps how windows are shown, and has them shown so.
    fn set(&self, seamless: impl FnOnce(bool) -> bool) -> Result<(), Problem> {
        let vm = self.about.store.load(&self.about.vm)?;
        let before = vm.windows.seamless;
        let seamless = seamless(before);
        let name = &self.about.vm;
        let has_screen = match self.now().runs {
            true => screen::is_there(&self.about.places.runtime_of(name)),
            false => vm.display.is_some(),
        };
        if !seamless && !has_screen {
            return Err(Problem::failed(format!("VM \"{name}\" has no screen to show"))
                .advise("add [display] with `edit`, then start it again"));
        }
        if seamless != before {
            self.about.store.change(&self.about.vm, |document| {
                definition::set(document, "windows", "seamless", seamless);
            })?;
            self.about.desktop.windows.send_replace(());
        }
        match self.compositor() {
            Some(compositor) => compositor.say(ToCompositor::Mode(mode(seamless))),
            None => Ok(()),
        }
    }

    /// Reads or changes how windows are shown.
    pub(in crate::daemon) async fn settings(
        &self,
        request: &SeamlessRequest,
    ) -> Result<SeamlessReply, Problem> {
        match (request.enable, request.toggle) {
            (Some(_), true) => {
                return Err(Problem::usage("both a mode and the other than now are asked for"));
            }
            (Some(enable), false) => self.set(|_| enable)?,
            (None, true) => self.set(|before| !before)?,
            (None, false) => {}
        }
        self.show_screen().await?;
        Ok(SeamlessReply { windows: Some(self.state().await) })
    }

    /// How windows are shown now.
    pub(in crate::daemon) async fn state(&self) -> VmWindows {
        let seamless = self
            .about
            .definition()
            .map(|definition| definition.windows)
            .unwrap_or_default()
            .seamless;
        let Some(compositor) = self.compositor() else {
            return VmWindows { seamless, ..VmWindows::default() };
        };
        let question = async move {
            match compositor.ask(Question::Status, LIST_PATIENCE).await {
                Ok(Answer::Status(status)) => Some(Shown {
                    guest: status.guest,
                    windows: status.windows,
                    renderer: status.renderer,
                    refused: status.refused,
                }),
                _ => None,
            }
        };
        let shown = self.status.ask(question, STATUS_PATIENCE).await;
        let Shown { guest, windows, renderer, refused } = shown;
        let refused = refused.into_iter().collect();
        VmWindows { seamless, shown: guest, count: windows, renderer, refused }
    }

    /// The windows that are shown.
    ///
    /// # Errors
    /// The compositor does not say.
    pub(in crate::daemon) async fn list(&self) -> Result<WindowsReply, Problem> {
        let Some(compositor) = self.compositor() else {
            return Ok(WindowsReply::default());
        };
        let Answer::Windows(windows) = compositor.ask(Question::Windows, LIST_PATIENCE).await?
        else {
            return Err(other_answer());
        };
        let windows = windows.into_iter().map(|window| ShownWindow {
            id: window.id,
            host: window.host,
            title: window.title,
            class: window.class,
            x: window.position[0],
            y: window.position[1],
            width: window.size[0],
            height: window.size[1],
            popup: window.popup,
            focused: window.focused,
            minimized: window.minimized,
        });
        Ok(WindowsReply { windows: windows.collect() })
    }

    /// A picture of one window, or of all that is shown; where there is no desktop to show windows on, of the
    /// guest's screen.
    ///
    /// # Errors
    /// Nothing is shown, there is no such window, or the compositor does not answer.
    pub(in crate::daemon) async fn screenshot(
        &self,
        window: Option<u32>,
    ) -> Result<Picture, Problem> {
        let Some(compositor) = self.compositor() else {
            let runtime = self.about.places.runtime_of(&self.about.vm);
            if window.is_none() && screen::is_there(&runtime) {
                return screen::picture(&runtime).await;
            }
            let nothing = format!("no window of VM \"{}\" is shown", self.about.vm);
            return Err(Problem::new(Kind::Refused, nothing)
                .advise("`launch` opens an application; `windows` lists what is shown"));
        };
        match compositor.ask(Question::Screenshot { window }, PICTURE_PATIENCE).await? {
            Answer::Picture { file, length } => Picture::new(file, length),
            _ => Err(other_answer()),
        }
    }

    /// The VM process has started, or one that runs was found, then perhaps with its compositor.
    pub(super) fn started(&self) {
        {
            let mut now = self.now();
            *now = Now { run: now.run + 1, runs: true, ..Now::default() };
        }
        if let Some(own) = self.own.upgrade()
            && self.files.find().is_some()
        {
            tokio::spawn(async move {
                let _turn = own.turn.lock().await;
                if own.compositor().is_none() {
                    own.found().await;
                }
            });
        }
    }

    /// The VM process has ended: no window stays.
    pub(super) fn ended(&self) {
        let compositor = {
            let mut now = self.now();
            now.runs = false;
            now.compositor.take()
        };
        match compositor {
            Some(compositor) => drop(tokio::spawn(async move { compositor.end().await })),
            None => self.sweep(),
        }
    }

    /// Ends what an earlier daemon left of a VM that does not run.
    pub(in crate::daemon) fn sweep(&self) {
        if let Some(process) = self.files.find() {
            tracing::info!(
                vm = self.about.vm,
                pid = process.pid,
                "a compositor without its VM is ended"
            );
            let _ = process.kill();
        }
    }

    /// The definition has changed.
    pub(super) fn changed(&self) {
        if let Some(compositor) = self.compositor()
            && let Err(problem) = compositor.say(ToCompositor::Start(self.start()))
        {
            tracing::warn!(vm = self.about.vm, %problem, "windows keep their looks");
        }
    }
}

fn mode(seamless: bool) -> Mode {
    if seamless { Mode::Seamless } else { Mode::Desktop }
}

fn other_answer() -> Problem {
    Problem::failed("the compositor gave another answer than asked for")
}
