//! What is noted of each share process, so that a later daemon finds it. The folder is out of reach of the
//! VM process: a guest that broke out of its VM could else have any folder shared.

use super::About;
use agent_link::SHARE_PORTS;
use definition::{Existing, write_atomically};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// A folder as a process serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) tag: String,
    pub(super) folder: PathBuf,
    pub(super) read_only: bool,
    /// The names to be seen of a portal; without, all of the folder is shared.
    #[serde(with = "share::name_list")]
    pub(super) only: Option<Vec<Vec<u8>>>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The VM process it belongs to.
    pub(super) vm: u32,
    pub(super) port: u32,
    pub(super) wanted: Wanted,
}

/// The files of a VM's share processes.
#[derive(Clone, Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn new(about: &About) -> Self {
        Self(about.places.shares_of(&about.vm))
    }

    pub(super) fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Held locked by the process.
    pub(super) fn pid(&self, port: u32) -> PathBuf {
        self.0.join(format!("{port}.pid"))
    }

    pub(super) fn control(&self, port: u32) -> PathBuf {
        self.0.join(format!("{port}.sock"))
    }

    fn record(&self, port: u32) -> PathBuf {
        self.0.join(format!("{port}.json"))
    }

    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        write_atomically(&self.record(record.port), &text, Existing::Replace)
            .map_err(io::Error::other)
    }

    /// All records of the VM process `vm`; those of earlier ones are removed.
    pub(super) fn read(&self, vm: u32) -> Vec<Record> {
        let read = |port| {
            let text = std::fs::read(self.record(port)).ok()?;
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) if record.vm == vm && record.port == port => Some(record),
                _ => {
                    self.forget(port);
                    None
                }
            }
        };
        SHARE_PORTS.filter_map(read).collect()
    }

    /// Removes what is left of the process with this port.
    pub(super) fn forget(&self, port: u32) {
        for path in [self.record(port), self.pid(port), self.control(port)] {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) fn forget_all(&self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that is none of `taken`.
pub(super) fn free_port(mut taken: impl FnMut(u32) -> bool) -> Option<u32> {
    let mut ports = SHARE_PORTS;
    ports.find(|port| !taken(*port))
}
