//! Which files are reached.

use crate::SandboxError;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The kernel's newest kinds of access that are told apart: Linux 6.2.
const VERSION: ABI = ABI::V3;

/// Files and folders that are reached, and nothing else: no other file, and no socket without a file (as X servers
/// have; from Linux 6.12 on).
#[derive(Debug)]
pub struct Files(RulesetCreated);

impl Files {
    /// None yet. With `signals_inside` signals go to processes within the same walls only (from Linux 6.12 on).
    ///
    /// # Errors
    /// The kernel refuses; not that it has no landlock.
    pub fn none(signals_inside: bool) -> Result<Self, SandboxError> {
        let mut scope = BitFlags::from(Scope::AbstractUnixSocket);
        if signals_inside {
            scope |= Scope::Signal;
        }
        Self::ruled(scope)
    }

    fn ruled(scope: BitFlags<Scope>) -> Result<Self, SandboxError> {
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(VERSION))?
            .scope(scope)?;
        Ok(Self(rules.create()?))
    }

    /// As [`Files::none`], with sockets of all kinds: where an X server has none but one without a file, and
    /// nobody can tell.
    ///
    /// # Errors
    /// The kernel refuses; not that it has no landlock.
    pub fn none_but_sockets() -> Result<Self, SandboxError> {
        Self::ruled(BitFlags::from(Scope::Signal))
    }

    /// All that can be done with a file or folder but running it.
    #[must_use]
    pub fn everything() -> BitFlags<AccessFs> {
        AccessFs::from_all(VERSION) & !AccessFs::Execute
    }

    /// Reading files and folders.
    #[must_use]
    pub fn reading() -> BitFlags<AccessFs> {
        AccessFs::from_read(VERSION) & !AccessFs::Execute
    }

    /// Adds what is at `path` and below.
    ///
    /// # Errors
    /// It cannot be opened, or the kernel refuses.
    pub fn allow(self, path: &Path, access: BitFlags<AccessFs>) -> Result<Self, SandboxError> {
        self.allow_open(PathFd::new(path)?, access)
    }

    /// Adds what is open and below.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn allow_open(
        self,
        file: impl AsFd,
        access: BitFlags<AccessFs>,
    ) -> Result<Self, SandboxError> {
        Ok(Self(self.0.add_rule(PathBeneath::new(file, access))?))
    }

    /// Builds the wall around this thread and all it starts. False on a kernel without landlock.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn close(self) -> Result<bool, SandboxError> {
        Ok(self.0.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
    }

    /// The wall, to be built by threads of other making; none on a kernel without landlock.
    #[must_use]
    pub fn into_descriptor(self) -> Option<OwnedFd> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::ErrorKind;

    #[test]
    fn a_thread_reaches_what_it_was_allowed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for folder in ["own", "seen", "other"] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("file"), folder).unwrap();
        }
        let own = File::open(at("own")).unwrap();
        // The wall is around this thread alone.
        let inside = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let files = Files::none(true)
                        .and_then(|files| files.allow_open(&own, Files::everything()))
                        .and_then(|files| files.allow(&at("seen"), Files::reading()))
                        .unwrap();
                    if !files.close().unwrap() {
                        eprintln!("SKIPPED: landlock, which this kernel lacks");
                        return;
                    }
                    let denied = |result: std::io::Result<()>| {
                        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
                    };
                    fs::write(at("own/file"), "written").unwrap();
                    assert_eq!(fs::read_to_string(at("seen/file")).unwrap(), "seen");
                    denied(fs::write(at("seen/file"), "x"));
                    denied(fs::read(at("other/file")).map(drop));
                    denied(fs::write(at("other/new"), "x"));
                    denied(fs::remove_file(at("other/file")));
                    denied(fs::rename(at("own/file"), at("other/moved")));
                })
                .join()
        });
        inside.unwrap();
        assert_eq!(fs::read_to_string(at("other/file")).unwrap(), "other");
        assert!(fs::read(at("other/file")).is_ok(), "the other threads are free");
    }
}
