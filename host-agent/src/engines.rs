//! Which engine runs a VM: what was asked for, or the best one this host has.

use crate::problem::Problem;
use definition::{EngineChoice, HostFacts};
use engine::core::{self, CoreEngine};
use engine::discovery::{self, EngineKind};

/// The name as in `--engine`.
#[must_use]
pub fn name(engine: EngineChoice) -> &'static str {
    match engine {
        EngineChoice::Auto => "auto",
        EngineChoice::Core => EngineKind::Core.name(),
        EngineChoice::Kvm => EngineKind::Kvm.name(),
        EngineChoice::Tcg => EngineKind::Tcg.name(),
    }
}

/// What a definition may ask of this host. The core's pool is memory that the kernel does not count.
#[must_use]
pub fn host_facts() -> HostFacts {
    let facts = HostFacts::of_this_host();
    let core = core::is_beneath().then(CoreEngine::open).and_then(Result::ok);
    let pool = core.and_then(|core| core.facts().ok()).map_or(0, |core| core.pool.0 >> 20);
    HostFacts { memory: facts.memory.max(pool) }
}

/// Chooses an engine and says in one line which and why. An engine asked for by name is taken as
/// it is; starting the VM shows whether it works.
///
/// # Errors
/// The host has no engine at all.
pub fn choose(wanted: EngineChoice) -> Result<(EngineChoice, String), Problem> {
    match wanted {
        EngineChoice::Core | EngineChoice::Kvm | EngineChoice::Tcg => {
            Ok((wanted, format!("engine {}: as asked", name(wanted))))
        }
        EngineChoice::Auto => {
            let choice = discovery::choose()
                .map_err(|none| Problem::failed(none).advise("`doctor` shows what is missing"))?;
            let line = format!("engine {}: {}", choice.engine, choice.reason);
            let engine = match choice.engine {
                EngineKind::Core => EngineChoice::Core,
                EngineKind::Kvm => EngineChoice::Kvm,
                EngineKind::Tcg => EngineChoice::Tcg,
            };
            Ok((engine, line))
        }
    }
}
