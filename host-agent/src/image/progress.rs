//! How far a build is, told from what mmdebstrap says.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// What mmdebstrap says when a stage begins, how a person would call it, and how much of the whole
/// is done then, in percent.
const STAGES: [(&str, &str, u64); 7] = [
    ("running apt-get update", "reading package lists", 1),
    ("downloading packages", "downloading the base system", 4),
    ("extracting archives", "unpacking the base system", 14),
    ("installing essential packages", "installing the base system", 18),
    ("installing remaining packages", "downloading and installing packages", 30),
    ("running --customize-hook", "configuring the guest and making its file system", 82),
    ("cleaning package lists", "cleaning up", 92),
];
/// Where packing into qcow2 begins.
const PACKING: u64 = 94;

/// A progress bar on a terminal, a line per stage elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    plain: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed:>4}  {msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, plain }
    }

    /// A line of mmdebstrap.
    pub(super) fn line(&self, line: &str) {
        let Some(said) = line.strip_prefix("I: ") else {
            return;
        };
        if let Some((_, name, percent)) = STAGES.iter().find(|(start, ..)| said.starts_with(start))
        {
            self.stage(name, *percent);
        }
    }

    fn stage(&self, name: &'static str, percent: u64) {
        // A stage may be announced more than once, as hooks are.
        if percent < self.bar.position() {
            return;
        }
        if self.plain && self.bar.message() != name {
            eprintln!("{name}");
        }
        self.bar.set_position(percent);
        self.bar.set_message(name);
    }

    /// `done` of `whole` bytes are packed.
    pub(super) fn packed(&self, done: u64, whole: u64) {
        let share = done.saturating_mul(100 - PACKING) / whole.max(1);
        self.stage("packing the disk", PACKING + share.min(100 - PACKING));
    }

    /// All done.
    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_follows_the_stages_and_never_goes_back() {
        let progress = Progress::new();
        let mut before = 0;
        for line in [
            "I: automatically chosen mode: root",
            "I: running apt-get update...",
            "I: downloading packages with apt...",
            "Get:1 http://m bookworm/main x [1 kB]",
            "I: installing remaining packages inside the chroot...",
            "I: running --customize-hook in shell: ...",
            "I: running apt-get update...",
            "I: cleaning package lists and apt cache...",
        ] {
            progress.line(line);
            assert!(progress.bar.position() >= before, "{line}");
            before = progress.bar.position();
        }
        assert_eq!(before, 92);
        progress.packed(10, 10);
        assert_eq!(progress.bar.position(), 100);
    }
}
