//! What the daemon reads and writes about runs of a VM: the mark that it was started, how it ended,
//! what it printed last, and the specification of the present run.

use crate::launch::unix_time;
use crate::problem::Problem;
use definition::{Existing, Places, VmDefinition, write_atomically};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use vm_control::{Ending, ExitRecord, Files, LaunchSpec};

/// How much of the console a report of a crash looks at.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 10;

/// The records of one VM.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) runtime: PathBuf,
    pub(super) state: PathBuf,
}

/// What stood there before a start, to be put back when the start fails.
pub(super) struct Before {
    started: bool,
    exit: Option<Vec<u8>>,
}

impl Records {
    pub(super) fn new(places: &Places, name: &str) -> Self {
        Self { runtime: places.runtime_of(name), state: places.state_of(name) }
    }

    pub(super) fn files(&self) -> Files<'_> {
        Files::new(&self.runtime, &self.state)
    }

    fn started_mark(&self) -> PathBuf {
        self.state.join("started")
    }

    fn launch_file(runtime: &Path) -> PathBuf {
        runtime.join("launch.json")
    }

    /// It was started at least once.
    pub(super) fn started_before(&self) -> bool {
        self.started_mark().exists()
    }

    /// How the last run ended, if in order.
    pub(super) fn exit(&self) -> Option<ExitRecord> {
        let bytes = std::fs::read(self.files().exit_record()).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Notes an ending that the VM process could not note itself.
    pub(super) fn write_exit(&self, ending: Ending) -> Result<(), Problem> {
        let record = ExitRecord { ending, time: unix_time() };
        let bytes = serde_json::to_vec(&record).map_err(Problem::failed)?;
        Ok(write_atomically(&self.files().exit_record(), &bytes, Existing::Replace)?)
    }

    /// Prepares a start: no record of an ending, the mark set, the specification noted for a later
    /// daemon. From here on a process that vanishes counts as crashed.
    pub(super) fn begin(&self, spec: &LaunchSpec) -> Result<Before, Problem> {
        let before = Before {
            started: self.started_before(),
            exit: std::fs::read(self.files().exit_record()).ok(),
        };
        let begin = || -> Result<(), Problem> {
            let bytes = serde_json::to_vec(spec).map_err(Problem::failed)?;
            write_atomically(&Self::launch_file(&self.runtime), &bytes, Existing::Replace)?;
            let log = self.files().log();
            if log.exists() {
                std::fs::rename(&log, log.with_extension("log.1")).map_err(Problem::failed)?;
            }
            let time = unix_time().to_string();
            write_atomically(&self.started_mark(), time.as_bytes(), Existing::Replace)?;
            match std::fs::remove_file(self.files().exit_record()) {
                Err(error) if before.exit.is_some() => Err(Problem::failed(format!(
                    "cannot remove {}: {error}",
                    self.files().exit_record().display()
                ))),
                _ => Ok(()),
            }
        };
        match begin() {
            Ok(()) => Ok(before),
            Err(problem) => {
                self.undo(&before);
                Err(problem)
            }
        }
    }

    /// Puts back what stood there before [`Self::begin`]: the guest never ran.
    pub(super) fn undo(&self, before: &Before) {
        let undone = match &before.exit {
            Some(bytes) => write_atomically(&self.files().exit_record(), bytes, Existing::Replace),
            None => {
                let _ = std::fs::remove_file(self.files().exit_record());
                Ok(())
            }
        };
        if let Err(error) = undone {
            tracing::error!(%error, "the record of the last run is lost");
        }
        if !before.started {
            let _ = std::fs::remove_file(self.started_mark());
        }
    }

    /// The last lines the guest printed, made harmless for a terminal.
    pub(super) fn last_console_lines(&self) -> Vec<String> {
        tail(&self.files().console_log()).unwrap_or_default()
    }

    /// The definition as it was at the start of the present run.
    pub(super) fn launched(&self) -> Option<VmDefinition> {
        self.launch_spec().map(|spec| spec.definition)
    }

    /// The specification of the present run.
    pub(super) fn launch_spec(&self) -> Option<LaunchSpec> {
        launched_in(&self.runtime)
    }
}

/// The specification of the VM whose runtime folder this is.
pub(super) fn launched_in(runtime: &Path) -> Option<LaunchSpec> {
    let bytes = std::fs::read(Records::launch_file(runtime)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn tail(path: &Path) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes)))
}

fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| {
            let line = line.trim_end_matches('\r');
            line.replace(char::is_control, "\u{fffd}")
        })
        .filter(|line| !line.trim().is_empty())
        .collect();
    let skip = lines.len().saturating_sub(TAIL_LINES);
    lines.into_iter().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_cannot_steer_a_terminal() {
        let lines = last_lines("old\n\n\u{1b}]0;title\u{7}hello\r\nworld");
        assert_eq!(lines, ["old", "\u{fffd}]0;title\u{fffd}hello", "world"]);
        let many: String = (0..50).map(|n| format!("{n}\n")).collect();
        assert_eq!(last_lines(&many).first().unwrap(), "40");
    }
}
