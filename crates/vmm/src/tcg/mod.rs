//! Engine `tcg`: QEMU as the machine. The same definition becomes a QEMU command line
//! (`arguments`), QEMU runs as a child of the VM process (`service`) and is steered through its
//! monitor (`qmp`); its consoles are bridged to ours, and its end becomes the VM's ending.
//!
//! Called as any other [`Machine`]. Everything that needs the host's files happens in
//! [`TcgMachine::new`], before the process closes its sandbox.

mod arguments;
mod bridge;
mod counters;
mod disks;
mod ending;
mod qmp;
mod reset;
mod resize;

use crate::flash::FlashFiles;
use crate::screen::{OnResize, Screen, Viewers};
use crate::service::{self, ExitCode, Service};
use crate::{FilePart, Machine, MachineError, QUIT_PATIENCE, Surroundings};
use arguments::{Flash, NetworkEnd, ScreenSockets, Wiring};
use counters::Accounts;
use definition::{NetworkMode, ShareKind, VmDefinition};
use display::Size;
use ending::Signs;
use loader::ImageKind;
use qmp::{Event, Qmp};
use reset::{ResetButton, ResetEvents, reset_events};
use resize::Resizer;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use units::Bytes;
use virtio::net::Tap;
use virtio::vhost_user::Server;
use virtio::vsock::Vsock;
use vm_control::{Ending, Files, LaunchSpec, Statistics};

const QEMU: &str = "qemu-system-x86_64";
const INSTALL: &str = "install the package qemu-system-x86 (version 8.0 or later; on Debian 12 from bookworm-backports)";
/// The first major version whose options and events are the ones used here.
const OLDEST_MAJOR: u64 = 8;
/// How long QEMU may take to leave after it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);
/// The guest's vsock address: the first a guest may have. Each VM is alone on its vsock.
const GUEST_CID: u64 = 3;
/// What QEMU writes to its trace when a processor shuts down (target/i386, `CPU_LOG_RESET`).
const TRIPLE_FAULT: &str = "Triple fault";

/// A VM run by QEMU.
pub struct TcgMachine {
    qmp: Arc<Qmp>,
    qemu: Arc<Service>,
    accounts: Accounts,
    shared: Arc<Shared>,
    reset: ResetButton,
    /// Ends when QEMU has ended and everything about it is known.
    obituary: Mutex<Option<Receiver<()>>>,
    memory: Bytes,
    /// Our devices QEMU has attached: vsock, and those of the screen.
    served: Vec<Server>,
    /// Shows the screen to viewers.
    _viewers: Option<display::Server>,
    window_memory: Option<(File, Bytes)>,
    /// passt and virtiofsd; they end with the connection to QEMU, and at the latest with this.
    _services: Vec<Service>,
}

/// What the threads that listen to QEMU tell each other.
#[derive(Default)]
struct Shared {
    /// The VM process asked QEMU to leave.
    quitting: AtomicBool,
    shutdown: Mutex<Option<String>>,
}

