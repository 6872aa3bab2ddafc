//! virtio-fs (virtio 1.2, 5.11): a folder of the host, shared by a virtiofsd process, which
//! sandboxes itself. [`RemoteDevice`] is the device; here is what the process does not say of it.
//! Whoever makes the device starts the process.

use crate::DeviceId;
use crate::remote::{RemoteDevice, RemoteError, RemoteOptions};
use std::os::unix::net::UnixStream;

/// Bytes of the tag in the configuration (virtio 1.2, 5.11.4).
const TAG_BYTES: usize = 36;
/// Entries of the queues for urgent and for ordinary requests.
const QUEUE_SIZES: [u16; 2] = [128, 256];

/// The folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag is empty or too long.
    #[error("share {tag:?}: a tag has 1 to {TAG_BYTES} bytes")]
    Tag {
        /// The tag given.
        tag: String,
    },
    /// The process does not work.
    #[error(transparent)]
    Attach(#[from] RemoteError),
}

/// The device `name` whose folder the guest mounts by `tag`, served by the virtiofsd at the other
/// end of `socket`.
///
/// # Errors
/// No guest could mount it, or the process does not answer.
pub fn attach(name: &str, tag: &str, socket: UnixStream) -> Result<RemoteDevice, FsError> {
    if !(1..=TAG_BYTES).contains(&tag.len()) {
        return Err(FsError::Tag { tag: tag.to_owned() });
    }
    let mut config = tag.as_bytes().to_vec();
    config.resize(TAG_BYTES, 0);
    // One queue for ordinary requests (virtio 1.2, 5.11.4).
    config.extend(1u32.to_le_bytes());
    let options = RemoteOptions {
        id: DeviceId::FileSystem,
        name: name.to_owned(),
        queue_sizes: QUEUE_SIZES.to_vec(),
        config,
    };
    Ok(RemoteDevice::attach(options, socket)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_no_guest_could_mount_and_a_process_without_a_word_are_refused() {
        for tag in ["", &"x".repeat(37)] {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            assert!(matches!(attach("fs0", tag, ours), Err(FsError::Tag { .. })));
        }
        let (ours, _) = UnixStream::pair().unwrap();
        assert!(matches!(attach("fs0", "home", ours), Err(FsError::Attach(_))));
    }
}
