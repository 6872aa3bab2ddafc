//! virtiofsd: one shared folder, served by vhost-user to QEMU or to a device of our own.

#[cfg(test)]
mod tests;

use super::{ExitCode, Service, listen_at};
use crate::MachineError;
use definition::Share;
use engine::discovery::Version;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use virtio::fs::attach;
use virtio::remote::RemoteDevice;

const INSTALL: &str = "install the package virtiofsd, or run `cargo install virtiofsd` (needs libcap-ng-dev and \
     libseccomp-dev), or share the folder as 9p";

/// The first virtiofsd that maps memory of files without a length, such as the pool of engine `core`: with
/// vm-memory 0.17, which leaves it to mmap(2) whether the range is there.
const MAPS_DEVICES: Version = Version(1, 14, 0);

/// Whether the system's virtiofsd can map guest memory that is a device's; else what is wrong with it.
pub(crate) fn check_virtiofsd_maps_devices() -> Result<(), String> {
    maps_devices(engine::discovery::versioned_program("virtiofsd").and_then(|it| it.version))
}

/// One that is not there, or does not say which it is, is left to its start.
fn maps_devices(version: Option<Version>) -> Result<(), String> {
    match version {
        Some(version) if version < MAPS_DEVICES => Err(format!(
            "virtiofsd {MAPS_DEVICES} or later and there is {version} (`cargo install virtiofsd` builds the newest)"
        )),
        _ => Ok(()),
    }
}

/// Starts virtiofsd for `share`; it takes one connection at the socket `path`.
///
/// # Errors
/// virtiofsd is not installed or cannot be started, or the socket cannot be made.
pub fn virtiofsd(share: &Share, path: &Path) -> Result<Service, MachineError> {
    let listener = OwnedFd::from(listen_at(path)?);
    let arguments = arguments(share, listener.as_raw_fd());
    let pass = [listener.as_fd()];
    Service::start("virtiofsd", INSTALL, &arguments, &pass, ExitCode::Usual)
}

/// The device `name` of engine `kvm` for `share`, and the virtiofsd behind it. The socket is at
/// `path` only until both have met.
///
/// # Errors
/// As [`virtiofsd`], or it does not answer.
pub fn shared_folder(
    name: &str,
    share: &Share,
    path: &Path,
) -> Result<(RemoteDevice, Service), MachineError> {
    let service = virtiofsd(share, path)?;
    let connected = UnixStream::connect(path);
    std::fs::remove_file(path).map_err(|e| MachineError::file("cannot remove", path, e))?;
    let attached = connected
        .map_err(|e| MachineError::file("cannot connect to", path, e))
        .and_then(|socket| {
            attach(name, &share.tag, socket).map_err(|error| MachineError::Definition {
                field: "share.path".into(),
                value: share.path.display().to_string(),
                reason: error.to_string(),
            })
        });
    match attached {
        Ok(device) => Ok((device, service)),
        Err(error) => {
            service.kill();
            match service.wait() {
                // Its own words say more than a socket that was hung up.
                Ok(end) if !service.last_words().is_empty() => Err(service.obituary(end)),
                _ => Err(error),
            }
        }
    }
}

fn arguments(share: &Share, listener: i32) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        format!("--fd={listener}").into(),
        "--shared-dir".into(),
        share.path.clone().into(),
        "--cache=auto".into(),
        "--log-level=warn".into(),
    ];
    if share.read_only {
        arguments.push("--readonly".into());
    }
    arguments
}
