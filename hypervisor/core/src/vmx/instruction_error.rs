//! Why a VMX instruction failed: VM-instruction error numbers (SDM 3C 31.4).

use core::fmt;

/// How a VMX instruction failed (SDM 3C 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VmxFailure {
    /// There is no current VMCS to hold an error number (VMfailInvalid), or VMXON was refused.
    NoCurrentVmcs,
    /// The VM-instruction error field of the current VMCS (VMfailValid).
    Error(u32),
}

/// VMLAUNCH of a VMCS that was launched.
pub(super) const NON_CLEAR: u32 = 4;

/// The words for a VM-instruction error number, of those that the core's instructions can have.
pub(super) const fn text(number: u32) -> &'static str {
    match number {
        2 => "VMCLEAR with invalid physical address",
        3 => "VMCLEAR with VMXON pointer",
        NON_CLEAR => "VMLAUNCH with non-clear VMCS",
        5 => "VMRESUME with non-launched VMCS",
        7 => "VM entry with invalid control fields",
        8 => "VM entry with invalid host-state fields",
        9 => "VMPTRLD with invalid physical address",
        10 => "VMPTRLD with VMXON pointer",
        11 => "VMPTRLD with incorrect VMCS revision identifier",
        12 => "VMREAD or VMWRITE of an unsupported VMCS component",
        13 => "VMWRITE to a read-only VMCS component",
        15 => "VMXON executed in VMX root operation",
        26 => "VM entry with events blocked by MOV SS",
        28 => "invalid operand to INVEPT or INVVPID",
        _ => "VM-instruction error",
    }
}

impl fmt::Display for VmxFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoCurrentVmcs => f.write_str("no current VMCS"),
            Self::Error(number) => write!(f, "{} ({number})", text(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::VmxFailure;

    #[test]
    fn a_failure_is_told_in_words_and_by_number() {
        let words = |number| VmxFailure::Error(number).to_string();
        assert_eq!(words(7), "VM entry with invalid control fields (7)");
        assert_eq!(words(99), "VM-instruction error (99)");
    }
}
