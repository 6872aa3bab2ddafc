//! The tables without code: FADT, MADT, WAET.

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, encode};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;
use alloc::vec::Vec;
use chipset::{ACPI_DISABLE, ACPI_ENABLE, RESET_CONTROL, RESET_VALUE, SMI_COMMAND};
use layout::{IOAPIC, LOCAL_APIC, SCI};

/// Registers of the power management block: offset and length.
const PM1_EVENT: (u16, u8) = (chipset::PM1_EVENT, 4);
const PM1_CONTROL: (u16, u8) = (chipset::PM1_CONTROL, 2);
const PM_TIMER: (u16, u8) = (chipset::PM_TIMER, 4);
const GPE0: (u16, u8) = (chipset::GPE0, 16);
/// CMOS byte that holds the century.
const CMOS_CENTURY: u8 = 0x32;
/// C2 and C3 latencies that say "none" (ACPI 6.5 table 5.9).
const NO_C2: u16 = 0x0fff;
const NO_C3: u16 = 0x0fff;
/// IA-PC boot flags (ACPI 6.5 5.2.9.3): legacy devices, 8042, no VGA.
const BOOT_FLAGS: u16 = 0b111;

fn port(base: u16, register: (u16, u8)) -> GAS {
    let (offset, length) = register;
    let size = if length == 2 { AccessSize::WordAccess } else { AccessSize::DwordAccess };
    GAS::new(AddressSpace::SystemIo, length * 8, 0, size, u64::from(base) + u64::from(offset))
}

/// The fixed description: the power button is the fixed one, the PM timer has 32 bits.
pub(super) fn fadt(config: &AcpiConfig) -> Vec<u8> {
    let base = config.pm_base;
    let at = |register: (u16, u8)| u32::from(base) + u32::from(register.0);
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = u16::from(SCI).into();
    fadt.smi_cmd = u32::from(SMI_COMMAND).into();
    fadt.acpi_enable = ACPI_ENABLE;
    fadt.acpi_disable = ACPI_DISABLE;
    fadt.gpe0_blk = at(GPE0).into();
    fadt.gpe0_blk_len = GPE0.1;
    fadt.x_gpe0_blk = port(base, GPE0);
    fadt.pm1a_evt_blk = at(PM1_EVENT).into();
    fadt.pm1a_cnt_blk = at(PM1_CONTROL).into();
    fadt.pm_tmr_blk = at(PM_TIMER).into();
    fadt.pm1_evt_len = PM1_EVENT.1;
    fadt.pm1_cnt_len = PM1_CONTROL.1;
    fadt.pm_tmr_len = PM_TIMER.1;
    fadt.x_pm1a_evt_blk = port(base, PM1_EVENT);
    fadt.x_pm1a_cnt_blk = port(base, PM1_CONTROL);
    fadt.x_pm_tmr_blk = port(base, PM_TIMER);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CMOS_CENTURY;
    fadt.iapc_boot_arch = BOOT_FLAGS.into();
    fadt.reset_reg =
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(RESET_CONTROL));
    fadt.reset_value = RESET_VALUE;
    encode(&fadt.finalize())
}

/// Where the FADT points: FIRMWARE_CTRL, DSDT and X_DSDT (ACPI 6.5 table 5.9). X_FIRMWARE_CTRL
/// stays zero: only one of the two may be set.
pub(super) fn fadt_pointers(facs: usize, dsdt: usize) -> [(usize, usize, usize); 3] {
    [(36, 4, facs), (40, 4, dsdt), (140, 8, dsdt)]
}

/// Interrupt controllers (ACPI 6.5 5.2.12).
pub(super) fn madt(processors: u32) -> Vec<u8> {
    /// Flags of an interrupt: active high and level (table 5.26).
    const LEVEL_HIGH: u16 = 0b1101;
    let mut madt = Sdt::new(*b"APIC", 44, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(36, u32::try_from(LOCAL_APIC.0).unwrap_or(0));
    // PCAT_COMPAT: two 8259 are there too.
    madt.write_u32(40, 1);
    for id in 0..processors {
        match u8::try_from(id).ok().filter(|id| *id != 0xff) {
            // Local APIC: UID, id, enabled.
            Some(id) => madt.append_slice(&[0, 8, id, id, 1, 0, 0, 0]),
            // Local x2APIC: id, enabled, UID. Ids from 255 on do not fit the older entry.
            None => {
                let [a, b, c, d] = id.to_le_bytes();
                madt.append_slice(&[9, 16, 0, 0, a, b, c, d, 1, 0, 0, 0, a, b, c, d]);
            }
        }
    }
    let [a, b, c, d] = u32::try_from(IOAPIC.0).unwrap_or(0).to_le_bytes();
    // IOAPIC 0 serves interrupts from 0 on.
    madt.append_slice(&[1, 12, 0, 0, a, b, c, d, 0, 0, 0, 0]);
    // The timer's ISA interrupt 0 comes in on pin 2 (ICH9 table 5-15).
    madt.append_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    let [low, high] = LEVEL_HIGH.to_le_bytes();
    madt.append_slice(&[2, 10, 0, SCI, SCI, 0, 0, 0, low, high]);
    // LINT1 of every processor is NMI.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    if processors > 0xff {
        madt.append_slice(&[10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    madt.as_slice().to_vec()
}

/// Windows ACPI Emulated Devices Table: the PM timer needs one read only (bit 1).
pub(super) fn waet() -> Vec<u8> {
    let mut waet = Sdt::new(*b"WAET", 40, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    waet.write_u32(36, 1 << 1);
    waet.as_slice().to_vec()
}
