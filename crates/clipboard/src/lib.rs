//! A desktop's clipboard: what others offer on it, and offering something oneself. Nothing moves before
//! somebody pastes: an offer is a list of formats, content is made when it is asked for.
//!
//! The guest's session agent and the host's daemon each hold one [`Backend`] and keep the two in step;
//! policy is theirs, not this crate's.

#![forbid(unsafe_code)]

mod changes;
mod commands;
mod connect;
mod handle;
mod limits;
mod making;
pub mod targets;
pub mod uris;
pub mod wayland;
pub mod x11;

pub use connect::{ConnectError, Display, connect, connect_to};

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;

/// Which of a desktop's clipboards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selection {
    /// What Copy fills.
    Clipboard,
    /// What selecting with the mouse fills.
    Primary,
}

/// Kinds of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// UTF-8 without looks.
    Text,
    /// UTF-8.
    Html,
    /// A picture.
    Png,
    /// Names of files.
    Files,
}

/// Content that was fetched or is given.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// Of every format but files.
    Bytes(Vec<u8>),
    /// Of [`Format::Files`].
    Files {
        /// Absolute paths.
        paths: Vec<PathBuf>,
        /// Whoever pastes moves them.
        cut: bool,
    },
}

/// What somebody offers on a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Where.
    pub selection: Selection,
    /// Which of this backend's on this selection. Each change of owner has a later one, whether it is told or not.
    pub number: u64,
    /// What; empty when the selection has been cleared.
    pub formats: BTreeSet<Format>,
    /// Its program says that it is a secret.
    pub secret: bool,
}

/// Why content does not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Nobody offers that, or not any more.
    #[error("it is not offered any more")]
    Gone,
    /// It is more than was allowed.
    #[error("it has more than {0} bytes")]
    Large(usize),
    /// Whoever offers it does not give it in time.
    #[error("the program it was copied from does not answer")]
    Late,
    /// The person or the policy says no.
    #[error("it is not allowed")]
    Denied,
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// A future of a trait object.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Makes content when somebody pastes.
pub trait Source: Send + Sync {
    /// The content in a format that was offered.
    fn fetch(&self, format: Format) -> Boxed<Result<Content, FetchError>>;
}

/// What is offered by this side.
#[derive(Clone)]
pub struct Offer {
    /// Not empty.
    pub formats: BTreeSet<Format>,
    /// Clipboard histories should leave it out.
    pub secret: bool,
    /// What makes it.
    pub source: Arc<dyn Source>,
}

/// A desktop's clipboard. A connection to a display that is lost closes the channel of changes; the holder
/// connects again.
pub trait Backend: Send + Sync + fmt::Debug {
    /// What it is connected to, for a person: "X11 :0", "Wayland wayland-0".
    fn name(&self) -> String;

    /// Content of what another program offers, of at most `most` bytes. It is that of the [`Offered`] with this
    /// number, or none: once another program has taken the selection, nobody is asked any more
    /// ([`FetchError::Gone`]).
    fn fetch(
        &self,
        selection: Selection,
        number: u64,
        format: Format,
        most: usize,
    ) -> Boxed<Result<Content, FetchError>>;

    /// Takes the selection. It is this side's until another program takes it or this side clears it.
    fn offer(&self, selection: Selection, offer: Offer) -> Boxed<Result<(), FetchError>>;

    /// Gives the selection up, when it is this side's.
    fn clear(&self, selection: Selection) -> Boxed<()>;
}

/// A backend with what others offer on it: the present state first, then each change. What this side
/// offers itself does not come.
pub type Connected = (Arc<dyn Backend>, mpsc::Receiver<Offered>);

/// The content itself stays out of logs.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Files { paths, cut } => write!(f, "{} files, cut: {cut}", paths.len()),
        }
    }
}
