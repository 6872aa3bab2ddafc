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
    Err(Problem::failed(format!("the program {name} is missing at {}", path.display()))
        .advise("install all programs of macrohard-hypervisor in one folder"))
}

/// Names another package of the guest's agent.
pub const GUEST_PACKAGE: &str = "MACROHARD_GUEST_PACKAGE";

/// The Debian package of the guest's agent: what [`GUEST_PACKAGE`] names, beside the programs, or where an
/// installed product keeps it. `None` in a build that lacks it.
#[must_use]
pub fn guest_package() -> Option<PathBuf> {
    const FILE: &str = "macrohard-guest-agent.deb";
    if let Some(named) = std::env::var_os(GUEST_PACKAGE) {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let own = std::env::current_exe().ok()?;
    let installed = own.parent()?.join("../lib/macrohard-hypervisor").join(FILE);
    [own.with_file_name(FILE), installed].into_iter().find(|path| path.is_file())
}

/// Seconds since 1970.
#[must_use]
pub fn unix_time() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
