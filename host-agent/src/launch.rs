//! Starting the programs of this suite: they lie beside each other.

use crate::problem::Problem;
use std::path::PathBuf;

/// The program `name` that was installed with the running one.
///
/// # Errors
/// It is not there.
pub fn sibling(name: &str) -> Result<PathBuf, Problem> {
    let own = std::env::current_exe()
        .map_err(|error| Problem::failed(format!("cannot tell which program runs: {error}")))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Problem::failed(format!(
        "the program {name} is missing at {}",
        path.display()
    ))
    .advise("install macrohard-hypervisor, macrohardd and macrohard-vm in one folder"))
}

/// Seconds since 1970.
#[must_use]
pub fn unix_time() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
