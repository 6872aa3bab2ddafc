//! Which check of the guest-state area made an entry fail.
//!
//! The processor says only "invalid guest state" (exit reason 33). Here are its checks again
//! (SDM 3C 27.3.1), for the controls that every VMCS of the core's has: unrestricted guest, virtual
//! NMIs, no shadow VMCS. [`find`] names the first that fails.

use core::fmt;

use hypervisor_abi::SegmentName;
use x86::vmx::vmcs::control::{self as field, EntryControls};
use x86::vmx::vmcs::guest;

use super::capability::Capabilities;
use super::context::{BLOCKED_BY_MOV_SS, BLOCKED_BY_STI, NMI_BLOCKED};
use super::system::{CS, SS, TASK, UNUSABLE, segment_field};
use crate::event;
use crate::registers::{
    CR0_PE, CR0_PG, CR0_WP, CR4_CET, CR4_PAE, CR4_PCIDE, DR6_BS, EFER_LMA, EFER_LME, RFLAGS_IF,
    RFLAGS_TF, RFLAGS_VM,
};

#[cfg(test)]
mod tests;

/// A check that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailedCheck {
    field: &'static str,
    value: u64,
    /// What it must be.
    pub(super) rule: &'static str,
    /// Section of SDM 3C with the rule.
    section: &'static str,
}

impl fmt::Display for FailedCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:#x}: {} (SDM 3C {})", self.field, self.value, self.rule, self.section)
    }
}

/// One check: a field, its value, whether that is right, and what it must be.
type Check = (&'static str, u64, bool, &'static str);

/// Entry control "IA-32e mode guest".
const IA32E_MODE_GUEST: u64 = EntryControls::IA32E_MODE_GUEST.bits() as u64;
/// Bits of IA32_EFER that exist: SCE, LME, LMA, NXE (SDM 3A 2.2.1).
const EFER_DEFINED: u64 = 0xd01;
/// Bits of IA32_DEBUGCTL that any processor has (SDM 3B 18.4.1): of them BTF.
const DEBUGCTL_DEFINED: u64 = 0xdfc7;
const DEBUGCTL_BTF: u64 = 1 << 1;
/// Bits of RFLAGS that are constant: bit 1 is 1; 63:22, 15, 5, 3 are 0 (SDM 1 3.4.3).
const RFLAGS_ONE: u64 = 1 << 1;
const RFLAGS_CONSTANT: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3 | RFLAGS_ONE;
/// Bits of the pending debug exceptions that exist: B0 to B3, bus lock, enabled breakpoint, BS, RTM
/// (SDM 3C table 25-4).
const PENDING_DEFINED: u64 = 0x1_580f;
/// Guest activity states (SDM 3C 25.4.2); 0 is active.
const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;
const WAIT_FOR_SIPI: u64 = 3;
/// Interruptibility state: blocking by SMI; all bits (SDM 3C table 25-3).
const BLOCKED_BY_SMI: u64 = 1 << 2;
const BLOCKED_DEFINED: u64 = 0x1f;
/// Access rights: S, P, L, D/B, G, and the reserved bits (SDM 3C table 25-2).
const CODE_OR_DATA: u64 = 1 << 4;
const PRESENT: u64 = 1 << 7;
const LONG: u64 = 1 << 13;
const BIG: u64 = 1 << 14;
const PAGES: u64 = 1 << 15;
const ACCESS_RESERVED: u64 = 0xfffe_0f00;

const FIXED: &str = "the bits of its FIXED0 MSR must be 1, others than those of its FIXED1 MSR 0";
const CANONICAL: &str = "must be canonical";
const CODE_DPL: &str = "DPL must be that of SS (conforming: at most that; type 3: 0)";
const LIMIT: &str = "limit and granularity do not fit: 0xfff in bits 11:0 where G is 1, \
     nothing above bit 19 where it is 0";
