//! `core`: a look at our own core beneath this system.

use super::arguments::CoreCommand;
use super::output;
use crate::problem::Problem;
use engine::core::{CoreEngine, RootExits};
use serde_json::json;
use std::time::Duration;

/// How often `core log --follow` looks.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) fn dispatch(command: &CoreCommand) -> Result<(), Problem> {
    let core = CoreEngine::open().map_err(Problem::failed)?;
    match command {
        CoreCommand::Status(arguments) => status(&core, arguments.json),
        CoreCommand::Log { follow } => log(&core, *follow),
    }
}

fn log(core: &CoreEngine, follow: bool) -> Result<(), Problem> {
    let mut position = 0;
    loop {
        let (text, next) = core.log(position).map_err(Problem::failed)?;
        output::print(&String::from_utf8_lossy(&text))?;
        if !follow {
            return Ok(());
        }
        position = next;
        std::thread::sleep(PAUSE);
    }
}

fn status(core: &CoreEngine, json: bool) -> Result<(), Problem> {
    let facts = core.facts().map_err(Problem::failed)?;
    let exits = core.root_exits().map_err(Problem::failed)?;
    let damage = core.damage().map_err(Problem::failed)?;
    let version = format!("{}.{}", facts.version >> 16, facts.version & 0xffff);
    if json {
        let exits: Vec<_> = exits
            .iter()
            .map(|RootExits { processor, by_kind }| json!({ "processor": processor, "exits": by_kind }))
            .collect();
        return output::print_json(&json!({
            "interface": version,
            "processors": facts.processors,
            "pool_bytes": facts.pool.0,
            "free_bytes": facts.free.0,
            "damage": damage,
            "root": exits,
        }));
    }
    let mebibytes = |bytes: units::Bytes| bytes.0 >> 20;
    let mut text = format!(
        "interface {version}, {} processors\npool {} MiB, {} MiB free\ncore's own memory: {}\n\n",
        facts.processors,
        mebibytes(facts.pool),
        mebibytes(facts.free),
        damage.map_or_else(|| "as it was".to_owned(), |part| format!("{part} has CHANGED")),
    );
    let mut rows = vec![["CPU", "EXITS OF THIS SYSTEM", "COUNT"].map(str::to_owned).to_vec()];
    for RootExits { processor, by_kind } in exits {
        rows.extend(by_kind.iter().map(|(kind, count)| {
            vec![processor.to_string(), (*kind).to_owned(), count.to_string()]
        }));
    }
    text.push_str(&output::table(&rows));
    output::print(&text)
}
