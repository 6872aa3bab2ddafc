//! The thread: what is offered, by whom, and the loop.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use wayland_client::backend::{ObjectId, WaylandError};
use wayland_client::globals::{GlobalListContents, registry_queue_init};
use wayland_client::protocol::{wl_callback, wl_registry, wl_seat};
use wayland_client::{Connection, Dispatch, DispatchError, EventQueue, QueueHandle};

use super::control::{Device, Found, Given, Manager, Told};
use super::pipes;
use crate::changes::Changes;
use crate::commands::{Inbox, Outbox};
use crate::handle::{Command, Ends, Setup, Wanted};
use crate::making::Making;
use crate::targets::{HINT, SECRET, TARGETS, Target, formats, given, is_secret, known};
use crate::{FetchError, Offer, Offered, Selection, limits};

/// When the compositor does not take what is written, it is tried again after this.
const FULL: Duration = Duration::from_millis(20);

/// What the hint of the offer with this number says.
pub(super) struct Hinted {
    selection: Selection,
    number: u64,
    secret: bool,
}

/// The connection is lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    #[error(transparent)]
    Wayland(#[from] WaylandError),
    #[error(transparent)]
    Poll(#[from] io::Error),
    #[error("the seat is gone")]
    Seat,
}

/// An offer as it is told, name by name.
struct Naming {
    found: Found,
    targets: [bool; TARGETS.len()],
    hint: bool,
    own: bool,
    names: usize,
}

/// One selection.
#[derive(Default)]
struct Now {
    /// Of another program.
    found: Option<(Found, Vec<&'static Target>)>,
    /// What this side offers there.
    given: Option<ObjectId>,
    /// This side has let go of its offer: that nobody offers now is no news.
    given_up: bool,
    /// Counts what was found.
    number: u64,
    told: bool,
    told_nothing: bool,
}

/// A connection with its queue.
pub(super) struct Running {
    connection: Connection,
    queue: EventQueue<Worker>,
    inbox: Inbox<Command<Hinted>>,
    worker: Worker,
}

pub(super) struct Worker {
    connection: Connection,
    handle: QueueHandle<Self>,
    manager: Manager,
    device: Device,
    /// Among the names of this side's offers, to know them again: the compositor shows them like others'.
    mark: String,
    naming: HashMap<ObjectId, Naming>,
    now: [Now; 2],
    /// Also those that were replaced, until the compositor says so.
    offers: HashMap<ObjectId, (Given, Arc<Making>)>,
    answers: HashMap<u64, oneshot::Sender<Result<(), FetchError>>>,
    next_answer: u64,
    finished: bool,
    outbox: Outbox<Command<Hinted>>,
    changes: Changes,
    runtime: Handle,
    fetches: Arc<Semaphore>,
    pastes: Arc<Semaphore>,
}

/// Connects and learns the present state.
pub(super) fn open(socket: &Path, ends: Ends<Hinted>) -> Result<Running, Setup> {
    let Ends { inbox, outbox, changes, runtime } = ends;
    let refused = |error: &dyn std::error::Error| Setup::Refused(error.to_string());
    let stream = UnixStream::connect(socket).map_err(|error| refused(&error))?;
    let connection = Connection::from_socket(stream).map_err(|error| refused(&error))?;
    let (globals, mut queue) =
        registry_queue_init::<Worker>(&connection).map_err(|error| refused(&error))?;
    let handle = queue.handle();
    let manager = Manager::bind(&globals, &handle).ok_or(Setup::Lacks(
        "ext-data-control or wlr-data-control, which show the clipboard to a program without a window",
    ))?;
    let seat: wl_seat::WlSeat =
        globals.bind(&handle, 1..=1, ()).map_err(|_| Setup::Lacks("a seat"))?;
    let device = manager.device(&seat, &handle);
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::empty()).map_err(|error| refused(&error))?;
    let mut worker = Worker {
        connection: connection.clone(),
        handle,
        manager,
        device,
        mark: format!("application/x-macrohard-offer;id={:032x}", u128::from_ne_bytes(random)),
        naming: HashMap::new(),
        now: Default::default(),
        offers: HashMap::new(),
        answers: HashMap::new(),
        next_answer: 0,
        finished: false,
        outbox,
        changes,
        runtime,
        fetches: Arc::new(Semaphore::new(limits::FETCHES)),
        pastes: Arc::new(Semaphore::new(limits::PASTES)),
    };
    // The first state comes with the device.
    queue.roundtrip(&mut worker).map_err(|error| refused(&error))?;
    for selection in [Selection::Clipboard, Selection::Primary] {
        let now = &worker.now[place(selection)];
        if !now.told && now.found.is_none() {
            worker.tell(selection, false);
        }
    }
    Ok(Running { connection, queue, inbox, worker })
}

impl Running {
    /// Until the holder lets go.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn run(mut self) -> Result<(), Lost> {
        loop {
            while let Some(command) = self.inbox.take() {
                match command {
                    Command::Fetch(wanted) => self.worker.fetch(wanted),
                    Command::Offer { selection, offer, answer } => {
                        self.worker.offer(selection, offer, answer);
                    }
                    Command::Clear { selection, answer } => self.worker.clear(selection, answer),
                    Command::Made(Hinted { selection, number, secret }) => {
                        if self.worker.now[place(selection)].number == number {
                            self.worker.tell(selection, secret);
                        }
                    }
                    Command::End => return Ok(()),
                }
            }
            self.queue.dispatch_pending(&mut self.worker)?;
            if self.worker.finished {
                return Err(Lost::Seat);
            }
            let full = flushed(&self.connection)?;
            let Some(reading) = self.queue.prepare_read() else {
                continue;
            };
            self.inbox.wait(reading.connection_fd(), full.then(|| Instant::now() + FULL))?;
            match reading.read() {
                Err(WaylandError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => drop(read?),
            }
        }
    }
}

/// True when the compositor does not take more now.
fn flushed(connection: &Connection) -> Result<bool, Lost> {
    match connection.flush() {
        Ok(()) => Ok(false),
        Err(WaylandError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error.into()),
    }
}

impl Worker {
    /// What the compositor says.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Found(found) => {
                let naming = Naming {
                    found,
                    targets: Default::default(),
                    hint: false,
                    own: false,
                    names: 0,
                };
                self.naming.insert(naming.found.id(), naming);
            }
            Told::Named(id, name) => {
                if let Some(naming) = self.naming.get_mut(&id) {
                    naming.name(&name, &self.mark);
                }
            }
            Told::Selected(selection, id) => {
                let naming = id.and_then(|id| self.naming.remove(&id));
                self.selected(selection, naming);
            }
            Told::Asked(id, name, into) => self.asked(&id, &name, into),
            Told::Cancelled(id) => {
                if let Some((given, _)) = self.offers.remove(&id) {
                    given.destroy();
                }
                for now in &mut self.now {
                    if now.given.as_ref() == Some(&id) {
                        now.given = None;
                    }
                }
            }
            Told::Finished => self.finished = true,
        }
    }

    fn selected(&mut self, selection: Selection, naming: Option<Naming>) {
        let now = &mut self.now[place(selection)];
        now.number += 1;
        if let Some((found, _)) = now.found.take() {
            found.destroy();
        }
        let Some(naming) = naming else {
            let own = std::mem::take(&mut now.given_up);
            if !own {
                self.tell(selection, false);
            }
            return;
        };
        if naming.own {
            naming.found.destroy();
            return;
        }
        now.given_up = false;
        let names = TARGETS.iter().zip(naming.targets);
        let targets = names.filter(|(_, named)| *named).map(|(target, _)| target).collect();
        if naming.hint {
            self.ask_hint(selection, &naming.found);
        }
        self.now[place(selection)].found = Some((naming.found, targets));
        if !naming.hint {
            self.tell(selection, false);
        }
    }

    fn ask_hint(&self, selection: Selection, found: &Found) {
        let number = self.now[place(selection)].number;
        let outbox = self.outbox.clone();
        let from = receive(found, HINT);
        self.flush();
        self.runtime.spawn(async move {
            // What hints at a secret and does not say that it is none counts as one.
            let secret = match from {
                Ok(from) => pipes::take(from, limits::HINT, limits::SAYS)
                    .await
                    .map_or(true, |hint| is_secret(&hint)),
                Err(_) => true,
            };
            outbox.send(Command::Made(Hinted { selection, number, secret }));
        });
    }

    fn tell(&mut self, selection: Selection, secret: bool) {
        let now = &mut self.now[place(selection)];
        let targets = now.found.iter().flat_map(|(_, targets)| targets.iter().copied());
        let formats = formats(targets);
        let nothing = formats.is_empty();
        if nothing && now.told_nothing {
            return;
        }
        now.told = true;
        now.told_nothing = nothing;
        let number = now.number;
        self.changes.put(Offered { selection, number, formats, secret });
    }

    fn fetch(&self, wanted: Wanted) {
        let Wanted { selection, number, format, most, mut answer } = wanted;
        let now = Some(&self.now[place(selection)]).filter(|now| now.number == number);
        let found = now.and_then(|now| now.found.as_ref()).and_then(|(found, targets)| {
            let target = targets.iter().find(|target| target.format == format)?;
            Some((found, *target))
        });
        let Some((found, target)) = found else {
            let _ = answer.send(Err(FetchError::Gone));
            return;
        };
        let Ok(permit) = Arc::clone(&self.fetches).try_acquire_owned() else {
            let _ = answer.send(Err(FetchError::Failed("too many at once".to_owned())));
            return;
        };
        let from = receive(found, target.name);
        self.flush();
        self.runtime.spawn(async move {
            let content = async {
                let from = from.map_err(|error| FetchError::Failed(format!("a pipe: {error}")))?;
                let raw = target.coding.most(most);
                let bytes = pipes::take(from, raw, limits::FETCH_STILL).await;
                let bytes = bytes.map_err(|error| match error {
                    FetchError::Large(_) => FetchError::Large(most),
                    other => other,
                })?;
                target.coding.read(bytes, most)
            };
            tokio::select! {
                content = content => drop(answer.send(content)),
                // Nobody wants it any more.
                () = answer.closed() => {}
            }
            drop(permit);
        });
    }

    fn offer(
        &mut self,
        selection: Selection,
        offer: Offer,
        answer: oneshot::Sender<Result<(), FetchError>>,
    ) {
        let failed = |why: &str| Err(FetchError::Failed(why.to_owned()));
        if offer.formats.is_empty() {
            let _ = answer.send(failed("an offer of nothing"));
            return;
        }
        if !self.device.has(selection) {
            let _ = answer.send(failed("the compositor has no primary selection"));
            return;
        }
        let given = self.manager.give(&self.handle);
        for target in given_here(&offer) {
            given.name(target.name.to_owned());
        }
        if offer.secret {
            given.name(HINT.to_owned());
        }
        given.name(self.mark.clone());
        self.device.set(selection, &given);
        let now = &mut self.now[place(selection)];
        now.given_up = false;
        now.given = Some(given.id());
        self.offers.insert(given.id(), (given, Making::new(offer)));
        self.answer_when_done(answer);
    }

    /// Destroys what is offered, which ends it; what another program offers since stays.
    fn clear(&mut self, selection: Selection, answer: oneshot::Sender<Result<(), FetchError>>) {
        let now = &mut self.now[place(selection)];
        if let Some((given, _)) = now.given.take().and_then(|id| self.offers.remove(&id)) {
            now.given_up = true;
            given.destroy();
        }
        self.answer_when_done(answer);
    }

    /// Once the compositor has done everything before.
    fn answer_when_done(&mut self, answer: oneshot::Sender<Result<(), FetchError>>) {
        self.next_answer += 1;
        self.answers.insert(self.next_answer, answer);
        self.connection.display().sync(&self.handle, self.next_answer);
    }

    /// Another program pastes what this side offers.
    fn asked(&self, id: &ObjectId, name: &str, into: OwnedFd) {
        let Some((_, making)) = self.offers.get(id) else {
            return;
        };
        let Ok(permit) = Arc::clone(&self.pastes).try_acquire_owned() else {
            tracing::debug!("clipboard: too many pastes at once, one is refused");
            return;
        };
        let secret = name == HINT && making.offer.secret;
        let target = given_here(&making.offer).find(|target| target.name == name);
        let making = Arc::clone(making);
        self.runtime.spawn(async move {
            let given = match target {
                _ if secret => pipes::give(into, SECRET, limits::GIVE_STILL).await,
                None => Ok(()),
                Some(target) => match making.content(target.format).await {
                    Ok(content) => {
                        let payload = target.coding.write(content);
                        pipes::give(into, payload.bytes(), limits::GIVE_STILL).await
                    }
                    Err(error) => {
                        tracing::debug!(%error, "clipboard: a paste gets nothing");
                        Ok(())
                    }
                },
            };
            if let Err(error) = given {
                tracing::debug!(%error, "clipboard: a paste is not taken, it ends");
            }
            drop(permit);
        });
    }

    /// A request with a descriptor goes out before anybody waits at the descriptor's other end. The loop
    /// does it again, and sees the errors.
    fn flush(&self) {
        let _ = self.connection.flush();
    }
}