const ACTIVITY: &str = "activity state";
const BLOCKING: &str = "interruptibility state";
const PENDING: &str = "pending debug exceptions";
const CANONICAL_BASE: &str = "the base must be canonical";
const RESERVED: &str = "reserved bits must be 0";

const DS: usize = SegmentName::Ds as usize;
const GS: usize = SegmentName::Gs as usize;
const LDT: usize = SegmentName::Ldt as usize;
/// Names of the segment registers, by [`SegmentName`].
const SEGMENTS: [&str; 8] = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];

/// The fields of the guest-state area and the processor's limits, as the checks need them.
struct Checker<'a> {
    read: &'a dyn Fn(u32) -> u64,
    capabilities: &'a Capabilities,
    /// Widths of physical and linear addresses in bits.
    physical_bits: u32,
    linear_bits: u32,
    cr0: u64,
    efer: u64,
    rflags: u64,
    /// Entry control "IA-32e mode guest".
    long: bool,
    /// Entry interruption information.
    injected: u64,
}

/// The first check that the fields fail, in the order of the SDM; `None` when they pass all of them.
/// `read` reads a field; `widths` is CPUID.80000008H:EAX.
pub(super) fn find(
    read: &dyn Fn(u32) -> u64,
    capabilities: &Capabilities,
    widths: u32,
) -> Option<FailedCheck> {
    let checker = Checker {
        read,
        capabilities,
        physical_bits: widths & 0xff,
        linear_bits: widths >> 8 & 0xff,
        cr0: read(guest::CR0),
        efer: read(guest::IA32_EFER_FULL),
        rflags: read(guest::RFLAGS),
        long: read(field::VMENTRY_CONTROLS) & IA32E_MODE_GUEST != 0,
        injected: read(field::VMENTRY_INTERRUPTION_INFO_FIELD),
    };
    checker
        .control_registers()
        .and_then(|()| checker.segments())
        .and_then(|()| checker.tables())
        .and_then(|()| checker.instruction_pointer())
        .and_then(|()| checker.non_register())
        .err()
}

/// The first of `checks` that fails.
fn all(section: &'static str, checks: &[Check]) -> Result<(), FailedCheck> {
    match checks.iter().find(|(_, _, holds, _)| !holds) {
        Some(&(field, value, _, rule)) => Err(FailedCheck { field, value, rule, section }),
        None => Ok(()),
    }
}

fn canonical(address: u64, bits: u32) -> bool {
    let shift = 64 - bits;
    ((address << shift) as i64 >> shift) as u64 == address
}

/// Access rights: the descriptor privilege level.
fn dpl(access: u64) -> u64 {
    access >> 5 & 3
}

