//! Which engine `auto` takes, and why: our own core, then KVM with hardware behind it, then QEMU's
//! software CPU.

use super::facts::{Core, Device, Facts, Version};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The engines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Our own privileged core.
    Core,
    /// Linux KVM.
    Kvm,
    /// QEMU's software CPU.
    Tcg,
}

impl EngineKind {
    /// The name as in `--engine`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first QEMU that engine `tcg` works with.
pub(super) const OLDEST_QEMU: Version = Version(8, 0, 0);

/// An engine and why it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The engine.
    pub engine: EngineKind,
    /// One line: what spoke for it, and what kept the better ones out.
    pub reason: String,
}

/// No engine can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no engine can run VMs here: {}", reasons.join("; "))]
pub struct NoEngine {
    /// One per engine, with what to do.
    pub reasons: Vec<String>,
}

/// The pick.
pub(super) fn choose(facts: &Facts) -> Result<Choice, NoEngine> {
    let no_core = match &facts.core {
        Core::Usable(core) => {
            return Ok(Choice {
                engine: EngineKind::Core,
                reason: format!(
                    "our own core runs beneath this system, with {} MiB for guests",
                    core.pool.0 >> 20
                ),
            });
        }
        Core::Unusable { why } => Some(why.as_str()),
        Core::Absent => None,
    };
    // Said only where there is one.
    let beside = no_core.map_or_else(String::new, |why| format!("; not core: {why}"));
    let no_kvm = match no_kvm(facts) {
        None => {
            let hardware = if facts.cpu.vmx.is_some() { "VT-x" } else { "AMD-V" };
            return Ok(Choice {
                engine: EngineKind::Kvm,
                reason: format!("/dev/kvm is there with {hardware} behind it{beside}"),
            });
        }
        Some(why) => why,
    };
    match no_tcg(facts) {
        None => Ok(Choice {
            engine: EngineKind::Tcg,
            reason: format!("QEMU's software CPU, because {no_kvm}{beside}"),
        }),
        Some(no_tcg) => {
            let core = no_core.map(|why| format!("core: {why}"));
            let others = [format!("kvm: {no_kvm}"), format!("tcg: {no_tcg}")];
            Err(NoEngine { reasons: core.into_iter().chain(others).collect() })
        }
    }
}

/// Why KVM is no choice, if it is none.
fn no_kvm(facts: &Facts) -> Option<String> {
    match &facts.kvm {
        Device::Usable if facts.cpu.has_virtualization() => None,
        Device::Usable => Some(
            "/dev/kvm is paravirtual: the processor shows neither vmx nor svm, and KVM without \
             them is far slower than QEMU"
                .to_owned(),
        ),
        Device::Absent => Some("there is no /dev/kvm".to_owned()),
        Device::NoPermission { group } => Some(format!(
            "you may not open /dev/kvm (join the group `{}`)",
            group.as_deref().unwrap_or("kvm")
        )),
        Device::Broken { error } => Some(format!("/dev/kvm fails: {error}")),
    }
}

/// Why `tcg` is no choice, if it is none.
fn no_tcg(facts: &Facts) -> Option<String> {
    match &facts.qemu {
        None => Some("qemu-system-x86_64 is missing (package qemu-system-x86)".to_owned()),
        Some(program) => match program.version {
            Some(version) if version < OLDEST_QEMU => Some(format!(
                "QEMU {version} is older than {OLDEST_QEMU} (on Debian 12 take it from \
                 bookworm-backports)"
            )),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::facts::{Cpu, Program, Svm};

    fn with_qemu(version: Version) -> Facts {
        Facts {
            qemu: Some(Program {
                path: "/usr/bin/qemu-system-x86_64".into(),
                version: Some(version),
            }),
            ..Facts::default()
        }
    }

    #[test]
    fn the_core_comes_before_all_others() {
        let core = crate::core::CoreFacts {
            version: 0x0001_0001,
            pool: units::Bytes(2 << 30),
            free: units::Bytes(1 << 30),
            processors: 4,
        };
        let facts = Facts {
            core: Core::Usable(core),
            kvm: Device::Usable,
            cpu: Cpu { svm: Some(Svm::default()), ..Cpu::default() },
            ..with_qemu(Version(10, 0, 2))
        };
        let choice = choose(&facts).expect("an engine");
        assert_eq!(choice.engine, EngineKind::Core);
        assert!(choice.reason.contains("2048 MiB"), "{}", choice.reason);
        let facts = Facts { core: Core::Unusable { why: "no driver".to_owned() }, ..facts };
        let choice = choose(&facts).expect("an engine");
        assert_eq!(choice.engine, EngineKind::Kvm);
        assert!(choice.reason.ends_with("not core: no driver"), "{}", choice.reason);
    }

    #[test]
    fn kvm_with_hardware_comes_before_qemu() {
        let facts = Facts {
            kvm: Device::Usable,
            cpu: Cpu { svm: Some(Svm::default()), ..Cpu::default() },
            ..with_qemu(Version(10, 0, 2))
        };
        let choice = choose(&facts).expect("an engine");
        assert_eq!(choice.engine, EngineKind::Kvm);
        assert!(choice.reason.contains("AMD-V"));
    }

    #[test]
    fn a_paravirtual_kvm_counts_as_none() {
        let facts = Facts { kvm: Device::Usable, ..with_qemu(Version(10, 0, 2)) };
        let choice = choose(&facts).expect("an engine");
        assert_eq!(choice.engine, EngineKind::Tcg);
        assert!(choice.reason.contains("neither vmx nor svm"));
    }

    #[test]
    fn without_permission_the_group_is_named() {
        let facts = Facts {
            kvm: Device::NoPermission { group: Some("kvm".to_owned()) },
            ..with_qemu(Version(8, 0, 0))
        };
        let choice = choose(&facts).expect("an engine");
        assert_eq!(choice.engine, EngineKind::Tcg);
        assert!(choice.reason.contains("group `kvm`"));
    }

    #[test]
    fn an_old_qemu_and_no_kvm_leave_nothing() {
        let none = choose(&with_qemu(Version(7, 2, 19))).expect_err("no engine");
        assert_eq!(none.reasons.len(), 2);
        assert!(none.to_string().contains("7.2.19"), "{none}");
        assert!(none.to_string().contains("backports"), "{none}");
        let none = choose(&Facts::default()).expect_err("no engine");
        assert!(none.to_string().contains("qemu-system-x86"), "{none}");
    }
}
