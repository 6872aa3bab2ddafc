//! What this machine offers for running VMs, and what to do about what is missing. `doctor` prints
//! the [`Report`]; `--engine auto` follows the [`Choice`].
//!
//! Three steps: `gather` reads the machine into [`Facts`], `rows` judges the facts without looking
//! at the machine again, `choice` picks the engine. Never changes anything on the machine.

mod choice;
mod cpu;
mod facts;
mod gather;
mod host;
mod report;

pub use choice::{Choice, EngineKind, NoEngine};
pub use facts::{
    Core, Cpu, Device, Facts, HugePages, Iommu, Memory, Module, Program, Svm, Vendor, Version, Vmx,
};
pub use gather::{program_path, system_firmware, versioned_program};
pub use report::{Overall, Report, Requirement, Row, Verdict};

/// Reads the machine and judges it.
#[must_use]
pub fn report() -> Report {
    Report::of(&gather::facts())
}

/// Reads what matters for the choice and picks an engine.
///
/// # Errors
/// No engine can run here; the error says what to do for each.
pub fn choose() -> Result<Choice, NoEngine> {
    choice::choose(&gather::for_choice())
}
