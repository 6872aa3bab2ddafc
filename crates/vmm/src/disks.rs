//! What both engines say of a disk that is refused.

use crate::MachineError;
use disk::DiskError;
use std::path::Path;

/// Disk number `index` of the definition cannot be used.
pub(crate) fn refused(index: usize, path: &Path, error: &DiskError) -> MachineError {
    let value = path.display().to_string();
    let said = error.to_string();
    // The field's value names the file already; one of its backing files stays named.
    let reason = said.strip_prefix(&format!("{value}: ")).unwrap_or(&said);
    MachineError::Definition {
        field: format!("disk[{index}].path").into(),
        reason: reason.to_owned(),
        value,
    }
}
