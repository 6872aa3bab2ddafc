//! What commands print: tables for people, JSON for programs.

use crate::problem::Problem;
use proto::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Prints to standard output; a reader that has gone (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::failed(format!("cannot print: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON document.
pub(super) fn print_json(document: &impl Serialize) -> Result<(), Problem> {
    let text = serde_json::to_string_pretty(document).map_err(Problem::failed)?;
    print(&(text + "\n"))
}

/// Columns as wide as their widest cell, the last one open.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The name of a state as it travels.
pub(super) fn state_name(state: i32) -> &'static str {
    match v1::State::try_from(state) {
        Ok(v1::State::Created) => "created",
        Ok(v1::State::Starting) => "starting",
        Ok(v1::State::Running) => "running",
        Ok(v1::State::Paused) => "paused",
        Ok(v1::State::Stopping) => "stopping",
        Ok(v1::State::Stopped) => "stopped",
        Ok(v1::State::Crashed) => "crashed",
        Ok(v1::State::Unspecified) | Err(_) => "unknown",
    }
}

/// A VM in JSON.
#[derive(Debug, Serialize)]
pub(super) struct VmView<'a> {
    name: &'a str,
    state: &'static str,
    /// MiB.
    memory: u64,
    cpus: u32,
    engine: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agents: Vec<AgentView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<WindowsView>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    last_console_lines: &'a [String],
}

impl<'a> From<&'a v1::Vm> for VmView<'a> {
    fn from(vm: &'a v1::Vm) -> Self {
        let active = vm.pid != 0;
        Self {
            name: &vm.name,
            state: state_name(vm.state),
            memory: vm.memory,
            cpus: vm.cpus,
            engine: &vm.engine,
            pid: active.then_some(vm.pid),
            uptime: active.then_some(vm.uptime),
            ending: (!vm.ending.is_empty()).then_some(&vm.ending),
            exit_code: vm.exit_code,
            ended_at: (vm.ended_at != 0).then_some(vm.ended_at),
            agents: vm.agents.iter().map(AgentView::from).collect(),
            windows: vm.windows.as_ref().map(WindowsView::from),
            last_console_lines: &vm.last_console_lines,
        }
    }
}

/// How windows are shown, in JSON.
#[derive(Debug, Serialize)]
pub(super) struct WindowsView {
    seamless: bool,
    /// The guest's are connected to this desktop.
    shown: bool,
    count: u32,
    /// What draws them.
    #[serde(skip_serializing_if = "String::is_empty")]
    renderer: String,
    /// How often something of the guest was refused or cut, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    refused: BTreeMap<String, u64>,
}

impl From<&v1::VmWindows> for WindowsView {
    fn from(windows: &v1::VmWindows) -> Self {
        let refused = windows.refused.iter().map(|(why, count)| (why.clone(), *count)).collect();
        let renderer = windows.renderer.clone();
        let v1::VmWindows { seamless, shown, count, .. } = *windows;
        Self { seamless, shown, count, renderer, refused }
    }
}

/// What was refused of a guest, in one line.
fn refused(windows: &v1::VmWindows) -> String {
    let sorted: BTreeMap<_, _> = windows.refused.iter().collect();
    sorted.iter().map(|(why, count)| format!("{why} {count}")).collect::<Vec<_>>().join(", ")
}

/// How windows are shown, in one line.
pub(super) fn windows(windows: &v1::VmWindows) -> String {
    let way = if windows.seamless { "seamless" } else { "desktop" };
    match (windows.shown, windows.count) {
        (false, 0) => format!("{way}, not connected"),
        (_, 1) => format!("{way}, 1 window"),
        (_, count) => format!("{way}, {count} windows"),
    }
}

/// An agent in JSON.
#[derive(Debug, Serialize)]
struct AgentView<'a> {
    /// None for the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    program: &'a str,
    system: &'a str,
    /// The version that an update would install.
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<&'a str>,
}

impl<'a> From<&'a v1::Agent> for AgentView<'a> {
    fn from(agent: &'a v1::Agent) -> Self {
        let user = (!agent.user.is_empty()).then_some(agent.user.as_str());
        let update = (!agent.update.is_empty()).then_some(agent.update.as_str());
        Self { user, program: &agent.program, system: &agent.system, update }
    }
}

/// A definition file that cannot be read, in JSON.
#[derive(Debug, Serialize)]
struct BrokenView<'a> {
    name: &'a str,
    path: &'a str,
    message: &'a str,
}

/// A listing in JSON.
#[derive(Debug, Serialize)]
pub(super) struct ListView<'a> {
    vms: Vec<VmView<'a>>,
    broken: Vec<BrokenView<'a>>,
}

impl<'a> From<&'a v1::ListReply> for ListView<'a> {
    fn from(list: &'a v1::ListReply) -> Self {
        Self {
            vms: list.vms.iter().map(VmView::from).collect(),
            broken: list
                .broken
                .iter()
                .map(|broken| BrokenView {
                    name: &broken.name,
                    path: &broken.path,
                    message: &broken.message,
                })
                .collect(),
        }
    }
}

