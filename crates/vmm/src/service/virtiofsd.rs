//! virtiofsd: one shared folder, served by vhost-user.

use super::{Service, listen_at};
use crate::MachineError;
use definition::Share;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

const INSTALL: &str = "install the package virtiofsd, or run `cargo install virtiofsd` (needs libcap-ng-dev and \
     libseccomp-dev), or share the folder as 9p";

/// Starts virtiofsd for `share`; it takes one connection at the socket `path`.
///
/// # Errors
/// virtiofsd is not installed or cannot be started, or the socket cannot be made.
pub fn virtiofsd(share: &Share, path: &Path) -> Result<Service, MachineError> {
    let listener = OwnedFd::from(listen_at(path)?);
    let arguments = arguments(share, listener.as_raw_fd());
    Service::start("virtiofsd", INSTALL, &arguments, &[listener.as_fd()])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_share_is_read_only() {
        let mut share = Share {
            tag: "docs".to_owned(),
            path: "/srv/docs".into(),
            kind: definition::ShareKind::VirtioFs,
            read_only: false,
        };
        assert!(!arguments(&share, 5).contains(&"--readonly".into()));
        share.read_only = true;
        let arguments = arguments(&share, 5);
        assert!(arguments.contains(&"--readonly".into()));
        assert_eq!(arguments[0], "--fd=5");
    }
}
