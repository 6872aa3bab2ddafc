//! The face that both backends have: a thread of its own holds the connection to the display, its holder gives
//! it commands. Nobody waits for the thread without a limit.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::changes::Changes;
use crate::commands::{Inbox, Outbox, answer_of, commands};
use crate::{
    Backend, Boxed, ConnectError, Connected, Content, FetchError, Format, Offer, Offered,
    Selection, limits,
};

/// What the holder wants, or a task of the backend has made.
pub(crate) enum Command<M> {
    Fetch(Wanted),
    Offer {
        selection: Selection,
        offer: Offer,
        answer: oneshot::Sender<Result<(), FetchError>>,
    },
    Clear {
        selection: Selection,
        answer: oneshot::Sender<Result<(), FetchError>>,
    },
    /// The backend's own.
    Made(M),
    End,
}

/// Content that is asked for.
pub(crate) struct Wanted {
    pub(crate) selection: Selection,
    /// Of the [`Offered`] that it is content of.
    pub(crate) number: u64,
    pub(crate) format: Format,
    /// Bytes at most.
    pub(crate) most: usize,
    pub(crate) answer: oneshot::Sender<Result<Content, FetchError>>,
}

/// What a thread works with.
pub(crate) struct Ends<M> {
    pub(crate) inbox: Inbox<Command<M>>,
    /// For tasks that make something for the thread.
    pub(crate) outbox: Outbox<Command<M>>,
    pub(crate) changes: Changes,
    pub(crate) runtime: Runtime,
}

/// Why there is no connection.
pub(crate) enum Setup {
    Refused(String),
    Lacks(&'static str),
}

/// Starts a thread that connects with `open`, and then runs what that gives until the connection is lost or the
/// holder lets go.
///
/// # Errors
/// There is no connection, or not in time.
pub(crate) async fn start<M, R, L>(
    name: String,
    thread: &str,
    open: impl FnOnce(Ends<M>) -> Result<R, Setup> + Send + 'static,
) -> Result<Connected, ConnectError>
where
    M: Send + 'static,
    R: FnOnce() -> Result<(), L>,
    L: fmt::Display,
{
    let refused = |reason: String| ConnectError::Refused { display: name.clone(), reason };
    let runtime = Runtime::current();
    let (outbox, inbox) = commands().map_err(|error| refused(error.to_string()))?;
    let (changes, receiver): (_, mpsc::Receiver<Offered>) = Changes::channel(&runtime);
    let ends = Ends { inbox, outbox: outbox.clone(), changes, runtime };
    let (ready, up) = oneshot::channel();
    let to = name.clone();
    let body = move || match open(ends) {
        Err(error) => drop(ready.send(Err(error))),
        Ok(run) => {
            // Nobody waits any more: the thread ends, and so does the connection.
            if ready.send(Ok(())).is_ok()
                && let Err(lost) = run()
            {
                tracing::info!(%lost, "clipboard: the display is gone: {to}");
            }
        }
    };
    std::thread::Builder::new()
        .name(thread.to_owned())
        .spawn(body)
        .map_err(|error| refused(format!("start a thread: {error}")))?;
    match timeout(limits::CONNECT, up).await {
        Ok(Ok(Ok(()))) => Ok((Arc::new(Handle { name, outbox }), receiver)),
        Ok(Ok(Err(Setup::Refused(reason)))) => Err(refused(reason)),
        Ok(Ok(Err(Setup::Lacks(lacks)))) => {
            Err(ConnectError::Lacks { display: name.clone(), lacks })
        }
        Ok(Err(_)) => Err(refused("the thread ended early".to_owned())),
        Err(_) => Err(refused("it does not answer".to_owned())),
    }
}

/// The holder's end.
struct Handle<M> {
    name: String,
    outbox: Outbox<Command<M>>,
}

impl<M> fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl<M> Drop for Handle<M> {
    fn drop(&mut self) {
        self.outbox.send(Command::End);
    }
}

impl<M: Send + 'static> Backend for Handle<M> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn fetch(
        &self,
        selection: Selection,
        number: u64,
        format: Format,
        most: usize,
    ) -> Boxed<Result<Content, FetchError>> {
        let (answer, answered) = oneshot::channel();
        self.outbox.send(Command::Fetch(Wanted { selection, number, format, most, answer }));
        answer_of(answered)
    }

    fn offer(&self, selection: Selection, offer: Offer) -> Boxed<Result<(), FetchError>> {
        let (answer, answered) = oneshot::channel();
        self.outbox.send(Command::Offer { selection, offer, answer });
        answer_of(answered)
    }

    fn clear(&self, selection: Selection) -> Boxed<()> {
        let (answer, answered) = oneshot::channel();
        self.outbox.send(Command::Clear { selection, answer });
        let answered = answer_of(answered);
        Box::pin(async move { drop(answered.await) })
    }
}