/// A listing for people.
pub(super) fn list(list: &v1::ListReply) -> String {
    if list.vms.is_empty() {
        return String::new();
    }
    let heads = ["NAME", "STATE", "MEMORY", "CPUS", "ENGINE", "UPTIME"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for vm in &list.vms {
        let uptime = match vm.pid {
            0 => "-".to_owned(),
            _ => duration(vm.uptime),
        };
        rows.push(vec![
            vm.name.clone(),
            state_name(vm.state).to_owned(),
            format!("{} MiB", vm.memory),
            vm.cpus.to_string(),
            vm.engine.clone(),
            uptime,
        ]);
    }
    table(&rows)
}

/// One VM for people.
pub(super) fn status(vm: &v1::Vm) -> String {
    let mut rows = vec![
        ("name", vm.name.clone()),
        ("state", state_name(vm.state).to_owned()),
        ("memory", format!("{} MiB", vm.memory)),
        ("cpus", vm.cpus.to_string()),
        ("engine", vm.engine.clone()),
    ];
    if vm.pid != 0 {
        rows.push(("process", vm.pid.to_string()));
        rows.push(("uptime", duration(vm.uptime)));
        if let Some(shown) = &vm.windows {
            rows.push(("windows", windows(shown)));
            if !shown.renderer.is_empty() {
                rows.push(("drawn by", shown.renderer.clone()));
            }
            if !shown.refused.is_empty() {
                rows.push(("refused", refused(shown)));
            }
        }
    }
    if let Some(agent) = vm.agents.first() {
        rows.push(("guest", agent.system.clone()));
        let of = |agent: &v1::Agent| match agent.user.as_str() {
            "" => format!("system ({})", agent.program),
            user => format!("{user} ({})", agent.program),
        };
        rows.push(("agents", vm.agents.iter().map(of).collect::<Vec<_>>().join(", ")));
        if let Some(agent) = vm.agents.iter().find(|agent| !agent.update.is_empty()) {
            rows.push(("update", format!("`agent update` installs agent {}", agent.update)));
        }
    }
    if !vm.ending.is_empty() {
        rows.push(("ended", vm.ending.clone()));
    }
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    let mut text = table(&rows);
    if !vm.last_console_lines.is_empty() {
        text.push_str("last console lines:\n");
        for line in &vm.last_console_lines {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

/// Counters for people: one row per name, one column per processor; what never happened is left
/// out.
pub(super) fn statistics(reply: &v1::StatisticsReply) -> String {
    let mut names: Vec<&String> = reply
        .processors
        .iter()
        .flat_map(|processor| &processor.values)
        .filter(|(_, count)| **count > 0)
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names.dedup();
    let mut rows = vec![vec!["EXITS".to_owned()]];
    for index in 0..reply.processors.len() {
        rows[0].push(format!("CPU {index}"));
    }
    for name in names {
        let mut row = vec![name.clone()];
        for processor in &reply.processors {
            row.push(processor.values.get(name).copied().unwrap_or(0).to_string());
        }
        rows.push(row);
    }
    let mut text = table(&rows);
    if !reply.devices.is_empty() {
        let mut rows = vec![vec!["DEVICE".to_owned(), "COUNTERS".to_owned()]];
        for (name, counters) in &reply.devices {
            let values: Vec<String> =
                counters.values.iter().map(|(name, value)| format!("{name} {value}")).collect();
            rows.push(vec![name.clone(), values.join(", ")]);
        }
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text.push_str(&format!(
        "\nmemory of the VM process beyond guest memory: {} KiB\n",
        reply.overhead
    ));
    text
}

/// Counters in JSON.
#[derive(Debug, Serialize)]
pub(super) struct StatisticsView<'a> {
    processors: Vec<&'a BTreeMap<String, u64>>,
    devices: BTreeMap<&'a str, &'a BTreeMap<String, u64>>,
    /// KiB.
    overhead: u64,
}

impl<'a> From<&'a v1::StatisticsReply> for StatisticsView<'a> {
    fn from(reply: &'a v1::StatisticsReply) -> Self {
        Self {
            processors: reply.processors.iter().map(|p| &p.values).collect(),
            devices: reply
                .devices
                .iter()
                .map(|(name, counters)| (name.as_str(), &counters.values))
                .collect(),
            overhead: reply.overhead,
        }
    }
}

/// One change of one VM in JSON, on one line.
#[derive(Debug, Serialize)]
pub(super) struct EventView<'a> {
    time: u64,
    name: &'a str,
    state: &'static str,
    message: &'a str,
}

impl<'a> From<&'a v1::Event> for EventView<'a> {
    fn from(event: &'a v1::Event) -> Self {
        Self {
            time: event.time,
            name: &event.name,
            state: state_name(event.state),
            message: &event.message,
        }
    }
}

/// Seconds as a person reads them.
fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    if days > 0 {
        format!("{days} d {hours} h")
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {seconds} s")
    } else {
        format!("{seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(
            table(&[row("NAME", "X"), row("Büro", "1"), row("a", "2")]),
            "NAME  X\nBüro  1\na     2\n"
        );
    }

    #[test]
    fn durations_keep_two_units() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(7260), "2 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }
}
