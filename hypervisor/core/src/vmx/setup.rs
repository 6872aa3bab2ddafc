//! A new VMCS: controls, maps, host state (SDM 3C 25.6 to 25.8).
#![allow(unsafe_code)]

use units::PAGE_SIZE;
use x86::vmx::vmcs::control::{self as field, SecondaryControls};
use x86::vmx::vmcs::guest;

use super::context::{VmxContext, Watched};
use super::controls::{ENABLE_PCONFIG, ENTRY, Kind, PRIMARY, SECONDARY};
use super::enable::VmxCpu;
use super::host_state;
use super::switch::Registers;
use super::unswitched::{Changing, Unswitched};
use super::vmcs::Vmcs;
use crate::registers::{CR0_CD, CR0_NE, CR0_NW, CR4_VMXE};
use crate::vcpu::Setup;

/// CR4 bits a guest has to itself (SDM 3A 2.5): VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR,
/// OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE. The others come with state the core
/// does not switch; CPUID hides them.
const CR4_GUEST: u64 = 0x0077_0fff;
/// Vectors of #DB and #AC: loops of theirs could keep a guest in the processor for ever
/// (CVE-2015-5307, CVE-2015-8104).
const INTERCEPTED: u64 = 1 << 1 | 1 << 17;
/// The fields of the control words, in the order of `Controls`.
const CONTROL_FIELDS: [u32; 5] = [
    field::PINBASED_EXEC_CONTROLS,
    field::PRIMARY_PROCBASED_EXEC_CONTROLS,
    field::SECONDARY_PROCBASED_EXEC_CONTROLS,
    field::VMEXIT_CONTROLS,
    field::VMENTRY_CONTROLS,
];
/// PCONFIG-exiting bitmap (SDM 3D B.2.1), which crate x86 lacks.
const PCONFIG_EXITING_BITMAP: u32 = 0x203e;
/// DR6 after power-on (SDM 3B 18.2.3).
const DR6_RESET: u64 = 0xffff_0ff0;

impl VmxContext {
    /// A VMCS of the kind `setup` describes, on this processor. `None` when the core is out of memory.
    pub fn new(setup: &Setup, cpu: &VmxCpu) -> Option<Self> {
        // The caches are the machine's, not a guest's.
        let (kind, cr0, cr4, exceptions) = if setup.root {
            (Kind::Root, CR0_NE, CR4_VMXE, 0)
        } else {
            (Kind::Guest, CR0_NE | CR0_NW | CR0_CD, !CR4_GUEST, INTERCEPTED)
        };
        let controls = cpu.controls[kind as usize];
        let vmcs = Vmcs::new(cpu.capabilities.revision())?;
        let fields = [
            (field::EXCEPTION_BITMAP, exceptions),
            (field::PAGE_FAULT_ERR_CODE_MASK, 0),
            (field::PAGE_FAULT_ERR_CODE_MATCH, 0),
            (field::CR3_TARGET_COUNT, 0),
            (field::VMEXIT_MSR_STORE_COUNT, 0),
            (field::VMEXIT_MSR_LOAD_COUNT, 0),
            (field::VMENTRY_MSR_LOAD_COUNT, 0),
            (field::VMENTRY_INTERRUPTION_INFO_FIELD, 0),
            (field::CR0_GUEST_HOST_MASK, cr0),
            (field::CR4_GUEST_HOST_MASK, cr4),
            (field::CR0_READ_SHADOW, 0),
            (field::CR4_READ_SHADOW, 0),
            (field::IO_BITMAP_A_ADDR_FULL, setup.port_map.0),
            (field::IO_BITMAP_B_ADDR_FULL, setup.port_map.0 + PAGE_SIZE),
            (field::MSR_BITMAPS_ADDR_FULL, setup.msr_map.0),
            (field::EPTP_FULL, setup.second_level),
            (field::VPID, u64::from(setup.tag)),
            (field::TSC_OFFSET_FULL, setup.tsc_offset),
            (guest::LINK_PTR_FULL, u64::MAX),
            (guest::IA32_DEBUGCTL_FULL, 0),
            (guest::PENDING_DBG_EXCEPTIONS, 0),
        ];
        // Fields that exist where the control does.
        let optional = [
            (SecondaryControls::ENABLE_XSAVES_XRSTORS.bits(), field::XSS_EXITING_BITMAP_FULL),
            (ENABLE_PCONFIG, PCONFIG_EXITING_BITMAP),
        ];
        let offered = optional.into_iter().filter(|(bit, _)| controls[SECONDARY] & bit != 0);
        // SAFETY: the controls are those computed for this processor; the maps and tables are the
        // caller's, made for this virtual CPU; the host state is what the core runs in now and on every
        // processor; the rest are guest fields.
        unsafe {
            vmcs.write_all(CONTROL_FIELDS.into_iter().zip(controls.map(u64::from)));
            vmcs.write_all(fields);
            vmcs.write_all(offered.map(|(_, number)| (number, 0)));
            vmcs.write_all(host_state::common());
        }
        Some(Self {
            registers: Registers { general: [0; 16], host_rsp: 0 },
            kind,
            setup: *setup,
            entry_controls: controls[ENTRY],
            primary: controls[PRIMARY],
            cr0: Watched { mask: cr0, shadow: 0, field: field::CR0_READ_SHADOW },
            cr4: Watched { mask: cr4, shadow: 0, field: field::CR4_READ_SHADOW },
            unswitched: Unswitched {
                changing: Changing { dr6: DR6_RESET, ..Changing::default() },
                ..Unswitched::default()
            },
            unswitched_changed: false,
            cr2: 0,
            task_priority: 0,
            pending: 0,
            pending_length: 0,
            stale: true,
            reason: u32::MAX,
            host_of: 0,
            guest_rsp: 0,
            timer: 0,
            capabilities: cpu.capabilities,
            vmcs,
        })
    }
}