impl TcgMachine {
    /// Builds the machine of `spec`: QEMU is up, holds the guest's memory and disks, and has not
    /// run an instruction.
    ///
    /// # Errors
    /// The definition asks for what this engine has not, a file is missing or refused, or QEMU or
    /// a process beside it does not start.
    pub fn new(spec: &LaunchSpec, surroundings: &Surroundings) -> Result<Self, MachineError> {
        let vm = &spec.definition;
        if let Some(unikernel) = &vm.boot.hvt {
            return Err(no_tender(unikernel));
        }
        let files = Files::new(&spec.runtime, &spec.state);
        let multiboot = match kernel_kind(vm)? {
            Some(ImageKind::Tiny) => return Err(tiny_guest(vm)),
            kind => kind == Some(ImageKind::Multiboot),
        };
        if multiboot {
            module_without_spaces(vm)?;
        }
        let (monitor, qemu_monitor) = pair()?;
        let (serial, qemu_serial) = pair()?;
        let (debug, qemu_debug) = pair()?;
        let (virtio_console, qemu_virtio_console) = pair()?;
        let (trace, qemu_trace) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| MachineError::system("cannot make a pipe for QEMU", e.into()))?;
        let vsock_socket = spec.runtime.join("vsock-device.sock");
        let vsock = serve_vsock(&files, &vsock_socket, surroundings)?;
        let mut served = vec![vsock];
        let screen = vm.display.as_ref().map(|wanted| serve_screen(spec, wanted, &mut served));
        let (screen, viewers) = screen.transpose()?.unzip();
        let mut services = Vec::new();
        let (networks, network_ends) = networks(vm, &mut services)?;
        let window_memory = match Bytes::mib(vm.windows.memory) {
            Bytes(0) => None,
            size => Some((engine::sealed_file("window-memory", size, false)?, size)),
        };
        let wiring = Wiring {
            monitor: qemu_monitor.as_raw_fd(),
            serial: qemu_serial.as_raw_fd(),
            debug: qemu_debug.as_raw_fd(),
            virtio_console: qemu_virtio_console.as_raw_fd(),
            trace: qemu_trace.as_raw_fd(),
            agent_token: agent_token(spec, &files)?,
            agent_port: files.agent_port(),
            vsock: vsock_socket.clone(),
            screen,
            networks,
            disks: vm
                .disks
                .iter()
                .enumerate()
                .map(|(index, disk)| disks::layers(index, disk))
                .collect::<Result<_, _>>()?,
            shares: shares(vm, spec, &mut services)?,
            window_memory: window_memory.as_ref().map(|(file, _)| file.as_raw_fd()),
            flash: flash(vm, &files)?,
            multiboot,
            end_on_reset: surroundings.end_on_reset,
        };
        let mut pass = vec![
            qemu_monitor.as_fd(),
            qemu_serial.as_fd(),
            qemu_debug.as_fd(),
            qemu_virtio_console.as_fd(),
            qemu_trace.as_fd(),
        ];
        pass.extend(network_ends.iter().map(AsFd::as_fd));
        pass.extend(window_memory.iter().map(|(file, _)| file.as_fd()));
        let line = arguments::arguments(vm, &wiring);
        tracing::debug!(?line, "QEMU's command line");
        let qemu = Service::start(QEMU, INSTALL, &line, &pass, ExitCode::Whole)?;
        // From here on only QEMU holds its ends, so that its end closes them.
        drop((qemu_monitor, qemu_serial, qemu_debug, qemu_virtio_console));
        drop((qemu_trace, network_ends));

        let shared = Arc::<Shared>::default();
        let (resets, reports) = reset_events();
        let notes = Arc::clone(&shared);
        let connected = Qmp::connect(monitor, move |event| notes.take(&event, &resets));
        let (qmp, monitor) = connected.map_err(|error| explain(&qemu, error))?;
        let qmp = Arc::new(qmp);
        if qmp.version().0 < OLDEST_MAJOR {
            let (major, minor, micro) = qmp.version();
            return Err(MachineError::Child {
                program: QEMU,
                reason: format!("version {major}.{minor}.{micro} is too old; {INSTALL}"),
            });
        }
        for service in &services {
            if let Some(end) = service.ended()? {
                return Err(service.obituary(end));
            }
        }
        let viewers = match (viewers, &wiring.screen) {
            (Some(viewers), Some(sockets)) => {
                let on_resize = on_resize(&qmp, sockets, viewers.size())?;
                Some(viewers.serve(&files.display(), on_resize)?)
            }
            _ => None,
        };
        // QEMU is connected; nobody else has business there.
        let of_screen = wiring.screen.iter().flat_map(ScreenSockets::all);
        let sockets = wiring.shares.iter().flatten().chain([&vsock_socket]).chain(of_screen);
        for socket in sockets {
            if let Err(error) = std::fs::remove_file(socket) {
                tracing::warn!(path = %socket.display(), %error, "cannot be removed");
            }
        }
        let accounts = Accounts::open(qemu.pid(), &qmp)?;
        let console = Arc::clone(&surroundings.console);
        let serial = bridge::bridge("serial", console, serial, vec![debug])?;
        let console = Arc::clone(&surroundings.virtio_console);
        let hvc = bridge::bridge("hvc0", console, virtio_console, vec![])?;
        let trace = listen_for_triple_faults(trace, surroundings)?;
        let qemu = Arc::new(qemu);
        let obituary = watch(
            Arc::clone(&qemu),
            Arc::clone(&shared),
            surroundings,
            vec![monitor, serial, hvc, trace],
        )?;
        let (end_on_reset, through_bios) = (surroundings.end_on_reset, wiring.flash.is_none());
        Ok(Self {
            reset: ResetButton::new(Arc::clone(&qmp), reports, end_on_reset, through_bios)?,
            qmp,
            qemu,
            accounts,
            shared,
            obituary: Mutex::new(Some(obituary)),
            memory: Bytes::mib(vm.memory),
            served,
            _viewers: viewers,
            window_memory,
            _services: services,
        })
    }
}

