//! What the process can be asked, one JSON document a line each way.

use serde::{Deserialize, Serialize};
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Lets the guest see one more name of a folder that shows some only.
    Give {
        /// The name.
        name: Vec<u8>,
    },
    /// [`Reply::Status`].
    Status,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// Not done, for this reason.
    Refused {
        /// The reason.
        message: String,
    },
    /// How it stands.
    Status {
        /// Connections now.
        connections: usize,
        /// Requests so far.
        requests: u64,
        /// How many of them the guard refused.
        refused: u64,
        /// Names that listings left out: too long for any program of the guest.
        left_out: u64,
    },
}

/// Asks the process that listens at `path`. Blocks.
///
/// # Errors
/// It does not answer.
pub fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    vm_control::write_line(&mut stream, request).map_err(io::Error::other)?;
    let line = vm_control::read_line(&mut BufReader::new(stream)).map_err(io::Error::other)?;
    Ok(serde_json::from_slice(&line.ok_or(io::ErrorKind::UnexpectedEof)?)?)
}
