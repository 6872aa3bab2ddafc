//! What the daemon says, and what it is answered.

use super::newest::Newest;
use super::screenshot::Picture;
use super::{App, AppError, Wake, aside, screen};
use crate::paint::Colour;
use crate::windowing::Windowing;
use compositor_control::{
    Answer, ControlError, FromCompositor, Listener, Mode, Question, Receiver, Sender, Start,
    Status, ToCompositor, VERSION, Window,
};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use window_memory::WindowMemory;
use winit::event_loop::{ActiveEventLoop, EventLoopProxy};

/// Longest time that a daemon may take nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says things to the daemon that is connected now, if one is.
#[derive(Clone, Debug, Default)]
pub struct Voice(Arc<Mutex<Option<Sender<FromCompositor>>>>);

impl Voice {
    fn say(&self, message: FromCompositor) {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = sender.as_mut().map(|sender| sender.send(message)) {
            tracing::warn!("the daemon is told nothing any longer: {error}");
            if let Some(sender) = sender.take() {
                sender.close();
            }
        }
    }

    pub(super) fn guest_gone(&self, reason: &str) {
        self.say(FromCompositor::GuestGone { reason: reason.to_owned() });
    }

    pub(super) fn wish(&self, mode: Mode) {
        self.say(FromCompositor::Wish(mode));
    }
}

/// Where daemons come.
#[derive(Debug)]
pub struct Daemon {
    listener: Listener,
    voice: Voice,
    receiver: Receiver<ToCompositor>,
}

impl Daemon {
    /// Waits for the first daemon and its first word.
    ///
    /// # Errors
    /// It says nothing that is understood, or is gone at once.
    pub fn first(listener: Listener) -> Result<(Self, Start), ControlError> {
        loop {
            let voice = Voice::default();
            let mut receiver = welcome(&listener, &voice)?;
            match receiver.receive()? {
                Some(ToCompositor::Start(start)) => {
                    return Ok((Self { listener, voice, receiver }, start));
                }
                Some(message) => tracing::warn!("a daemon did not begin with a start: {message:?}"),
                None => tracing::warn!("a daemon has come and gone"),
            }
        }
    }

    /// To say things.
    #[must_use]
    pub fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// Hears this daemon and those after it, in a thread of its own.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn hear(self, proxy: EventLoopProxy<Wake>) -> std::io::Result<()> {
        let Self { listener, voice, mut receiver } = self;
        std::thread::Builder::new().name("daemon".into()).spawn(move || {
            let (guest, display) = (Newest::default(), Newest::default());
            loop {
                let wake = match receiver.receive() {
                    // The loop takes the newest of those that come while it is busy.
                    Ok(Some(ToCompositor::Guest { connection, user })) => {
                        if !guest.put((connection, user)) {
                            continue;
                        }
                        Wake::Agent(guest.clone())
                    }
                    Ok(Some(ToCompositor::Display { connection })) => {
                        if !display.put(connection) {
                            continue;
                        }
                        Wake::Screen(display.clone())
                    }
                    Ok(Some(message)) => Wake::Daemon(message),
                    end => {
                        if let Err(error) = end {
                            tracing::warn!("the daemon: {error}");
                        }
                        Wake::DaemonGone
                    }
                };
                let gone = matches!(wake, Wake::DaemonGone);
                // The loop has ended.
                let Ok(()) = proxy.send_event(wake) else { return };
                if gone {
                    match welcome(&listener, &voice) {
                        Ok(next) => receiver = next,
                        Err(error) => {
                            tracing::error!("no daemon can come any longer: {error}");
                            return;
                        }
                    }
                }
            }
        })?;
        Ok(())
    }
}

/// The next daemon.
fn welcome(listener: &Listener, voice: &Voice) -> Result<Receiver<ToCompositor>, ControlError> {
    let (sender, receiver) = listener.accept()?;
    sender.set_patience(PATIENCE)?;
    *voice.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    let program = concat!("macrohard-compositor ", env!("CARGO_PKG_VERSION")).to_owned();
    voice.say(FromCompositor::Ready { version: VERSION, program });
    Ok(receiver)
}

