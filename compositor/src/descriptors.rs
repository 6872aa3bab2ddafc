//! How many files this process may have open: each window has some, and so has each connection.

use rustix::process::{Resource, getrlimit, setrlimit};

/// As many as the system lets it have. Called once, at the start: the usual 1024 are for programs that call
/// select(2), which nothing here does.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the number of open files stays {:?}: {error}", limit.current);
    }
}
