//! A running compositor and the conversation with it. One thread says, one hears; what is to be said waits in
//! a short queue, and a compositor that lets it fill is taken for dead.

use crate::daemon::process::Process;
use crate::problem::{Kind, Problem};
use compositor_control::{Answer, FromCompositor, Mode, Question, Receiver, Sender, ToCompositor};
use log_limits::Seldom;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a compositor may take to be ready: it looks at the display and the graphics card first.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a line may take to be taken.
const SAY_PATIENCE: Duration = Duration::from_secs(5);
/// Lines that may wait.
const QUEUE: usize = 64;
/// Questions that may wait for their answers.
const QUESTIONS: usize = 64;
/// How long it may take to close its windows when the VM has ended.
const FAREWELL: Duration = Duration::from_secs(3);

/// See the module. Dropped, the process goes on and waits for another daemon.
#[derive(Debug)]
pub(super) struct Compositor {
    process: Process,
    say: SyncSender<ToCompositor>,
    waiting: Arc<Waiting>,
    number: AtomicU64,
}

/// Those who wait for answers, by their questions' numbers; none any more when the conversation is over.
#[derive(Debug)]
struct Waiting(Mutex<Option<BTreeMap<u64, oneshot::Sender<Answer>>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<u64, oneshot::Sender<Answer>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compositor {
    /// Speaks with `process` at `socket`: says `first`, and waits until it is ready. `wish` is told what the
    /// person wants of it.
    ///
    /// # Errors
    /// It does not answer, or is of another version. It is not to be used then.
    pub(super) async fn meet(
        process: Process,
        socket: &Path,
        first: Vec<ToCompositor>,
        wish: impl Fn(Mode) + Send + 'static,
    ) -> Result<Self, Problem> {
        let failed = |what: &'static str| {
            move |error| Problem::failed(format!("compositor: {what}: {error}"))
        };
        let stream = UnixStream::connect(socket).map_err(failed("cannot connect"))?;
        let (sender, receiver) =
            compositor_control::link(stream).map_err(failed("cannot connect"))?;
        sender.set_patience(SAY_PATIENCE).map_err(failed("cannot connect"))?;
        let (say, said) = sync_channel(QUEUE);
        let waiting = Arc::new(Waiting(Mutex::new(Some(BTreeMap::new()))));
        let (ready, is_ready) = oneshot::channel();
        spawn("windows say", move || speak(sender, &said))?;
        let hearing = Hearing {
            waiting: Arc::clone(&waiting),
            wish,
            ready: Some(ready),
            gone: Seldom::new(),
        };
        spawn("windows hear", move || hearing.hear(receiver))?;
        let compositor = Self { process, say, waiting, number: AtomicU64::new(1) };
        for message in first {
            compositor.say(message)?;
        }
        match tokio::time::timeout(READY_PATIENCE, is_ready).await {
            Ok(Ok(compositor_control::VERSION)) => Ok(compositor),
            Ok(Ok(version)) => Err(Problem::failed(format!(
                "the compositor speaks version {version} of the control protocol, this daemon speaks {}",
                compositor_control::VERSION
            ))),
            Ok(Err(_)) => Err(Problem::failed("the compositor ended before it was ready")
                .advise("compositor.log in the VM's state folder says why")),
            Err(_) => Err(Problem::failed("the compositor does not become ready")),
        }
    }

    /// Whether it can be spoken with.
    pub(super) fn is_there(&self) -> bool {
        self.waiting.lock().is_some() && self.process.is_alive()
    }

    /// Says something. Does not wait.
    ///
    /// # Errors
    /// It has gone, or does not listen.
    pub(super) fn say(&self, message: ToCompositor) -> Result<(), Problem> {
        self.say.try_send(message).map_err(|error| match error {
            TrySendError::Disconnected(_) => gone(),
            TrySendError::Full(_) => {
                // Its windows are dead, too: better that they go.
                self.kill();
                Problem::failed("the compositor hangs; it is ended")
            }
        })
    }

    /// Asks, and waits for the answer as long as `patience`.
    ///
    /// # Errors
    /// It refuses, has gone, or does not answer.
    pub(super) async fn ask(
        &self,
        question: Question,
        patience: Duration,
    ) -> Result<Answer, Problem> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            let waiting = waiting.as_mut().ok_or_else(gone)?;
            waiting.retain(|_, asker| !asker.is_closed());
            if waiting.len() >= QUESTIONS {
                return Err(Problem::failed("too many questions wait for the compositor"));
            }
            waiting.insert(number, answer);
        }
        self.say(ToCompositor::Ask { number, question })?;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(Answer::Refused { message })) => Err(Problem::new(Kind::Refused, message)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Problem::new(Kind::TimedOut, "the compositor does not answer")),
        }
    }

    /// Ends it without asking.
    pub(super) fn kill(&self) {
        if let Err(error) = self.process.kill() {
            tracing::error!(pid = self.process.pid, %error, "the compositor cannot be ended");
        }
    }

    /// Has it close its windows and end, or ends it.
    pub(super) async fn end(&self) {
        let asked = self.say(ToCompositor::End).is_ok();
        if !asked || tokio::time::timeout(FAREWELL, self.process.ended()).await.is_err() {
            self.kill();
        }
    }
}

fn gone() -> Problem {
    Problem::failed("the compositor has ended")
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Problem> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
    thread.spawn(work).map_err(Problem::failed)?;
    Ok(())
}

fn speak(mut sender: Sender<ToCompositor>, said: &std::sync::mpsc::Receiver<ToCompositor>) {
    while let Ok(message) = said.recv() {
        if let Err(error) = sender.send(message) {
            tracing::warn!(%error, "the compositor is not to be spoken with any more");
            break;
        }
    }
    // Then the other thread ends, too.
    sender.close();
}

struct Hearing<W> {
    waiting: Arc<Waiting>,
    wish: W,
    ready: Option<oneshot::Sender<u32>>,
    /// Lines about agents that left.
    gone: Seldom,
}

impl<W: Fn(Mode)> Hearing<W> {
    fn hear(mut self, mut receiver: Receiver<FromCompositor>) {
        loop {
            match receiver.receive() {
                Ok(Some(message)) => self.take(message),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "what the compositor says is not understood");
                    break;
                }
            }
        }
        // Those who wait learn that nothing comes.
        *self.waiting.lock() = None;
    }

    fn take(&mut self, message: FromCompositor) {
        match message {
            FromCompositor::Ready { version, program } => {
                tracing::debug!(version, program, "compositor");
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(version);
                }
            }
            FromCompositor::Wish(mode) => (self.wish)(mode),
            FromCompositor::GuestGone { reason } => {
                if let Some(kept) = self.gone.due() {
                    tracing::info!(reason, kept, "a guest's windows are closed");
                }
            }
            FromCompositor::Answer { number, answer } => {
                let asker = self.waiting.lock().as_mut().and_then(|them| them.remove(&number));
                if let Some(asker) = asker {
                    // Whoever asked may have gone.
                    let _ = asker.send(answer);
                }
            }
        }
    }
}
