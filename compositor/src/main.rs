//! `macrohard-compositor`: the windows of one VM on the host's desktop. The daemon starts it; its standard input
//! is the socket on which daemons come. With `--listen` it runs without one, for tests and measurements.

use clap::Parser;
use compositor::app::{App, AppError, Daemon, Settings, Wake};
use compositor::paint::{Colour, Preference};
use compositor::walls;
use compositor_control::{ControlError, Listener, Mode};
use log_limits::StandardError;
use sandbox::SandboxError;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use window_memory::{MapError, WindowMemory};
use winit::event_loop::{EventLoop, EventLoopProxy};
use winit::platform::x11::EventLoopBuilderExtX11;

/// Shows the windows of a VM's applications on this desktop.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Without a daemon: take a guest's agent on this socket, as unix:PATH.
    #[arg(long, value_name = "ADDRESS", requires = "memory", value_parser = unix)]
    listen: Option<PathBuf>,
    /// With --listen: the file that is the guest's window memory. It must keep its length.
    #[arg(long, value_name = "FILE", requires = "listen")]
    memory: Option<PathBuf>,
    /// With --listen: name of the VM.
    #[arg(long, value_name = "NAME", default_value = "vm", requires = "listen")]
    vm: String,
    /// With --listen: colour of the border.
    #[arg(long, value_name = "#RRGGBB", default_value = "#3465a4", requires = "listen")]
    colour: Colour,
    /// What draws.
    #[arg(long, value_enum, default_value_t, env = "MACROHARD_PAINTER")]
    painter: Preference,
    /// Most pictures of a window in a second; without it, those of the fastest monitor.
    #[arg(long, value_name = "HERTZ", value_parser = clap::value_parser!(u32).range(1..=1000))]
    frame_rate: Option<u32>,
    /// Walls around the process: no programs, no network, few files. Off for drivers that need more.
    #[arg(long, value_enum, default_value_t, env = "MACROHARD_COMPOSITOR_SANDBOX")]
    sandbox: Walls,
    /// For tests: each byte from this pipe loses the GPU.
    #[arg(long, value_name = "PIPE", hide = true)]
    gpu_losses: Option<PathBuf>,
}

/// Whether there are walls around the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Walls {
    #[default]
    On,
    Off,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Memory(#[from] MapError),
    #[error("no walls can be built around the process (--sandbox off does without): {0}")]
    Walls(#[from] SandboxError),
    #[error("cannot {action}: {source}")]
    System { action: String, source: io::Error },
}

fn unix(text: &str) -> Result<PathBuf, String> {
    text.strip_prefix("unix:").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| {
        format!("{text:?} is no address; one is as unix:/run/user/1000/windows.sock")
    })
}

fn main() -> ExitCode {
    let filter = EnvFilter::builder()
        .with_env_var("MACROHARD_LOG")
        .try_from_env()
        .unwrap_or_else(|_| EnvFilter::new("info,wgpu=warn,naga=warn,winit=warn"));
    let log = StandardError::as_given();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).init();
    compositor::descriptors::raise();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("macrohard-compositor: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let system = |action: String| move |source| Failure::System { action, source };
    let Arguments { painter, frame_rate: rate, .. } = arguments;
    let losses = arguments.gpu_losses.as_ref().map(File::open).transpose();
    let losses = losses.map_err(system("open the pipe of --gpu-losses".to_owned()))?;
    let (settings, daemon, listener) = match (&arguments.listen, &arguments.memory) {
        (Some(listen), Some(memory)) => {
            let file = File::options().read(true).write(true).open(memory);
            let file = file.map_err(system(format!("open {}", memory.display())))?;
            let memory = Some(WindowMemory::map(file.into())?);
            let listener = UnixListener::bind(listen)
                .map_err(system(format!("listen on {}", listen.display())))?;
            let Arguments { vm, colour, .. } = arguments;
            let mode = Mode::Seamless;
            let settings = Settings { vm, colour, painter, rate, memory, voice: None, mode };
            (settings, None, Some(listener))
        }
        _ => {
            let (daemon, start) = Daemon::first(Listener::from_standard_input()?)?;
            let settings = Settings {
                vm: start.vm,
                colour: Colour(start.colour),
                painter,
                rate,
                memory: None,
                voice: Some(daemon.voice()),
                mode: start.mode,
            };
            (settings, Some(daemon), None)
        }
    };
    // While there is one thread.
    if arguments.sandbox == Walls::On {
        walls::close()?;
    }
    let event_loop =
        EventLoop::<Wake>::with_user_event().with_x11().build().map_err(AppError::from)?;
    let proxy = event_loop.create_proxy();
    let losing = proxy.clone();
    let mut app = App::new(settings, proxy.clone())?;
    if let Some(daemon) = daemon {
        daemon.hear(proxy).map_err(AppError::from)?;
    } else if let Some(listener) = listener {
        accept(listener, proxy).map_err(AppError::from)?;
    }
    if let Some(pipe) = losses {
        lose(pipe, losing).map_err(AppError::from)?;
    }
    event_loop.run_app(&mut app).map_err(AppError::from)?;
    app.into_result()?;
    Ok(())
}

/// Loses the GPU at each byte, in a thread of its own.
fn lose(mut pipe: File, proxy: EventLoopProxy<Wake>) -> io::Result<()> {
    std::thread::Builder::new().name("losses".into()).spawn(move || {
        while matches!(pipe.read(&mut [0]), Ok(1)) && proxy.send_event(Wake::LoseGpu).is_ok() {}
    })?;
    Ok(())
}

/// Takes agents, in a thread of its own.
fn accept(listener: UnixListener, proxy: EventLoopProxy<Wake>) -> io::Result<()> {
    std::thread::Builder::new().name("listen".into()).spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    // The loop has ended.
                    let Ok(()) = proxy.send_event(Wake::Connected(stream)) else { return };
                }
                Err(error) => {
                    tracing::error!("no agent can come any longer: {error}");
                    return;
                }
            }
        }
    })?;
    Ok(())
}
