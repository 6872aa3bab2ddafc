//! `launch`: starts an application of a guest, and tells how far it is.

use super::arguments::LaunchArguments;
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use indicatif::{ProgressBar, ProgressStyle};
use proto::v1::ControlLaunchRequest;
use proto::v1::launch_progress::Progress;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;
use zbus::Variant;

/// How long the desktop may take to show a notification.
const NOTIFY_PATIENCE: Duration = Duration::from_secs(5);
/// How often the mark of progress turns.
const TURN: Duration = Duration::from_millis(120);

pub(super) fn launch(arguments: LaunchArguments) -> Result<(), Problem> {
    let LaunchArguments { name, application, targets, action, wait, menu } = arguments;
    let launched = block_on(async {
        let targets: Result<Vec<_>, _> = targets.iter().map(|target| absolute(target)).collect();
        follow(ControlLaunchRequest {
            name: name.clone(),
            application: application.clone(),
            action: action.unwrap_or_default(),
            targets: targets?,
            patience: wait,
        })
        .await
    });
    if let (true, Err(problem)) = (menu, &launched) {
        let title = format!("{application} of VM \"{name}\" cannot be started");
        // The problem itself is told all the same.
        let shown = block_on(async {
            let notifying = tokio::time::timeout(NOTIFY_PATIENCE, notify(&title, problem));
            notifying.await.map_err(Problem::failed)?.map_err(Problem::failed)
        });
        if let Err(problem) = shown {
            eprintln!("warning: no notification could be shown: {problem}");
        }
    }
    launched
}

/// A path as the daemon takes it, which runs in another folder; a URL as it is.
fn absolute(target: &OsStr) -> Result<Vec<u8>, Problem> {
    let is_url = target.to_str().is_some_and(|text| {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        // A letter and a colon could be a file's name; no scheme has one letter.
        scheme.is_some_and(|scheme| scheme.len() > 1 && url::Url::parse(text).is_ok())
    });
    // A file of that name is meant before a URL is.
    if is_url && !std::path::Path::new(target).exists() {
        return Ok(target.as_bytes().to_vec());
    }
    let path = std::path::absolute(target)
        .map_err(|error| Problem::usage(format!("a file is {target:?}: {error}")))?;
    Ok(path.as_os_str().as_bytes().to_vec())
}

async fn follow(request: ControlLaunchRequest) -> Result<(), Problem> {
    let mut steps = daemon().await?.launch(request).await?.into_inner();
    let spinner = Spinner::new();
    while let Some(told) = steps.message().await? {
        match told.progress {
            Some(Progress::Step(step)) => spinner.step(step),
            Some(Progress::Launched(_)) => return Ok(()),
            // A later daemon's.
            None => {}
        }
    }
    Err(Problem::failed("the daemon did not say whether the application is launched"))
}

/// The present step beside a turning mark on a terminal, a line for each elsewhere.
struct Spinner {
    bar: ProgressBar,
    plain: bool,
}

impl Spinner {
    fn new() -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TURN);
        Self { bar, plain }
    }

    fn step(&self, step: String) {
        if self.plain {
            eprintln!("{step}");
        }
        self.bar.set_message(step);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Shows a problem on the desktop (Desktop Notifications Specification 1.2).
async fn notify(title: &str, problem: &Problem) -> zbus::Result<()> {
    let session = zbus::Connection::session().await?;
    // The body may hold markup.
    let body = problem.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (icon, actions) = ("dialog-error", Vec::<&str>::new());
    let hints = HashMap::from([("urgency", Variant::U8(1))]);
    let call = ("macrohard-hypervisor", 0_u32, icon, title, body.as_str(), actions, hints, -1_i32);
    let service = "org.freedesktop.Notifications";
    let path = "/org/freedesktop/Notifications";
    session.call_method(Some(service), path, Some(service), "Notify", &call).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_absolute_and_urls_stay() {
        let of = |target: &str| absolute(OsStr::new(target)).unwrap();
        assert_eq!(of("/a/b"), b"/a/b");
        assert_eq!(of("https://example.org/a"), b"https://example.org/a");
        assert_eq!(of("mailto:a@b"), b"mailto:a@b");
        let here = std::env::current_dir().unwrap();
        for name in ["a", "C:a", "-x", "a b"] {
            assert_eq!(of(name), here.join(name).as_os_str().as_bytes(), "{name}");
        }
        assert!(absolute(OsStr::new("")).is_err());
    }
}
