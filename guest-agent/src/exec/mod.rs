//! Programs that the host runs in the guest.
//!
//! A program runs in a process group of its own, so that a signal reaches all it started, and all of it
//! ends when the host ends the call. With a terminal, or as another user, it is started through this
//! program's own `start` command ([`begin`]), which makes the session or leaves it to runuser.

mod begin;
mod order;
mod process;
mod terminal;

pub use begin::{Begin, begin};
pub use order::{Order, OrderError};

use std::time::Duration;

use agent_link::Role;
use process::{Chunk, Next, Process};
use proto::EXEC_CHUNK as CHUNK;
use proto::v1::exec_input::Input;
use proto::v1::exec_output::Output;
use proto::v1::{ExecEnded, ExecInput, ExecOutput, ExecStarted, exec_ended};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Outputs that wait for the host; then the program waits.
const BACKLOG: usize = 4;
/// How long the host may take to say what to run.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a program's last children still write is waited for this long after its end.
const LAST_WORDS: Duration = Duration::from_millis(100);

type To = mpsc::Sender<Result<ExecOutput, Status>>;

/// Runs what the first input says.
///
/// # Errors
/// The order is not one this agent takes, or the program cannot be started.
pub async fn run(
    mut inputs: Streaming<ExecInput>,
    role: Role,
) -> Result<ReceiverStream<Result<ExecOutput, Status>>, Status> {
    let first = tokio::time::timeout(PATIENCE, inputs.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("nothing said what to run"))??;
    let Some(Input::Start(start)) = first.and_then(|input| input.input) else {
        return Err(Status::invalid_argument("the first input is not `start`"));
    };
    let order = Order::check(start, role)?;
    let (process, input) = Process::start(&order)
        .map_err(|error| Status::not_found(format!("cannot run {}: {error}", order.name())))?;
    let (to, outputs) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let end = to.clone();
        // Dropping the process kills its group.
        tokio::select! {
            ending = carry(process, feed(inputs, input), &to) => {
                let _ = to.send(ending.map(Output::Ended).map(message)).await;
            }
            () = end.closed() => {}
        }
    });
    Ok(ReceiverStream::new(outputs))
}

fn message(output: Output) -> ExecOutput {
    ExecOutput { output: Some(output) }
}

/// Carries what the program writes to the host until it has ended, while `feeding` goes on.
async fn carry(
    mut process: Process,
    feeding: impl Future<Output = Result<(), Status>>,
    to: &To,
) -> Result<ExecEnded, Status> {
    // When sending fails nobody listens any more, and all of this is about to be dropped.
    let say = async |output| to.send(Ok(message(output))).await.map_err(|_| Status::cancelled(""));
    say(Output::Started(ExecStarted { pid: process.id() })).await?;
    let mut feeding = std::pin::pin!(feeding);
    let mut fed = false;
    let status = loop {
        tokio::select! {
            done = &mut feeding, if !fed => {
                done?;
                fed = true;
            }
            next = process.next() => match next {
                Ok(Next::Wrote(chunk)) => say(output(chunk)).await?,
                Ok(Next::Ended(status)) => break status,
                Err(error) => return Err(Status::internal(error.to_string())),
            },
        }
    };
    while let Ok(Some(chunk)) = tokio::time::timeout(LAST_WORDS, process.rest()).await {
        say(output(chunk)).await?;
    }
    Ok(ended(status))
}

/// Carries what the host says to the program. The host may fall silent: that alone ends nothing.
async fn feed(mut inputs: Streaming<ExecInput>, mut program: process::Input) -> Result<(), Status> {
    while let Some(input) = inputs.message().await? {
        match input.input {
            Some(Input::Stdin(bytes)) if bytes.len() > CHUNK => {
                let found = bytes.len();
                return Err(Status::invalid_argument(format!(
                    "an input has {found} bytes; allowed: {CHUNK}"
                )));
            }
            Some(Input::Stdin(bytes)) => program.write(&bytes).await,
            Some(Input::EndOfInput(_)) => program.end().await,
            Some(Input::Signal(number)) => {
                let signal = i32::try_from(number).ok().and_then(Signal::from_named_raw);
                program.signal(signal.ok_or_else(|| {
                    Status::invalid_argument(format!("there is no signal {number}"))
                })?);
            }
            Some(Input::Resize(size)) => program.resize(order::size(&size)?),
            Some(Input::Start(_)) | None => {
                return Err(Status::invalid_argument("an input says nothing, or starts once more"));
            }
        }
    }
    Ok(())
}

fn output(chunk: Chunk) -> Output {
    match chunk {
        Chunk::Stdout(bytes) => Output::Stdout(bytes),
        Chunk::Stderr(bytes) => Output::Stderr(bytes),
    }
}

fn ended(status: std::process::ExitStatus) -> ExecEnded {
    use std::os::unix::process::ExitStatusExt;
    let ending = match (status.code(), status.signal()) {
        (Some(code), _) => exec_ended::Ending::Code(u32::try_from(code).unwrap_or(255)),
        (None, signal) => {
            exec_ended::Ending::Signal(signal.and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
        }
    };
    ExecEnded { ending: Some(ending) }
}
