//! The host's menu as a test finds it, and a display for the programs that want one.

use super::support::Desk;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub(crate) fn entries(desk: &Desk) -> PathBuf {
    desk.path("home/.local/share/applications")
}

pub(crate) fn entry(desk: &Desk, name: &str) -> PathBuf {
    entries(desk).join(format!("org.macrohard.{name}.desktop"))
}

/// Names of all launchers of the product.
pub(crate) fn launchers(desk: &Desk) -> Vec<String> {
    let names = std::fs::read_dir(entries(desk)).into_iter().flatten();
    let mut names: Vec<_> =
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.contains("org.macrohard."));
    names.sort();
    names
}

/// All icons, by their path in the theme.
pub(crate) fn icons(desk: &Desk) -> Vec<String> {
    let theme = desk.path("home/.local/share/icons/hicolor");
    let mut waiting = vec![theme.clone()];
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for path in
            std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path())
        {
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(&theme).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Whether a program is here; says so loudly otherwise.
pub(crate) fn has(program: &str, package: &str) -> bool {
    let found =
        Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("SKIPPED: no {program} (package {package})");
    }
    found.is_ok()
}

/// Every launcher is one without a word of the desktop's own check.
pub(crate) fn validate(desk: &Desk) {
    for name in launchers(desk) {
        let mut check = Command::new("desktop-file-validate");
        let output = check.arg("--no-hints").arg(entries(desk).join(&name)).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success() && said.is_empty(),
            "{name}: {}",
            String::from_utf8_lossy(&said)
        );
    }
}

/// An X server without a screen.
pub(crate) struct Display {
    server: Child,
    pub(crate) name: String,
}

impl Display {
    pub(crate) fn new() -> Self {
        let mut server = Command::new("Xvfb");
        server.args(["-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "640x480x24"]);
        let mut server = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        Self { server, name: format!(":{}", number.trim()) }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
