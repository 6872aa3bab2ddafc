//! `exec` and `shell`: a program of the guest, joined with this program's own input, outputs, terminal
//! and signals.

use super::arguments::{ExecArguments, ShellArguments};
use super::terminal::{Raw, Silence, type_into};
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use proto::EXEC_CHUNK as CHUNK;
use proto::v1::exec_ended::Ending;
use proto::v1::exec_input::Input;
use proto::v1::exec_output::Output;
use proto::v1::exec_request::Request;
use proto::v1::{
    ExecEndOfInput, ExecEnded, ExecInput, ExecRequest, ExecStart, ExecTarget, TerminalSize,
};
use rustix::termios::tcgetwinsize;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// What a shell answers for a program that a signal killed (POSIX sh 2.8.2).
const KILLED: u32 = 128;
/// The size of a terminal that does not say its own.
const USUAL: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// `exec VM -- PROGRAM`.
pub(super) fn exec(arguments: ExecArguments) -> Result<ExitCode, Problem> {
    let environment = arguments.environment.iter().map(|variable| variable.as_bytes().to_vec());
    let start = ExecStart {
        arguments: arguments.program.into_iter().map(OsString::into_vec).collect(),
        environment: environment.collect(),
        folder: arguments.folder.unwrap_or_default().into_vec(),
        ..ExecStart::default()
    };
    let target = ExecTarget {
        name: arguments.name,
        user: arguments.user.unwrap_or_default(),
        patience: arguments.wait,
    };
    run(target, start, arguments.terminal)
}

/// `shell VM`.
pub(super) fn shell(arguments: ShellArguments) -> Result<ExitCode, Problem> {
    let target = ExecTarget {
        name: arguments.name,
        user: arguments.user.unwrap_or_default(),
        patience: arguments.wait,
    };
    run(target, ExecStart::default(), io::stdin().is_terminal())
}

fn run(target: ExecTarget, mut start: ExecStart, terminal: bool) -> Result<ExitCode, Problem> {
    if terminal {
        start.terminal = Some(size());
        if let Some(kind) = std::env::var_os("TERM") {
            start.environment.insert(0, [b"TERM=", &kind.into_vec()[..]].concat());
        }
    }
    let ending = block_on(async {
        // Sixteen chunks on their way are enough to keep the guest busy.
        let (to, requests) = mpsc::channel(16);
        for request in [Request::Target(target), input(Input::Start(start))] {
            to.send(ExecRequest { request: Some(request) }).await.map_err(Problem::failed)?;
        }
        let outputs = daemon().await?.exec(ReceiverStream::new(requests)).await?.into_inner();
        let raw = if terminal { Some(Raw::enter().map_err(failed)?) } else { None };
        let joined = join(outputs, to, terminal).await;
        drop(raw);
        joined
    })?;
    Ok(ExitCode::from(u8::try_from(ending).unwrap_or(u8::MAX)))
}

fn failed(error: io::Error) -> Problem {
    Problem::failed(format!("cannot use the terminal: {error}"))
}

fn input(input: Input) -> Request {
    Request::Input(ExecInput { input: Some(input) })
}

fn size() -> TerminalSize {
    match tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TerminalSize { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => USUAL,
    }
}

/// Carries bytes, signals and sizes until the program has ended; gives the code to end with.
async fn join(
    mut outputs: Streaming<proto::v1::ExecOutput>,
    to: mpsc::Sender<ExecRequest>,
    terminal: bool,
) -> Result<u32, Problem> {
    let (leave, mut left) = mpsc::channel::<()>(1);
    let keys = to.clone();
    // Not joined: it may wait for a key for ever.
    std::thread::spawn(move || {
        let mut keys = Keys(keys);
        if terminal {
            if type_into(io::stdin(), &mut keys) == Silence::Escape {
                let _ = leave.blocking_send(());
            }
        } else if copy(&mut io::stdin(), &mut keys).is_ok() {
            keys.say(Input::EndOfInput(ExecEndOfInput {}));
        }
        // A closed channel would look like the escape key.
        std::mem::forget(leave);
    });
    let listen = |kind| signal(kind).map_err(failed);
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (mut hangup, mut quit) = (listen(SignalKind::hangup())?, listen(SignalKind::quit())?);
    let mut resized = listen(SignalKind::window_change())?;
    loop {
        let said = tokio::select! {
            output = outputs.message() => {
                match output?.and_then(|output| output.output) {
                    Some(Output::Stdout(bytes)) => show(io::stdout(), &bytes)?,
                    Some(Output::Stderr(bytes)) => show(io::stderr(), &bytes)?,
                    Some(Output::Started(_)) => {}
                    Some(Output::Ended(ended)) => return Ok(code(&ended)),
                    None => {
                        return Err(Problem::failed("the guest's program has gone without a word"));
                    }
                }
                continue;
            }
            Some(()) = left.recv() => return Ok(0),
            _ = interrupt.recv() => Input::Signal(SignalKind::interrupt().as_raw_value().unsigned_abs()),
            _ = terminate.recv() => Input::Signal(SignalKind::terminate().as_raw_value().unsigned_abs()),
            _ = hangup.recv() => Input::Signal(SignalKind::hangup().as_raw_value().unsigned_abs()),
            _ = quit.recv() => Input::Signal(SignalKind::quit().as_raw_value().unsigned_abs()),
            _ = resized.recv(), if terminal => Input::Resize(size()),
        };
        // When nobody takes it the outputs say why.
        let _ = to.send(ExecRequest { request: Some(input(said)) }).await;
    }
}

fn code(ended: &ExecEnded) -> u32 {
    match ended.ending {
        Some(Ending::Code(code)) => code,
        Some(Ending::Signal(number)) => KILLED + number,
        None => u32::from(crate::problem::EXIT_FAILURE),
    }
}

/// A reader that has gone ends this program as it would end others.
fn show(mut out: impl Write, bytes: &[u8]) -> Result<(), Problem> {
    let shown = out.write_all(bytes).and_then(|()| out.flush());
    shown.map_err(|error| Problem::failed(format!("cannot print: {error}")))
}

/// Standard input on its way to the program.
struct Keys(mpsc::Sender<ExecRequest>);

impl Keys {
    fn say(&self, said: Input) -> bool {
        self.0.blocking_send(ExecRequest { request: Some(input(said)) }).is_ok()
    }
}

impl Write for Keys {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(CHUNK)];
        match part.is_empty() || self.say(Input::Stdin(part.to_vec())) {
            true => Ok(part.len()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&bytes[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // No input at all.
            Err(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_programs_or_a_shells_for_its_signal() {
        let ended = |ending| code(&ExecEnded { ending });
        assert_eq!(ended(Some(Ending::Code(7))), 7);
        assert_eq!(ended(Some(Ending::Signal(15))), 143);
        assert_eq!(ended(None), 1);
    }

    #[test]
    fn input_travels_in_pieces_the_protocol_allows() {
        let (to, mut from) = mpsc::channel(8);
        let text = vec![7; CHUNK * 2 + 1];
        copy(&mut &text[..], &mut Keys(to)).unwrap();
        let mut pieces = Vec::new();
        while let Ok(ExecRequest { request: Some(Request::Input(input)) }) = from.try_recv() {
            let Some(Input::Stdin(bytes)) = input.input else { panic!("{input:?}") };
            pieces.push(bytes.len());
        }
        assert_eq!(pieces, [CHUNK, CHUNK, 1]);
    }
}
