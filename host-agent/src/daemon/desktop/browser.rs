//! The person's browser and mail program, as the desktop knows them.

use crate::problem::Problem;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use url::Url;

const OPENER: &str = "xdg-open";
/// A browser that this call starts may run for as long as it likes; a failure shows soon.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a URL. The program goes on when the daemon ends.
///
/// # Errors
/// There is no program for it, or it fails.
pub(in crate::daemon) async fn open(url: &Url) -> Result<(), Problem> {
    // As a URL is written it begins with its scheme, never with a hyphen.
    let mut child = Command::new(OPENER)
        .arg(url.as_str())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| Problem::failed(format!("the host has no {OPENER}: {error}")))?;
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        // A browser that runs as its child.
        Err(_) => Ok(()),
        Ok(Ok(ended)) if ended.success() => Ok(()),
        Ok(Ok(ended)) => Err(Problem::failed(match (ended.code(), ended.signal()) {
            (Some(3), _) => "the host has no program for such URLs".to_owned(),
            (Some(code), _) => format!("the host's {OPENER} ended with {code}"),
            (None, signal) => format!("the host's {OPENER} was killed by signal {signal:?}"),
        })),
        Ok(Err(error)) => Err(Problem::failed(format!("cannot wait for {OPENER}: {error}"))),
    }
}
