//! What a definition may ask of this host: memory that is there, files that can be read.

use crate::check::{Field, FieldProblem, limits};
use crate::machine::VmDefinition;
use rustix::fs::{Access, FileType, access, stat};
use std::path::Path;

/// The facts about a host that bound a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Physical memory in MiB.
    pub memory: u64,
}

impl HostFacts {
    /// Asks the system.
    #[must_use]
    pub fn of_this_host() -> Self {
        let facts = rustix::system::sysinfo();
        // The fields are C longs; memory beyond 64 bits of bytes does not exist.
        #[allow(clippy::useless_conversion)]
        let pages: u64 = facts.totalram.into();
        Self { memory: pages.saturating_mul(u64::from(facts.mem_unit)) >> 20 }
    }
}

enum Wanted {
    File,
    Image { writable: bool },
    Folder { writable: bool },
}

impl Wanted {
    fn allowed(&self) -> &'static str {
        match self {
            Self::File => "an existing, readable file",
            Self::Image { writable: false } => "an existing, readable image file or block device",
            Self::Image { writable: true } => {
                "an existing image file or block device that can be read and written (or \
                 read-only = true)"
            }
            Self::Folder { writable: false } => "an existing, readable folder",
            Self::Folder { writable: true } => {
                "an existing folder that can be read and written (or read-only = true)"
            }
        }
    }

    fn fits(&self, kind: FileType) -> bool {
        match self {
            Self::File => kind == FileType::RegularFile,
            Self::Image { .. } => matches!(kind, FileType::RegularFile | FileType::BlockDevice),
            Self::Folder { .. } => kind == FileType::Directory,
        }
    }

    fn access(&self) -> Access {
        match self {
            Self::File | Self::Image { writable: false } => Access::READ_OK,
            Self::Image { writable: true } => Access::READ_OK | Access::WRITE_OK,
            Self::Folder { writable: false } => Access::READ_OK | Access::EXEC_OK,
            Self::Folder { writable: true } => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
        }
    }
}

fn check_file(field: Field, path: &Path, wanted: &Wanted) -> Result<(), FieldProblem> {
    let refused =
        |found: String| Err(FieldProblem::new(field.clone(), path, wanted.allowed()).found(found));
    match stat(path) {
        Err(error) => return refused(error.to_string()),
        Ok(facts) => {
            let kind = FileType::from_raw_mode(facts.st_mode);
            if !wanted.fits(kind) {
                return refused(format!("it is a {}", describe(kind)));
            }
        }
    }
    match access(path, wanted.access()) {
        Err(error) => refused(error.to_string()),
        Ok(()) => Ok(()),
    }
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "folder",
        FileType::BlockDevice => "block device",
        FileType::CharacterDevice => "character device",
        FileType::Socket => "socket",
        FileType::Fifo => "pipe",
        _ => "thing of another kind",
    }
}

impl VmDefinition {
    /// Checks the definition against the host it shall run on: memory, and every file it names.
    /// The daemon asks at creation and again before each start.
    ///
    /// # Errors
    /// The first thing the host does not have.
    pub fn check_host(&self, host: &HostFacts) -> Result<(), FieldProblem> {
        if self.memory > host.memory {
            return Err(FieldProblem::new(
                Field::top("memory"),
                self.memory,
                format!("{} to {} MiB (what this host has)", limits::MEMORY.start(), host.memory),
            ));
        }
        let boot = [
            ("kernel", &self.boot.kernel),
            ("initrd", &self.boot.initrd),
            ("firmware", &self.boot.firmware),
        ];
        for (key, path) in boot {
            if let Some(path) = path {
                check_file(Field::inside("boot", key), path, &Wanted::File)?;
            }
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let writable = !disk.read_only;
            check_file(
                Field::element("disk", index, "path"),
                &disk.path,
                &Wanted::Image { writable },
            )?;
        }
        for (index, share) in self.shares.iter().enumerate() {
            if !share.kind.has_device() {
                // It may come later: the VM starts without.
                continue;
            }
            let writable = !share.read_only;
            check_file(
                Field::element("share", index, "path"),
                &share.path,
                &Wanted::Folder { writable },
            )?;
        }
        Ok(())
    }
}