impl App {
    pub(super) fn order(
        &mut self,
        event_loop: &ActiveEventLoop,
        message: ToCompositor,
    ) -> Result<(), AppError> {
        self.daemon = true;
        match message {
            ToCompositor::Start(start) => self.start(event_loop, &start)?,
            ToCompositor::Memory { memory, offset, length } => {
                match WindowMemory::map_shared(memory, offset, length) {
                    Ok(memory) => {
                        self.model.set_memory(memory.len());
                        self.settings.memory = Some(memory);
                    }
                    Err(error) => tracing::error!("the window memory cannot be used: {error}"),
                }
            }
            ToCompositor::Guest { connection, user } => self.agent(connection, user),
            ToCompositor::Display { connection } => self.connect_screen(event_loop, connection)?,
            ToCompositor::Mode(mode) => self.set_mode(event_loop, mode)?,
            ToCompositor::Ask { number, question } => {
                // What came before it is done first.
                self.hear();
                self.pump(event_loop)?;
                self.ask(number, question);
            }
            ToCompositor::Launched => self.model.launched(),
            ToCompositor::End => event_loop.exit(),
        }
        Ok(())
    }

    /// A guest's agent has come, by way of the daemon.
    pub(super) fn agent(&mut self, connection: OwnedFd, user: u32) {
        self.daemon = true;
        if let Some(kept) = self.coming.due() {
            tracing::info!(user, kept, "a guest's agent");
        }
        self.connect(UnixStream::from(connection));
    }

    fn start(&mut self, event_loop: &ActiveEventLoop, start: &Start) -> Result<(), AppError> {
        let colour = Colour(start.colour);
        if start.vm != self.settings.vm || colour != self.settings.colour {
            self.settings.vm.clone_from(&start.vm);
            self.settings.colour = colour;
            self.model.set_vm(&start.vm);
            if let Err(error) = self.windowing.set_colour(start.colour) {
                tracing::error!("{error}");
            }
            let views: Vec<_> = self.model.shown().map(|(id, view)| (id, view.clone())).collect();
            for (id, view) in views {
                if let Some(window) = self.windows.get_mut(&id) {
                    window.change(&view, &self.settings.vm, colour);
                }
            }
        }
        self.set_mode(event_loop, start.mode)
    }

    fn ask(&self, number: u64, question: Question) {
        let Some(voice) = &self.settings.voice else { return };
        let answer = move |answer: Answer| FromCompositor::Answer { number, answer };
        match question {
            Question::Status => voice.say(answer(Answer::Status(self.status()))),
            Question::Windows => voice.say(answer(Answer::Windows(self.list()))),
            Question::Screenshot { window } => match self.picture(window) {
                // It takes a while.
                Ok(picture) => aside(voice, move |voice| voice.say(answer(picture.answer()))),
                Err(message) => voice.say(answer(Answer::Refused { message })),
            },
        }
    }

    fn status(&self) -> Status {
        Status {
            mode: self.settings.mode,
            guest: self.model.is_greeted(),
            windows: u32::try_from(self.windows.len()).unwrap_or(u32::MAX),
            renderer: self
                .painter
                .as_ref()
                .map_or_else(|| "none yet".into(), |painter| painter.name().to_owned()),
            refused: self.model.refusals().by_name(),
        }
    }

    fn list(&self) -> Vec<Window> {
        let screen = self.screen.as_ref().and_then(screen::Screen::view);
        self.model
            .shown()
            .chain(screen.map(|view| (screen::WINDOW, view)))
            .map(|(id, view)| {
                let place = self.windowing.place(id).unwrap_or_default();
                Window {
                    id,
                    host: place.native,
                    title: view.title.clone(),
                    class: view.class.clone(),
                    position: [place.rect.x, place.rect.y],
                    size: [place.rect.width, place.rect.height],
                    popup: view.popup,
                    focused: self.model.focus() == Some(id),
                    minimized: view.state.minimized,
                }
            })
            .collect()
    }

    fn picture(&self, window: Option<u32>) -> Result<Picture, String> {
        let of = |id: u32| Some((self.windows.get(&id)?, self.windowing.place(id)?.rect));
        if let Some(id) = window {
            let window = of(id).ok_or_else(|| {
                format!("window {id} is not open; see the list of windows for those that are")
            })?;
            return Picture::of(&[window]);
        }
        let order = self.windowing.stacking().map_err(|error| error.to_string())?;
        let seen = |id: &u32| {
            *id == screen::WINDOW
                || self.model.shown().any(|(other, view)| other == *id && !view.state.minimized)
        };
        let windows: Vec<_> = order.into_iter().filter(seen).filter_map(of).collect();
        Picture::of(&windows)
    }
}
