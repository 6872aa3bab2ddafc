//! The client's side of the daemon: connects to it and starts it when none runs.

use crate::daemon::{BUSY, READY};
use crate::launch::sibling;
use crate::problem::{Kind, Problem};
use definition::Places;
use hyper_util::rt::TokioIo;
use proto::v1::HandshakeRequest;
use proto::v1::control_client::ControlClient;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A connection to the daemon.
pub type Daemon = ControlClient<Channel>;

/// How often to try again while another client starts the daemon, and how long between.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Connects to the user's daemon and starts it when there is none.
///
/// # Errors
/// It cannot be reached, cannot be started, or speaks another protocol.
pub async fn connect(places: &Places) -> Result<Daemon, Problem> {
    for _ in 0..ATTEMPTS {
        let again = match reach(places).await? {
            Some(stream) => match greet(stream).await {
                // It took the connection and ended; nothing was asked of it yet.
                Err(problem) if problem.kind == Kind::Unavailable => true,
                greeted => return greeted,
            },
            None => !start(places)?,
        };
        if again {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Err(Problem::new(
        Kind::Unavailable,
        format!("the daemon runs but does not listen on {}", places.daemon_socket().display()),
    )
    .advise(format!(
        "end it (its process id is in {}) and try again",
        places.daemon_lock().display()
    )))
}

/// Connects to the user's daemon, or `None` when none runs.
///
/// # Errors
/// It cannot be reached, or speaks another protocol.
pub async fn connect_if_running(places: &Places) -> Result<Option<Daemon>, Problem> {
    match reach(places).await? {
        Some(stream) => Ok(Some(greet(stream).await?)),
        None => Ok(None),
    }
}

async fn reach(places: &Places) -> Result<Option<UnixStream>, Problem> {
    let path = places.daemon_socket();
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Problem::new(
            Kind::Unavailable,
            format!("cannot connect to the daemon at {}: {error}", path.display()),
        )),
    }
}

async fn greet(stream: UnixStream) -> Result<Daemon, Problem> {
    let unreachable = |error: tonic::transport::Error| {
        Problem::new(Kind::Unavailable, format!("the daemon hung up: {error}"))
    };
    let mut stream = Some(stream);
    // The address is only a form to fill: the stream is there already. A lost connection is not
    // made again, so that a step is never done twice.
    let channel = Endpoint::from_static("http://daemon")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        }))
        .await
        .map_err(unreachable)?;
    let mut daemon = ControlClient::new(channel);
    let reply = daemon
        .handshake(HandshakeRequest {
            protocol: proto::PROTOCOL,
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })
        .await?
        .into_inner();
    if reply.protocol == proto::PROTOCOL {
        return Ok(daemon);
    }
    Err(Problem::failed(format!(
        "the running daemon (process {}, version {}) speaks protocol {}, this program speaks {}",
        reply.pid,
        reply.program,
        reply.protocol,
        proto::PROTOCOL
    ))
    .advise(format!(
        "end it with `kill {}`: VMs go on, and the next command starts the new daemon",
        reply.pid
    )))
}

/// Starts the daemon. False when another one turned out to run or to be starting.
fn start(places: &Places) -> Result<bool, Problem> {
    let program = sibling("macrohardd")?;
    let log_path = places.daemon_log();
    let failed =
        |error: io::Error| Problem::failed(format!("cannot start {}: {error}", program.display()));
    let log = log_limits::open(&log_path)
        .map_err(|error| Problem::failed(format!("cannot open {}: {error}", log_path.display())))?;
    let mut child = Command::new(&program)
        .arg("--announce")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).map_err(failed)?;
    }
    match said.trim_end() {
        READY => Ok(true),
        BUSY => Ok(false),
        "" => Err(Problem::failed("the daemon ended before it was ready")
            .advise(format!("its log is {}", log_path.display()))),
        reason => Err(Problem::failed(format!("the daemon cannot start: {reason}"))),
    }
}