impl Machine for TcgMachine {
    fn engine(&self) -> &'static str {
        "tcg"
    }

    fn start(&self) -> Result<(), MachineError> {
        self.qemu.forget_words();
        self.qmp.execute("cont", json!({})).map(|_| ())
    }

    fn pause(&self) -> Result<(), MachineError> {
        self.qmp.execute("stop", json!({})).map(|_| ())
    }

    fn resume(&self) -> Result<(), MachineError> {
        self.qmp.execute("cont", json!({})).map(|_| ())
    }

    fn reset(&self) -> Result<(), MachineError> {
        self.reset.press()
    }

    fn press_power_button(&self) -> Result<(), MachineError> {
        self.qmp.execute("system_powerdown", json!({})).map(|_| ())
    }

    fn quit(&self) -> Result<(), MachineError> {
        self.shared.quitting.store(true, SeqCst);
        // By signal: it works however the monitor stands.
        self.qemu.terminate();
        let obituary = self.obituary.lock().map_or(None, |mut o| o.take());
        if let Some(obituary) = obituary
            && obituary.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!("QEMU does not leave; it is killed");
            self.qemu.kill();
            // Nothing is ever sent: the other end goes when QEMU has been buried.
            if obituary.recv_timeout(QUIT_PATIENCE - FAREWELL) == Err(RecvTimeoutError::Timeout) {
                return Err(MachineError::Child {
                    program: QEMU,
                    reason: "it does not end, not even killed: the host does not answer a disk or \
                             device of it"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }

    fn statistics(&self) -> Result<Statistics, MachineError> {
        let mut statistics = self.accounts.statistics(&self.qmp)?;
        for server in &self.served {
            let (name, counters) =
                server.with_device(|device| (device.name().to_owned(), device.counters()));
            let counters = counters.into_iter().map(|(name, count)| (name.to_owned(), count));
            statistics.devices.insert(name, counters.collect());
        }
        Ok(statistics)
    }

    fn inspect(&self) -> Result<Value, MachineError> {
        let ask = |command: &str| self.qmp.execute(command, json!({}));
        let (major, minor, micro) = self.qmp.version();
        let mut tree = json!({
            "qemu": format!("{major}.{minor}.{micro}"),
            "status": ask("query-status")?,
            "processors": ask("query-cpus-fast")?,
            "block": ask("query-block")?,
            "pci": ask("query-pci")?,
        });
        for server in &self.served {
            let (name, facts) = server.with_device(|device| {
                let facts = device.inspect().into_iter();
                let facts = facts.map(|(name, fact)| (name.to_owned(), fact));
                (device.name().to_owned(), facts.collect::<BTreeMap<_, _>>())
            });
            tree[name] = json!(facts);
        }
        Ok(tree)
    }

    fn window_memory(&self) -> Option<FilePart<'_>> {
        let (file, length) = self.window_memory.as_ref()?;
        Some(FilePart { file: file.as_fd(), offset: 0, length: *length })
    }

    fn set_balloon(&self, target: Bytes) -> Result<(), MachineError> {
        /// What the guest keeps at least.
        const KEPT: u64 = 64 << 20;
        match self.memory.0.checked_sub(target.0) {
            Some(left) if left >= KEPT => {
                self.qmp.execute("balloon", json!({"value": left})).map(|_| ())
            }
            _ => Err(MachineError::Definition {
                field: "balloon target".into(),
                value: target.to_string(),
                reason: format!("the VM has {} and keeps at least {KEPT}", self.memory),
            }),
        }
    }
}

impl Drop for TcgMachine {
    fn drop(&mut self) {
        // What is stuck has been reported, or nobody is there to hear of it.
        let _ = self.quit();
    }
}

impl Shared {
    fn take(&self, event: &Event, resets: &ResetEvents) {
        tracing::debug!(?event, "QEMU");
        match event.name.as_str() {
            "SHUTDOWN" => {
                let reason = event.data["reason"].as_str().map(str::to_owned);
                *self.shutdown.lock().unwrap_or_else(PoisonError::into_inner) = reason;
            }
            "RESET" => resets.take(event),
            _ => {}
        }
    }
}

fn pair() -> Result<(UnixStream, UnixStream), MachineError> {
    UnixStream::pair().map_err(|e| MachineError::system("cannot make a socket for QEMU", e))
}

/// What the kernel file is; `None` when firmware boots.
fn kernel_kind(vm: &VmDefinition) -> Result<Option<ImageKind>, MachineError> {
    let Some(path) = &vm.boot.kernel else {
        return Ok(None);
    };
    let mut file =
        File::open(path).map_err(|e| MachineError::file("cannot open kernel", path, e))?;
    let kind = loader::detect(&mut file).map_err(|error| MachineError::Definition {
        field: "boot.kernel".into(),
        value: path.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(Some(kind))
}

/// Unikernels talk to a tender, and QEMU is none.
fn no_tender(unikernel: &std::path::Path) -> MachineError {
    MachineError::Definition {
        field: "boot.hvt".into(),
        value: unikernel.display().to_string(),
        reason:
            "a unikernel needs the tender of engine kvm, which QEMU does not have; use --engine \
                 kvm"
            .to_owned(),
    }
}

/// Tiny guests talk to ports that QEMU has no device for.
fn tiny_guest(vm: &VmDefinition) -> MachineError {
    let kernel = vm.boot.kernel.as_deref().unwrap_or("".as_ref());
    MachineError::Definition {
        field: "boot.kernel".into(),
        value: kernel.display().to_string(),
        reason: "a tiny guest needs the hypercall ports of engine kvm, which QEMU does not have; \
                 use --engine kvm"
            .to_owned(),
    }
}

/// QEMU takes what follows a space for the module's command line.
fn module_without_spaces(vm: &VmDefinition) -> Result<(), MachineError> {
    match &vm.boot.initrd {
        Some(path) if path.as_os_str().as_encoded_bytes().contains(&b' ') => {
            Err(MachineError::Definition {
                field: "boot.initrd".into(),
                value: path.display().to_string(),
                reason: "engine tcg takes no module of a Multiboot kernel from a path with a \
                         space; rename it, or use --engine kvm"
                    .to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn networks(
    vm: &VmDefinition,
    services: &mut Vec<Service>,
) -> Result<(Vec<NetworkEnd>, Vec<OwnedFd>), MachineError> {
    let mut ends = Vec::new();
    let mut descriptors = Vec::new();
    for (index, network) in vm.networks.iter().enumerate() {
        let (end, descriptor): (fn(_) -> _, OwnedFd) = match &network.mode {
            NetworkMode::Passt => {
                let (passt, stream) = service::passt()?;
                services.push(passt);
                (NetworkEnd::Stream, stream.into())
            }
            // Opened, and brought up, as engine kvm does it; refused in the same words.
            NetworkMode::Tap { interface } => {
                let tap = Tap::open(interface).map_err(|error| MachineError::Definition {
                    field: format!("net[{index}].interface").into(),
                    value: interface.clone(),
                    reason: error.to_string(),
                })?;
                (NetworkEnd::Tap, tap.into())
            }
        };
        ends.push(end(descriptor.as_raw_fd()));
        descriptors.push(descriptor);
    }
    Ok((ends, descriptors))
}

fn shares(
    vm: &VmDefinition,
    spec: &LaunchSpec,
    services: &mut Vec<Service>,
) -> Result<Vec<Option<PathBuf>>, MachineError> {
    let mut sockets = Vec::new();
    for (index, share) in vm.shares.iter().enumerate() {
        sockets.push(match share.kind {
            ShareKind::Plan9 | ShareKind::Vsock => None,
            ShareKind::VirtioFs => {
                let socket = spec.runtime.join(format!("share{index}.sock"));
                services.push(service::virtiofsd(share, &socket)?);
                Some(socket)
            }
        });
    }
    Ok(sockets)
}

/// The agent's token in a file of its own: on QEMU's command line everybody could read it.
fn agent_token(spec: &LaunchSpec, files: &Files<'_>) -> Result<Option<PathBuf>, MachineError> {
    let Some(token) = &spec.agent_token else {
        return Ok(None);
    };
    let path = files.agent_token();
    let written = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(token.as_bytes()));
    written.map_err(|error| MachineError::system("cannot write the agent's token", error))?;
    Ok(Some(path))
}

/// Serves our own vsock device at `socket`, for QEMU to attach.
fn serve_vsock(
    files: &Files<'_>,
    socket: &Path,
    surroundings: &Surroundings,
) -> Result<Server, MachineError> {
    let part = |error: &dyn std::fmt::Display| MachineError::Part {
        part: "vsock",
        reason: error.to_string(),
    };
    let ports = surroundings.host_ports.clone();
    let device = Vsock::new("vsock0", GUEST_CID, &files.vsock(), ports).map_err(|e| part(&e))?;
    let listener = service::listen_at(socket)?;
    Server::start(Box::new(device), listener).map_err(|e| part(&e))
}

/// Serves the screen's devices, for QEMU to attach; viewers come when it has.
fn serve_screen(
    spec: &LaunchSpec,
    wanted: &definition::Display,
    served: &mut Vec<Server>,
) -> Result<(ScreenSockets, Viewers), MachineError> {
    let Screen { devices, viewers } = Screen::new(wanted)?;
    let path = |name: &str| spec.runtime.join(format!("{name}.sock"));
    let sockets = ScreenSockets {
        gpu: path("gpu-device"),
        keyboard: path("keyboard-device"),
        pointer: path("pointer-device"),
        resizable: resize::available(QEMU),
    };
    let places = [&sockets.gpu, &sockets.keyboard, &sockets.pointer];
    for (device, place) in devices.into_iter().zip(places) {
        let listener = service::listen_at(place)?;
        let server = Server::start(device, listener)
            .map_err(|e| MachineError::system("cannot serve a device of the screen", e))?;
        served.push(server);
    }
    Ok((sockets, viewers))
}

/// What makes the guest hear of another size.
fn on_resize(
    qmp: &Qmp,
    sockets: &ScreenSockets,
    size: Size,
) -> Result<Option<OnResize>, MachineError> {
    if !sockets.resizable {
        tracing::warn!(
            "the guest will not hear of another size of its screen: QEMU has no D-Bus display; {}",
            "install the package qemu-system-modules-opengl"
        );
        return Ok(None);
    }
    let mut resizer = Resizer::connect(qmp, size)?;
    Ok(Some(Box::new(move |size| resizer.tell(size))))
}

fn flash(vm: &VmDefinition, files: &Files<'_>) -> Result<Option<Flash>, MachineError> {
    if vm.boot.kernel.is_some() {
        return Ok(None);
    }
    let flash = FlashFiles::find(vm.boot.firmware.as_deref())?;
    Ok(Some(Flash { variables: flash.variables(&files.nvram())?, code: flash.code }))
}

/// QEMU's own words say more than a monitor that was hung up.
fn explain(qemu: &Service, error: MachineError) -> MachineError {
    qemu.kill();
    match qemu.wait() {
        Ok(end) if !qemu.last_words().is_empty() => qemu.obituary(end),
        _ => error,
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, MachineError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|e| MachineError::system("cannot start a thread", e))
}

/// Ends the VM at a triple fault, as engine `kvm` does; QEMU alone would reset it.
fn listen_for_triple_faults(
    trace: OwnedFd,
    surroundings: &Surroundings,
) -> Result<JoinHandle<()>, MachineError> {
    let ending = Arc::clone(&surroundings.ending);
    spawn("qemu trace", move || {
        let mut trace = BufReader::new(File::from(trace));
        let mut line = Vec::new();
        loop {
            line.clear();
            match trace.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.starts_with(TRIPLE_FAULT.as_bytes()) => {
                    ending.end(Ending::TripleFault);
                }
                Ok(_) => {}
            }
        }
    })
}

/// Waits for QEMU's end, then for the threads that hear its last words, and tells the VM's ending.
/// The receiver is disconnected when that is done.
fn watch(
    qemu: Arc<Service>,
    shared: Arc<Shared>,
    surroundings: &Surroundings,
    listeners: Vec<JoinHandle<()>>,
) -> Result<Receiver<()>, MachineError> {
    let ending = Arc::clone(&surroundings.ending);
    let (alive, obituary) = channel::<()>();
    spawn("qemu watch", move || {
        let end = qemu.wait();
        for listener in listeners {
            // One that panicked has told its story already.
            let _ = listener.join();
        }
        let signs = Signs {
            shutdown: shared.shutdown.lock().unwrap_or_else(PoisonError::into_inner).take(),
            last_words: qemu.last_words(),
        };
        tracing::info!(?end, ?signs, "QEMU ended");
        if !shared.quitting.load(SeqCst) {
            ending.end(match end {
                Ok(end) => ending::ending(end, &signs),
                Err(error) => Ending::Failed { message: error.to_string() },
            });
        }
        drop(alive);
    })?;
    Ok(obituary)
}
