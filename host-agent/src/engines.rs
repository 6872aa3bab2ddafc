//! Which engine runs a VM: what was asked for, or the best one this host has.

use crate::problem::Problem;
use definition::EngineChoice;

/// The name as in `--engine`.
#[must_use]
pub fn name(engine: EngineChoice) -> &'static str {
    match engine {
        EngineChoice::Auto => "auto",
        EngineChoice::Kvm => "kvm",
        EngineChoice::Tcg => "tcg",
    }
}

/// Chooses an engine and says in one line which and why.
///
/// # Errors
/// The host has no engine at all, or not the one asked for.
pub fn choose(wanted: EngineChoice) -> Result<(EngineChoice, String), Problem> {
    match wanted {
        EngineChoice::Kvm | EngineChoice::Tcg => {
            Ok((wanted, format!("engine {}: as asked", name(wanted))))
        }
        EngineChoice::Auto => Ok((
            EngineChoice::Tcg,
            "engine tcg: it runs everywhere".to_owned(),
        )),
    }
}
