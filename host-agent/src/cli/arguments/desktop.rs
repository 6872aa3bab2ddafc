//! Arguments of what joins a VM and the desktop: clipboard, applications, shares, and their policy.

use super::JsonName;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::cli) struct ClipboardArguments {
    /// Name of the VM
    pub(in crate::cli) name: String,
    /// Which way content may go; with `ask` both ways, and the desktop asks at each paste
    #[arg(long, value_enum)]
    pub(in crate::cli) policy: Option<PolicyArgument>,
    /// What may go, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1..)]
    pub(in crate::cli) formats: Vec<FormatArgument>,
    /// Whether what is selected with the mouse goes, too
    #[arg(long, value_enum)]
    pub(in crate::cli) primary: Option<Switch>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum PolicyArgument {
    /// No way
    Off,
    /// From the host to the guest
    ToGuest,
    /// From the guest to the host
    ToHost,
    /// Both ways
    Both,
    /// Both ways, and each paste is asked for
    Ask,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum FormatArgument {
    /// Plain text
    Text,
    /// Text with its looks
    Html,
    /// Pictures
    Image,
    /// Files, through a share
    Files,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LaunchArguments {
    /// Name of the VM
    pub(in crate::cli) name: String,
    /// Id of the application, as `apps` shows it
    pub(in crate::cli) application: String,
    /// Files of the host and URLs to open with it
    #[arg(value_name = "FILE")]
    pub(in crate::cli) targets: Vec<std::ffi::OsString>,
    /// One of the application's actions, instead of the application itself
    #[arg(long, value_name = "ACTION")]
    pub(in crate::cli) action: Option<String>,
    /// Wait this long for the guest and its desktop session
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(in crate::cli) wait: u32,
    /// Also show a failure as a notification: nobody sees what a launcher prints
    #[arg(long, hide = true)]
    pub(in crate::cli) menu: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum PermissionArgument {
    /// It is refused
    Off,
    /// You are asked
    Ask,
    /// It is done
    Allow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct IntegrationArguments {
    /// Name of the VM
    pub(in crate::cli) name: String,
    /// URLs opened in the guest are opened on the host
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(in crate::cli) open_url: Option<PermissionArgument>,
    /// The guest's notifications are shown
    #[arg(long, value_enum)]
    pub(in crate::cli) notifications: Option<Switch>,
    /// The guest's applications stand in the host's menu
    #[arg(long, value_enum)]
    pub(in crate::cli) launchers: Option<Switch>,
    /// They are offered for files of their types, too
    #[arg(long, value_enum)]
    pub(in crate::cli) open_with: Option<Switch>,
    /// Programs of your session may start and stop the VM and launch its applications over D-Bus
    #[arg(long, value_enum)]
    pub(in crate::cli) bus_control: Option<Switch>,

    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ShareCommand {
    /// Share a folder, now and at every later start; or let the guest see one file until the VM ends
    Add {
        /// Name of the VM
        name: String,
        /// The folder, or a file
        path: PathBuf,
        /// What the guest calls it, below ~/Host; the folder's name unless given
        #[arg(long)]
        tag: Option<String>,
        /// The guest cannot write
        #[arg(long)]
        read_only: bool,
    },
    /// List the shares of a VM and where its guest has them
    List(JsonName),
    /// Share a folder no more
    Remove {
        /// Name of the VM
        name: String,
        /// What the guest calls it
        tag: String,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("way").args(["enable", "disable", "toggle"])))]
pub(in crate::cli) struct SeamlessArguments {
    /// Name of the VM
    pub(in crate::cli) name: String,
    /// Each application's window by itself
    #[arg(long)]
    pub(in crate::cli) enable: bool,
    /// One window with the VM's screen
    #[arg(long)]
    pub(in crate::cli) disable: bool,
    /// The other of both
    #[arg(long)]
    pub(in crate::cli) toggle: bool,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ScreenshotArguments {
    /// Name of the VM
    pub(in crate::cli) name: String,
    /// One window, by its id as `windows` shows it, instead of all that is shown
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) window: Option<u32>,
    /// File to write, - for standard output; the VM's name with .png unless given
    #[arg(long, short, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
}
