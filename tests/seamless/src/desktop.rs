//! The host's desktop: an X server and a window manager.

use crate::failure::Result;
use crate::observer::Observer;
use crate::program::{Program, Xvfb, command};
use std::path::Path;

/// Ends with it.
#[derive(Debug)]
pub(crate) struct Desktop {
    // In this order: the window manager first.
    manager: Program,
    server: Xvfb,
    _home: tempfile::TempDir,
}

impl Desktop {
    /// Starts it, and waits until the window manager manages.
    pub(crate) fn start(logs: &Path) -> Result<Self> {
        let server = Xvfb::start(logs)?;
        let home = tempfile::tempdir().map_err(crate::failure::system("make a folder"))?;
        let mut openbox = command("openbox");
        openbox.env("DISPLAY", &server.display);
        for folder in ["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            openbox.env(folder, home.path());
        }
        let manager = Program::start(&mut openbox, &logs.join("openbox.log"))?;
        let desktop = Self { manager, server, _home: home };
        Observer::new(desktop.display(), logs)?.wait_for_manager()?;
        Ok(desktop)
    }

    /// As in `:5`.
    pub(crate) fn display(&self) -> &str {
        &self.server.display
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> [u32; 2] {
        [self.server.id(), self.manager.id()]
    }
}