impl Checker<'_> {
    fn canonical(&self, address: u64) -> bool {
        canonical(address, self.linear_bits)
    }

    fn segment(&self, first: u32, index: usize) -> u64 {
        (self.read)(segment_field(first, index))
    }

    fn access(&self, index: usize) -> u64 {
        self.segment(guest::ES_ACCESS_RIGHTS, index)
    }

    fn usable(&self, index: usize) -> bool {
        self.access(index) & u64::from(UNUSABLE) == 0
    }

    /// True when the entry injects an event of that type.
    fn injects(&self, kind: u64) -> bool {
        self.injected & (event::VALID | event::TYPE) == event::VALID | kind
    }

    /// SDM 3C 27.3.1.1.
    fn control_registers(&self) -> Result<(), FailedCheck> {
        let &Self { read, capabilities, cr0, efer, long, .. } = self;
        let [cr3, cr4, dr7, pat] =
            [guest::CR3, guest::CR4, guest::DR7, guest::IA32_PAT_FULL].map(read);
        let debugctl = read(guest::IA32_DEBUGCTL_FULL);
        let [esp, eip] = [guest::IA32_SYSENTER_ESP, guest::IA32_SYSENTER_EIP].map(read);
        let cr0_holds = capabilities.cr0.unrestricted().allows(cr0);
        let paging = cr0 & CR0_PG != 0;
        let active = efer & EFER_LMA != 0;
        let enabled = efer & EFER_LME != 0;
        let types = pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
        let checks = [
            ("CR0", cr0, cr0_holds, FIXED),
            ("CR0", cr0, !paging || cr0 & CR0_PE != 0, "PG needs PE"),
            ("CR4", cr4, capabilities.cr4.allows(cr4), FIXED),
            ("CR4", cr4, cr4 & CR4_CET == 0 || cr0 & CR0_WP != 0, "CET needs CR0.WP"),
            ("IA32_DEBUGCTL", debugctl, debugctl & !DEBUGCTL_DEFINED == 0, RESERVED),
            ("CR0", cr0, !long || paging, "an entry to IA-32e mode needs PG"),
            ("CR4", cr4, !long || cr4 & CR4_PAE != 0, "an entry to IA-32e mode needs PAE"),
            ("CR4", cr4, long || cr4 & CR4_PCIDE == 0, "PCIDE needs IA-32e mode"),
            ("CR3", cr3, cr3 >> self.physical_bits == 0, "must fit the physical-address width"),
            ("DR7", dr7, dr7 >> 32 == 0, "bits 63:32 must be 0"),
            ("IA32_SYSENTER_ESP", esp, self.canonical(esp), CANONICAL),
            ("IA32_SYSENTER_EIP", eip, self.canonical(eip), CANONICAL),
            ("IA32_PAT", pat, types, "each byte must be a memory type: 0, 1, 4, 5, 6 or 7"),
            ("IA32_EFER", efer, efer & !EFER_DEFINED == 0, RESERVED),
            ("IA32_EFER", efer, active == long, "LMA must equal the control \"IA-32e mode guest\""),
            ("IA32_EFER", efer, !paging || active == enabled, "with CR0.PG, LMA must equal LME"),
        ];
        all("27.3.1.1", &checks)
    }

    /// SDM 3C 27.3.1.2.
    fn segments(&self) -> Result<(), FailedCheck> {
        for (name, index) in [("TR selector", TASK), ("LDTR selector", LDT)] {
            let selector = self.segment(guest::ES_SELECTOR, index);
            let holds = index == LDT && !self.usable(index) || selector & 4 == 0;
            all("27.3.1.2", &[(name, selector, holds, "TI must be 0")])?;
        }
        for (index, name) in SEGMENTS.into_iter().enumerate() {
            let base = self.segment(guest::ES_BASE, index);
            let base_holds = match index {
                CS => base >> 32 == 0,
                ..=DS => !self.usable(index) || base >> 32 == 0,
                LDT => !self.usable(index) || self.canonical(base),
                _ => self.canonical(base),
            };
            let rule = if index <= DS { "base: bits 63:32 must be 0" } else { CANONICAL_BASE };
            all("27.3.1.2", &[(name, base, base_holds, rule)])?;
            if self.rflags & RFLAGS_VM != 0 && index <= GS {
                self.virtual_8086(index, name)?;
            } else {
                self.access_rights(index, name)?;
            }
        }
        Ok(())
    }

    /// SDM 3C 27.3.1.2, in virtual-8086 mode.
    fn virtual_8086(&self, index: usize, name: &'static str) -> Result<(), FailedCheck> {
        let base = self.segment(guest::ES_BASE, index);
        let limit = self.segment(guest::ES_LIMIT, index);
        let access = self.access(index);
        let base_holds = base == self.segment(guest::ES_SELECTOR, index) << 4;
        let checks = [
            (name, base, base_holds, "the base must be 16 times the selector in virtual-8086 mode"),
            (name, limit, limit == 0xffff, "the limit must be 0xffff in virtual-8086 mode"),
            (name, access, access == 0xf3, "access rights must be 0xf3 in virtual-8086 mode"),
        ];
        all("27.3.1.2", &checks)
    }

    /// SDM 3C 27.3.1.2, access rights and limits outside virtual-8086 mode.
    fn access_rights(&self, index: usize, name: &'static str) -> Result<(), FailedCheck> {
        let access = self.access(index);
        let limit = self.segment(guest::ES_LIMIT, index);
        let kind = access & 0xf;
        let real = self.access(CS) & 0xf == 3 || self.cr0 & CR0_PE == 0;
        let stack_holds = index != SS || !real || dpl(access) == 0;
        all("27.3.1.2", &[(name, access, stack_holds, "DPL must be 0 in real mode")])?;
        if !self.usable(index) && index != CS && index != TASK {
            return Ok(());
        }
        let (kind_holds, kind_rule) = match index {
            CS => (matches!(kind, 3 | 9 | 11 | 13 | 15), "the type must be accessed code, or 3"),
            SS => (matches!(kind, 3 | 7), "the type must be accessed writable data (3, 7)"),
            LDT => (kind == 2, "the type must be 2, LDT"),
            TASK if self.long => (kind == 11, "the type must be 11, a busy TSS"),
            TASK => (kind == 11 || kind == 3, "the type must be 3 or 11, a busy TSS"),
            _ => (kind & 1 == 1 && kind & 0b1010 != 0b1000, "the type must be accessed, readable"),
        };
        let code_dpl_holds = match (index, kind) {
            (CS, 3) => dpl(access) == 0,
            (CS, 9 | 11) => dpl(access) == dpl(self.access(SS)),
            (CS, _) => dpl(access) <= dpl(self.access(SS)),
            _ => true,
        };
        let ordinary = access & CODE_OR_DATA != 0;
        let both = index == CS && self.long && access & (LONG | BIG) == LONG | BIG;
        let pages = access & PAGES != 0;
        let limit_holds = (limit & 0xfff == 0xfff || !pages) && (limit >> 20 == 0 || pages);
        let checks = [
            (name, access, kind_holds, kind_rule),
            (name, access, index != TASK || self.usable(index), "must be usable"),
            (name, access, ordinary == (index <= GS), "S must be 1, of LDTR and TR 0"),
            (name, access, code_dpl_holds, CODE_DPL),
            (name, access, access & PRESENT != 0, "P must be 1"),
            (name, access, access & ACCESS_RESERVED == 0, RESERVED),
            (name, access, !both, "L and D must not both be 1"),
            (name, limit, limit_holds, LIMIT),
        ];
        all("27.3.1.2", &checks)
    }

    /// SDM 3C 27.3.1.3.
    fn tables(&self) -> Result<(), FailedCheck> {
        let fields = [guest::GDTR_BASE, guest::GDTR_LIMIT, guest::IDTR_BASE, guest::IDTR_LIMIT];
        let [gdt, gdt_limit, idt, idt_limit] = fields.map(self.read);
        let checks = [
            ("GDTR", gdt, self.canonical(gdt), CANONICAL_BASE),
            ("GDTR", gdt_limit, gdt_limit >> 16 == 0, "bits 31:16 of the limit must be 0"),
            ("IDTR", idt, self.canonical(idt), CANONICAL_BASE),
            ("IDTR", idt_limit, idt_limit >> 16 == 0, "bits 31:16 of the limit must be 0"),
        ];
        all("27.3.1.3", &checks)
    }

    /// SDM 3C 27.3.1.4.
    fn instruction_pointer(&self) -> Result<(), FailedCheck> {
        let (rip, flags) = ((self.read)(guest::RIP), self.rflags);
        let code_64 = self.long && self.access(CS) & LONG != 0;
        // Up to the linear-address width the upper bits may be anything equal: one bit more is allowed.
        let rip_holds = !code_64 || self.linear_bits >= 64 || canonical(rip, self.linear_bits + 1);
        let constant_holds = flags & RFLAGS_CONSTANT == RFLAGS_ONE;
        let vm_holds = flags & RFLAGS_VM == 0 || !self.long && self.cr0 & CR0_PE != 0;
        let if_holds = flags & RFLAGS_IF != 0 || !self.injects(event::INTERRUPT);
        let checks = [
            ("RIP", rip, code_64 || rip >> 32 == 0, "bits 63:32 must be 0 outside 64-bit code"),
            ("RIP", rip, rip_holds, CANONICAL),
            ("RFLAGS", flags, constant_holds, "bits 63:22, 15, 5, 3 must be 0 and bit 1 must be 1"),
            ("RFLAGS", flags, vm_holds, "VM needs protected mode and no IA-32e mode"),
            ("RFLAGS", flags, if_holds, "IF must be 1 to inject an external interrupt"),
        ];
        all("27.3.1.4", &checks)
    }

    /// SDM 3C 27.3.1.5.
    fn non_register(&self) -> Result<(), FailedCheck> {
        let read = self.read;
        let [activity, blocked] = [guest::ACTIVITY_STATE, guest::INTERRUPTIBILITY_STATE].map(read);
        let [pending, link] = [guest::PENDING_DBG_EXCEPTIONS, guest::LINK_PTR_FULL].map(read);
        let (interrupt, nmi) = (self.injects(event::INTERRUPT), self.injects(event::NMI));
        let exception = event::exception(self.injected);
        let takes = match activity {
            _ if self.injected & event::VALID == 0 => true,
            0 => true,
            // Type 7 is a monitor trap; #DB and #MC end HLT too.
            HLT => interrupt || nmi || matches!(exception, Some(1 | 18)) || self.injects(7 << 8),
            SHUTDOWN => nmi || exception == Some(18),
            _ => false,
        };
        let [sti, mov_ss, smi, blocks_nmi] =
            [BLOCKED_BY_STI, BLOCKED_BY_MOV_SS, BLOCKED_BY_SMI, NMI_BLOCKED]
                .map(|bit| blocked & bit != 0);
        let shadow = sti || mov_ss;
        let halts = activity != HLT || dpl(self.access(SS)) == 0;
        let enabled = self.rflags & RFLAGS_IF != 0;
        let by_branches = read(guest::IA32_DEBUGCTL_FULL) & DEBUGCTL_BTF != 0;
        let steps = self.rflags & RFLAGS_TF != 0 && !by_branches;
        let settled = !shadow && activity != HLT;
        let step_holds = settled || (pending & DR6_BS != 0) == steps;
        let checks = [
            (ACTIVITY, activity, activity <= WAIT_FOR_SIPI, "must be 0 to 3"),
            (ACTIVITY, activity, halts, "HLT needs SS with DPL 0"),
            (ACTIVITY, activity, !shadow || activity == 0, "must be 0 while STI or MOV SS blocks"),
            (ACTIVITY, activity, takes, "does not allow the event that is injected"),
            (BLOCKING, blocked, blocked & !BLOCKED_DEFINED == 0, "bits 31:5 must be 0"),
            (BLOCKING, blocked, !(sti && mov_ss), "STI and MOV SS must not both block"),
            (BLOCKING, blocked, !sti || enabled, "blocking by STI needs RFLAGS.IF"),
            (BLOCKING, blocked, !(interrupt && shadow), "must not block an injected interrupt"),
            (BLOCKING, blocked, !(nmi && mov_ss), "MOV SS must not block an injected NMI"),
            (BLOCKING, blocked, !smi, "blocking by SMI must be 0 outside SMM"),
            (BLOCKING, blocked, !(nmi && blocks_nmi), "must not block an injected virtual NMI"),
            (PENDING, pending, pending & !PENDING_DEFINED == 0, RESERVED),
            (PENDING, pending, step_holds, "BS must be as TF single-steps while blocked or halted"),
            ("VMCS link pointer", link, link == u64::MAX, "must be all ones without a shadow VMCS"),
        ];
        all("27.3.1.5", &checks)
    }
}
