//! The files behind a VM's flash: UEFI code, shared and read-only, and the VM's own variables.

use crate::MachineError;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Firmware on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlashFiles {
    /// The code.
    pub code: PathBuf,
    /// The empty variable store that belongs to it; none for firmware that keeps no variables.
    pub template: Option<PathBuf>,
}

impl FlashFiles {
    /// The firmware `chosen` by the user, or the system's OVMF.
    ///
    /// # Errors
    /// There is none.
    pub fn find(chosen: Option<&Path>) -> Result<Self, MachineError> {
        let code = match chosen {
            Some(path) => path.to_owned(),
            None => {
                engine::discovery::system_firmware().ok_or_else(|| MachineError::Definition {
                    field: "boot.firmware".into(),
                    value: "(none)".to_owned(),
                    reason:
                        "the system has no OVMF; install the package ovmf, or give a kernel or a \
                         firmware image"
                            .to_owned(),
                })?
            }
        };
        let template = template_name(&code).filter(|path| path.is_file());
        Ok(Self { code, template })
    }

    /// The VM's own variables at `path`, made from the template at the first start. `None` when the
    /// firmware keeps none.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn variables(&self, path: &Path) -> Result<Option<PathBuf>, MachineError> {
        let Some(template) = &self.template else {
            return Ok(None);
        };
        match copy(template, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(MachineError::file("cannot make NVRAM", path, error))
            }
            _ => Ok(Some(path.to_owned())),
        }
    }
}

/// `..._CODE...` and `..._VARS...` lie side by side wherever OVMF is packaged.
fn template_name(code: &Path) -> Option<PathBuf> {
    let name = code.file_name()?.to_str()?;
    [("CODE", "VARS"), ("code", "vars")]
        .into_iter()
        .find(|(code, _)| name.contains(code))
        .map(|(from, to)| code.with_file_name(name.replace(from, to)))
}

/// Whole or not at all: a half-written store would never boot.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let temporary = to.with_extension("new");
    let mut target =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    io::copy(&mut File::open(from)?, &mut target)?;
    target.sync_all()?;
    fs::rename(&temporary, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_lies_beside_the_code() {
        let template = |path: &str| template_name(Path::new(path));
        assert_eq!(
            template("/usr/share/OVMF/OVMF_CODE_4M.ms.fd"),
            Some("/usr/share/OVMF/OVMF_VARS_4M.ms.fd".into())
        );
        assert_eq!(template("/boot/coreboot.rom"), None);
    }

    #[test]
    fn variables_are_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("X_CODE.fd");
        fs::write(&code, "code").unwrap();
        fs::write(folder.path().join("X_VARS.fd"), "empty").unwrap();
        let flash = FlashFiles::find(Some(&code)).unwrap();
        let own = folder.path().join("nvram.fd");
        assert_eq!(flash.variables(&own).unwrap(), Some(own.clone()));
        assert_eq!(fs::read(&own).unwrap(), b"empty");
        fs::write(&own, "used").unwrap();
        flash.variables(&own).unwrap();
        assert_eq!(fs::read(&own).unwrap(), b"used");
    }
}