impl Naming {
    fn name(&mut self, name: &str, mark: &str) {
        self.own |= name == mark;
        self.hint |= name == HINT;
        self.names += 1;
        if self.names > limits::NAMES {
            return;
        }
        if let Some(place) = known(name).filter(|place| !TARGETS[*place].x11_only) {
            self.targets[place] = true;
        }
    }
}

/// The end of a pipe that the content comes out of.
fn receive(found: &Found, name: &str) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    found.receive(name.to_owned(), write.as_fd());
    Ok(read)
}

fn given_here(offer: &Offer) -> impl Iterator<Item = &'static Target> {
    given(&offer.formats).filter(|target| !target.x11_only)
}

fn place(selection: Selection) -> usize {
    match selection {
        Selection::Clipboard => 0,
        Selection::Primary => 1,
    }
}

impl Dispatch<wl_registry::WlRegistry, GlobalListContents> for Worker {
    fn event(
        _: &mut Self,
        _: &wl_registry::WlRegistry,
        _: wl_registry::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

impl Dispatch<wl_seat::WlSeat, ()> for Worker {
    fn event(
        _: &mut Self,
        _: &wl_seat::WlSeat,
        _: wl_seat::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

impl Dispatch<wl_callback::WlCallback, u64> for Worker {
    fn event(
        worker: &mut Self,
        _: &wl_callback::WlCallback,
        _: wl_callback::Event,
        number: &u64,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let Some(answer) = worker.answers.remove(number) {
            let _ = answer.send(Ok(()));
        }
    }
}
