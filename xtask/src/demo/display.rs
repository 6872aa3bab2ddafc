//! A desktop of this machine that nobody looks at: an X server, a window manager, and pictures of both.

use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ended when dropped.
pub(super) struct Display {
    /// For `$DISPLAY`.
    pub(super) name: PathBuf,
    server: Child,
    manager: Option<Child>,
}

impl Display {
    /// Starts both, on a screen of this size; what they say goes to `folder`.
    pub(super) fn start(folder: &Path, size: [u16; 2]) -> Result<Self> {
        let log = |name: &str| {
            let log = folder.join(name);
            std::fs::File::create(&log).context(|| format!("make {}", log.display()))
        };
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-nolisten", "tcp", "-screen", "0"])
            .arg(format!("{}x{}x24", size[0], size[1]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log("xvfb.log")?)
            .spawn()
            .context(|| "start Xvfb".to_owned())?;
        let mut number = String::new();
        let said = server.stdout.take().map(BufReader::new);
        let read = said.map(|mut said| said.read_line(&mut number)).transpose();
        let name = format!(":{}", number.trim());
        let mut display = Self { name: name.into(), server, manager: None };
        read.context(|| "read the number of Xvfb's display".to_owned())?;
        if number.trim().is_empty() {
            return Err(Failure::new("Xvfb does not start"));
        }
        let manager = Command::new("openbox")
            .env("DISPLAY", &display.name)
            .env("XDG_CONFIG_HOME", folder)
            .stdin(Stdio::null())
            .stdout(log("openbox.log")?)
            .stderr(Stdio::null())
            .spawn()
            .context(|| "start openbox".to_owned())?;
        display.manager = Some(manager);
        Ok(display)
    }

    /// A picture of all of it.
    pub(super) fn picture(&self, file: &Path) -> Result {
        let above = file.parent().unwrap_or(file);
        std::fs::create_dir_all(above).context(|| format!("make {}", above.display()))?;
        Step::new("import")
            .arguments(["-window", "root"])
            .argument(file)
            .variable("DISPLAY", &self.name)
            .run(Output::Shown)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        for child in self.manager.as_mut().into_iter().chain([&mut self.server]) {
            // It may have ended by itself.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}
