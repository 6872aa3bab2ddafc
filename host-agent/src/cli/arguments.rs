//! The command line as a person types it. Shell completions and man pages are made from this too.

mod desktop;

use super::parse::{DiskArgument, NetArgument, ShareArgument, disk, memory, net, screen, share};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use definition::EngineChoice;
pub(super) use desktop::{
    ClipboardArguments, FormatArgument, IntegrationArguments, LaunchArguments, PermissionArgument,
    PolicyArgument, ScreenshotArguments, SeamlessArguments, ShareCommand, Switch,
};
use std::path::PathBuf;

/// Run Linux guests, hardware-isolated, on a Linux desktop.
#[derive(Debug, Parser)]
#[command(name = "macrohard-hypervisor", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage; `run` and `exec` give the guest's own."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Define a VM
    Create(CreateArguments),
    /// Start a VM
    Start(Name),
    /// List running VMs
    List(ListArguments),
    /// Stop a VM: press its power button, or with --force end it
    Stop(StopArguments),
    /// Halt the processors of a VM; its memory stays
    Pause(Name),
    /// Let a paused VM run on
    Resume(Name),
    /// Press the reset button of a VM
    Reset(Name),
    /// Show where a VM stands
    Status(JsonName),
    /// Connect the terminal to the first serial console of a VM; Ctrl-] ends the connection
    Console(Name),
    /// Run a program in the guest of a VM, with this terminal's input and outputs
    ///
    /// Its exit code becomes this one's; a signal that killed it, 128 and its number.
    Exec(ExecArguments),
    /// Open a shell in the guest of a VM; Ctrl-] ends the connection
    Shell(ShellArguments),
    /// Look after the agent in a guest
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Measure the way to the agent in the guest of a VM and back
    Ping(PingArguments),
    /// List the applications of a VM's guest
    Apps(JsonName),
    /// Start an application of a VM's guest; the VM is started or resumed first
    Launch(LaunchArguments),
    /// Show each application of a VM as a window of this desktop, or the VM's screen in one window
    ///
    /// Without an option it says which. A change counts at once, also while the VM runs, and stays.
    Seamless(SeamlessArguments),
    /// List the windows of a VM that are open on this desktop
    Windows(JsonName),
    /// Save a picture of a VM's windows as a PNG file
    Screenshot(ScreenshotArguments),
    /// Show or change what of a VM reaches the desktop; a change counts at once
    Integration(IntegrationArguments),
    /// Share folders with a VM, also while it runs
    #[command(subcommand)]
    Share(ShareCommand),
    /// Run a VM in the foreground without keeping it
    ///
    /// The terminal is the guest's first serial console; Ctrl-] ends the VM. A value the guest
    /// writes to its debug-exit port (0xf4) becomes the exit code; a time that ran out gives 124.
    Run(Box<RunArguments>),
    /// Show or change what a VM may do with the clipboard; a change counts at once
    Clipboard(ClipboardArguments),
    /// Delete the definition of a stopped VM and its state; disks stay
    Delete(DeleteArguments),
    /// Change the definition of a VM in $EDITOR; its machine changes at its next start, all else at once
    Edit(Name),
    /// Show the log of a VM
    Logs(LogsArguments),
    /// Show the exits of each virtual CPU by reason, and device counters
    Stats(JsonName),
    /// Show every change of any VM as it happens
    Watch(Json),
    /// Show what this host offers and what it lacks
    Doctor(Json),
    /// Look at our own core beneath this system
    #[command(subcommand)]
    Core(CoreCommand),
    /// Make guest images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look after the background daemon
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Print a completion script
    Completions {
        /// The shell to complete in
        shell: Shell,
    },
    /// Write the man pages
    Man {
        /// Folder to write into
        #[arg(long, value_name = "FOLDER")]
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Name {
    /// Name of the VM
    pub(super) name: String,
}

#[derive(Debug, Args)]
pub(super) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum CoreCommand {
    /// Show the pool, the VMs' share of it, and why this system left for the core
    Status(Json),
    /// Print what the core has said since it started
    Log {
        /// Go on printing what comes
        #[arg(long, short)]
        follow: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct JsonName {
    /// Name of the VM
    pub(super) name: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum EngineArgument {
    /// The best this host has
    Auto,
    /// Our own core beneath this system
    Core,
    /// Linux KVM
    Kvm,
    /// QEMU's software CPU
    Tcg,
}

impl From<EngineArgument> for EngineChoice {
    fn from(engine: EngineArgument) -> Self {
        match engine {
            EngineArgument::Auto => Self::Auto,
            EngineArgument::Core => Self::Core,
            EngineArgument::Kvm => Self::Kvm,
            EngineArgument::Tcg => Self::Tcg,
        }
    }
}

/// What a machine is made of.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("started").args(["kernel", "hvt"])))]
pub(super) struct MachineArguments {
    /// Guest memory in MiB, or with a unit (512M, 4G)
    #[arg(long, value_name = "SIZE", value_parser = memory, default_value = "2048")]
    pub(super) memory: u64,
    /// Virtual CPUs
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(super) cpus: u32,
    /// Disk image: PATH[,format=raw|qcow2][,readonly][,size=20G]
    ///
    /// May be given several times. The format follows the file's extension unless given, never its
    /// content. With size= a new image is made. A comma in the path is written twice.
    #[arg(long = "disk", value_name = "DISK", value_parser = disk)]
    pub(super) disks: Vec<DiskArgument>,
    /// Kernel to boot: Linux bzImage, ELF with a PVH note, or Multiboot
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,
    /// Initial RAM disk, or first module of a Multiboot kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(super) initrd: Option<PathBuf>,
    /// Solo5 hvt unikernel to run, with a --disk and a --net for each device it declares
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "firmware"])]
    pub(super) hvt: Option<PathBuf>,
    /// Command line of the kernel or unikernel
    #[arg(long, value_name = "TEXT", requires = "started", allow_hyphen_values = true)]
    pub(super) append: Option<String>,
    /// Firmware to boot a disk with, instead of the system's OVMF
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub(super) firmware: Option<PathBuf>,
    /// Folder to share: PATH[:TAG][:ro][:9p|:virtio-fs]
    ///
    /// May be given several times. The guest mounts it by its tag, which is the folder's name
    /// unless given.
    #[arg(long = "share", value_name = "SHARE", value_parser = share)]
    pub(super) shares: Vec<ShareArgument>,
    /// Network card: passt, tap=INTERFACE, or none; with ,mac=ADDRESS
    ///
    /// May be given several times.
    #[arg(long = "net", value_name = "NET", value_parser = net)]
    pub(super) networks: Vec<NetArgument>,
    /// What runs the virtual CPUs
    #[arg(long, value_enum, default_value_t = EngineArgument::Auto)]
    pub(super) engine: EngineArgument,
    /// Give it a screen, keyboard and pointer; WIDTHxHEIGHT is its size at first
    #[arg(long, value_name = "SIZE", value_parser = screen, num_args = 0..=1, default_missing_value = "1280x800")]
    pub(super) display: Option<definition::Display>,
    /// Back guest memory with huge pages where the host has them
    #[arg(long)]
    pub(super) huge_pages: bool,
    /// How the guest's agent reaches the host
    #[arg(long, value_enum, default_value_t = AgentArgument::Vsock)]
    pub(super) agent: AgentArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AgentArgument {
    /// A vsock device
    Vsock,
    /// A virtio-serial port, for guests without a driver for vsock
    Serial,
}

impl From<AgentArgument> for definition::AgentWay {
    fn from(argument: AgentArgument) -> Self {
        match argument {
            AgentArgument::Vsock => Self::Vsock,
            AgentArgument::Serial => Self::Serial,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Name of the VM
    #[arg(long)]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) machine: MachineArguments,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    pub(super) machine: MachineArguments,
    /// End the VM after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(super) timeout: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct ExecArguments {
    /// Name of the VM
    pub(super) name: String,
    /// The guest's user to run as, instead of the one in session (root where nobody is)
    #[arg(long, short)]
    pub(super) user: Option<String>,
    /// Give the program a terminal
    #[arg(long, short)]
    pub(super) terminal: bool,
    /// A variable for the program: NAME=VALUE; may be given several times
    #[arg(long = "env", short, value_name = "NAME=VALUE")]
    pub(super) environment: Vec<String>,
    /// Folder of the guest to start in, instead of the user's home
    #[arg(long, value_name = "FOLDER")]
    pub(super) folder: Option<std::ffi::OsString>,
    /// Wait this long for the agent of a guest that still starts
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(super) wait: u32,
    /// Program and arguments, after --
    #[arg(last = true, required = true)]
    pub(super) program: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(super) struct ShellArguments {
    /// Name of the VM
    pub(super) name: String,
    /// The guest's user, instead of the one in session (root where nobody is)
    #[arg(long, short)]
    pub(super) user: Option<String>,
    /// Wait this long for the agent of a guest that still starts
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(super) wait: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Give the guest this program's version of the agent
    Update(UpdateAgentArguments),
}

#[derive(Debug, Args)]
pub(super) struct UpdateAgentArguments {
    /// Name of the VM
    pub(super) name: String,
    /// Also when the version is the same
    #[arg(long)]
    pub(super) force: bool,
    /// How long to wait for the agent to come back
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120,
        value_parser = clap::value_parser!(u32).range(1..=3600)
    )]
    pub(super) wait: u32,
}

#[derive(Debug, Args)]
pub(super) struct PingArguments {
    /// Name of the VM
    pub(super) name: String,
    /// Calls, one after the other
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) count: u32,
    /// Wait this long for the agent of a guest that still starts
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(super) wait: u32,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Also those that do not run
    #[arg(long)]
    pub(super) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StopArguments {
    /// Name of the VM
    pub(super) name: String,
    /// End the VM now; the guest may lose data
    #[arg(long)]
    pub(super) force: bool,
    /// How long to wait for the guest to power off
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..=86_400),
        conflicts_with = "force"
    )]
    pub(super) timeout: u32,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArguments {
    /// Name of the VM
    pub(super) name: String,
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogsArguments {
    /// Name of the VM
    pub(super) name: String,
    /// What the guest printed on its first serial console, instead of the VM process's log
    #[arg(long)]
    pub(super) console: bool,
    /// Go on until the VM ends
    #[arg(long, short)]
    pub(super) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DaemonCommand {
    /// Show whether the daemon runs
    Status(Json),
    /// End the daemon; VMs go on, and the next command that needs it starts it again
    Stop,
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Build a small Debian guest: a qcow2 disk with kernel and initrd beside it
    Build(Box<BuildArguments>),
}

#[derive(Debug, Args)]
pub(super) struct BuildArguments {
    /// The disk image to make, ending in .qcow2
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// Size of the disk
    #[arg(long, default_value = "4G", value_parser = super::parse::size)]
    pub(super) size: u64,
    /// Debian release
    #[arg(long, default_value = "bookworm")]
    pub(super) suite: String,
    /// More packages, separated by commas
    #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
    pub(super) include: Vec<String>,
    /// Where packages come from; the host's own apt source of that release unless given
    #[arg(long, value_name = "URL")]
    pub(super) mirror: Option<String>,
    /// Name of the machine
    #[arg(long, default_value = "debian")]
    pub(super) hostname: String,
    /// Name of the user, who may use sudo
    #[arg(long, default_value = "guest")]
    pub(super) user: String,
    /// Password of the user and of root
    #[arg(long, default_value = "guest")]
    pub(super) password: String,
    /// Replace an image that is there
    #[arg(long)]
    pub(super) force: bool,
}
