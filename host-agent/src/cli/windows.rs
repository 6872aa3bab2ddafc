//! `seamless`, `windows` and `screenshot`: a VM's windows on this desktop.

use super::arguments::{ScreenshotArguments, SeamlessArguments};
use super::output;
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use proto::v1::{self, ShownWindow};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

pub(super) fn seamless(arguments: SeamlessArguments) -> Result<(), Problem> {
    let json = arguments.json;
    let enable = match (arguments.enable, arguments.disable) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let request = v1::SeamlessRequest { name: arguments.name, enable, toggle: arguments.toggle };
    let reply = block_on(async { Ok(daemon().await?.seamless(request).await?.into_inner()) })?;
    let windows = reply.windows.unwrap_or_default();
    if json {
        return output::print_json(&output::WindowsView::from(&windows));
    }
    output::print(&(output::windows(&windows) + "\n"))
}

/// A window in JSON.
#[derive(Debug, Serialize)]
struct View<'a> {
    id: u32,
    /// X11 id of the host's window.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<u64>,
    title: &'a str,
    class: &'a str,
    x: i32,
    y: i32,
    width: u32,
    height: u32,
    popup: bool,
    focused: bool,
    minimized: bool,
}

impl<'a> From<&'a ShownWindow> for View<'a> {
    fn from(window: &'a ShownWindow) -> Self {
        Self {
            id: window.id,
            host: (window.host != 0).then_some(window.host),
            title: &window.title,
            class: &window.class,
            x: window.x,
            y: window.y,
            width: window.width,
            height: window.height,
            popup: window.popup,
            focused: window.focused,
            minimized: window.minimized,
        }
    }
}

pub(super) fn list(name: String, json: bool) -> Result<(), Problem> {
    let request = v1::VmRequest { name };
    let reply = block_on(async { Ok(daemon().await?.windows(request).await?.into_inner()) })?;
    if json {
        let views: Vec<View<'_>> = reply.windows.iter().map(View::from).collect();
        return output::print_json(&views);
    }
    if reply.windows.is_empty() {
        eprintln!("no window is shown");
        return Ok(());
    }
    let heads = ["ID", "CLASS", "GEOMETRY", "TITLE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for window in &reply.windows {
        let mut title = window.title.clone();
        for (is, word) in [(window.popup, "popup"), (window.minimized, "minimized")] {
            if is {
                title.push_str(&format!(" ({word})"));
            }
        }
        rows.push(vec![
            window.id.to_string(),
            window.class.clone(),
            format!("{}x{}{:+}{:+}", window.width, window.height, window.x, window.y),
            title,
        ]);
    }
    output::print(&output::table(&rows))
}

pub(super) fn screenshot(arguments: ScreenshotArguments) -> Result<(), Problem> {
    let path = match arguments.output {
        Some(path) => path,
        None => PathBuf::from(format!("{}.png", arguments.name.replace('/', "_"))),
    };
    let to_output = path.as_os_str() == "-";
    if to_output && std::io::stdout().is_terminal() {
        return Err(Problem::usage("a picture is nothing for a terminal")
            .advise("name a file with --output, or pipe this into a program"));
    }
    let request = v1::ScreenshotRequest { name: arguments.name, window: arguments.window };
    let picture = block_on(async {
        let mut chunks = daemon().await?.screenshot(request).await?.into_inner();
        let mut picture = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            picture.extend_from_slice(&chunk.data);
        }
        Ok(picture)
    })?;
    if to_output {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(&picture).and_then(|()| out.flush());
        return written.map_err(|error| Problem::failed(format!("cannot print: {error}")));
    }
    std::fs::write(&path, &picture)
        .map_err(|error| Problem::failed(format!("cannot write {}: {error}", path.display())))?;
    output::print(&format!("{}\n", path.display()))
}
