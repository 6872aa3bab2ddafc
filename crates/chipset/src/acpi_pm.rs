//! The power management block of an ICH9 (ICH9 13.8, ACPI 6.5 4.8): PM1 events and control with the
//! power button, the PM timer, GPE0, the SMI command port, and the reset control port 0xcf9.
//!
//! Deviations: there is no system management mode, so the SMI command port switches ACPI mode by
//! itself and SMI enables are plain storage; sleep states other than soft-off are ignored; the TCO
//! watchdog reads as zero.

use crate::device::{Device, Line, PortDevice, PortRange, Timed, read_bytes, write_bytes};
use crate::event::{MachineEvent, MachineEvents};
use crate::state::{SaveRestore, Saved, StateError, check_version};
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

/// Where firmware for this kind of machine puts the block (PMBASE), and where it is until then.
pub const PM_BASE: u16 = 0x600;
/// Offset of the PM1a event block (4 bytes) from PMBASE.
pub const PM1_EVENT: u16 = 0x00;
/// Offset of the PM1a control block (2 bytes).
pub const PM1_CONTROL: u16 = 0x04;
/// Offset of the PM timer (4 bytes).
pub const PM_TIMER: u16 = 0x08;
/// Offset of the GPE0 block (16 bytes: 8 of status, 8 of enable).
pub const GPE0: u16 = 0x20;
/// The SMI command port.
pub const SMI_COMMAND: u16 = 0xb2;
/// Written to [`SMI_COMMAND`] to take ACPI mode.
pub const ACPI_ENABLE: u8 = 0x02;
/// Written to [`SMI_COMMAND`] to leave ACPI mode.
pub const ACPI_DISABLE: u8 = 0x03;
/// The SLP_TYP of soft-off that ACPI tables should name (ICH9 13.8.3.3). OVMF powers off with type 0,
/// which is therefore soft-off too.
pub const SLEEP_TYPE_SOFT_OFF: u8 = 7;
/// The PM timer's frequency in hertz (ACPI 6.5 4.8.3.3).
pub const PM_TIMER_FREQUENCY: u64 = 3_579_545;
/// The reset control port (ICH9 13.7.5).
pub const RESET_CONTROL: u16 = 0xcf9;
/// Written to [`RESET_CONTROL`] to reset: CPU and system reset.
pub const RESET_VALUE: u8 = 0x06;

/// Bytes of the block (ICH9 13.1.13).
const BLOCK: u16 = 128;
const SMI_ENABLE: u16 = 0x30;
const SMI_STATUS: u16 = 0x34;

// PM1 status and enable (ICH9 13.8.3.1, 13.8.3.2).
const PM1_TIMER: u16 = 1 << 0;
const PM1_GLOBAL: u16 = 1 << 5;
const PM1_POWER_BUTTON: u16 = 1 << 8;
const PM1_RTC: u16 = 1 << 10;
const PM1_PCIE_WAKE: u16 = 1 << 14;
const PM1_ENABLES: u16 = PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_RTC;
// PM1 control (ICH9 13.8.3.3).
const CONTROL_SCI: u16 = 1 << 0;
const CONTROL_BUS_MASTER: u16 = 1 << 1;
const CONTROL_SLEEP_TYPE: u16 = 7 << 10;
const CONTROL_SLEEP: u16 = 1 << 13;
/// Reset control: a reset of the processors happens (ICH9 13.7.5, bit 2).
const RESET_CPU: u8 = 0x04;

const NANOSECONDS: u128 = 1_000_000_000;

/// How wide the PM timer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmTimerWidth {
    /// 24 bits, as in hardware.
    Bits24,
    /// 32 bits; the FADT must say so (TMR_VAL_EXT).
    Bits32,
}

/// Saved registers of an [`AcpiPm`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPmRegisters {
    base: Option<u16>,
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    smi_enable: u32,
    smi_command: u8,
    smi_data: u8,
    reset_control: u8,
    /// Toggles of the timer's top bit that have been reported.
    seen_toggles: u64,
    now: u64,
}

/// The power management block.
pub struct AcpiPm {
    registers: AcpiPmRegisters,
    /// The fixed ports, then the block where it is now.
    ranges: [PortRange; 3],
    width: PmTimerWidth,
    sci: Arc<dyn Line>,
    events: Arc<dyn MachineEvents>,
}

impl AcpiPm {
    /// A block at [`PM_BASE`] whose system control interrupt drives `sci` (ISA IRQ 9, level).
    #[must_use]
    pub fn new(width: PmTimerWidth, sci: Arc<dyn Line>, events: Arc<dyn MachineEvents>) -> Self {
        Self {
            registers: Self::power_on(0),
            ranges: [
                PortRange::new(SMI_COMMAND, 2),
                PortRange::new(RESET_CONTROL, 1),
                PortRange::new(PM_BASE, BLOCK),
            ],
            width,
            sci,
            events,
        }
    }

    const fn power_on(now: u64) -> AcpiPmRegisters {
        AcpiPmRegisters {
            base: Some(PM_BASE),
            pm1_status: 0,
            pm1_enable: 0,
            pm1_control: 0,
            gpe_status: 0,
            gpe_enable: 0,
            smi_enable: 0,
            smi_command: 0,
            smi_data: 0,
            reset_control: 0,
            seen_toggles: 0,
            now,
        }
    }

    /// Moves the block (the chipset's PMBASE register), or takes it off the bus. The low seven bits
    /// do not count. Its [`PortDevice::ranges`] change.
    pub fn set_base(&mut self, base: Option<u16>) {
        self.registers.base = base.map(|base| base & !(BLOCK - 1));
        if let Some(base) = self.registers.base {
            self.ranges[2] = PortRange::new(base, BLOCK);
        }
    }

    /// Puts the machine into ACPI mode, as firmware would have; for kernels booted without any.
    pub fn enable_acpi(&mut self) {
        self.registers.pm1_control |= CONTROL_SCI;
        self.drive();
    }

    /// Presses the power button once. A guest in ACPI mode that listens gets an interrupt; the
    /// answer says whether one does.
    pub fn press_power_button(&mut self) -> bool {
        self.registers.pm1_status |= PM1_POWER_BUTTON;
        self.drive();
        self.registers.pm1_control & CONTROL_SCI != 0
            && self.registers.pm1_enable & PM1_POWER_BUTTON != 0
    }

    /// Raises general-purpose event `number`, 0 to 63.
    pub fn raise_gpe(&mut self, number: u8) {
        self.registers.gpe_status |= 1u64.checked_shl(u32::from(number)).unwrap_or(0);
        self.drive();
    }

    fn timer_ticks(&self) -> u128 {
        u128::from(self.registers.now) * u128::from(PM_TIMER_FREQUENCY) / NANOSECONDS
    }

    /// Ticks between toggles of the timer's top bit, as a power of two.
    const fn top_bit(&self) -> u32 {
        match self.width {
            PmTimerWidth::Bits24 => 23,
            PmTimerWidth::Bits32 => 31,
        }
    }

    fn timer(&self) -> u32 {
        let mask = (1u128 << (self.top_bit() + 1)) - 1;
        (self.timer_ticks() & mask) as u32
    }

    fn toggles(&self) -> u64 {
        (self.timer_ticks() >> self.top_bit()) as u64
    }

    fn drive(&self) {
        let registers = &self.registers;
        let pm1 = registers.pm1_status & registers.pm1_enable & PM1_ENABLES != 0;
        let gpe = registers.gpe_status & registers.gpe_enable != 0;
        self.sci.set(registers.pm1_control & CONTROL_SCI != 0 && (pm1 || gpe));
    }

    fn read_block(&self, offset: u16) -> u8 {
        let registers = &self.registers;
        let byte = |value: u64, first: u16| {
            let bytes = value.to_le_bytes();
            bytes.get(usize::from(offset.wrapping_sub(first))).copied().unwrap_or(0)
        };
        match offset {
            0x00..=0x01 => byte(registers.pm1_status.into(), 0x00),
            0x02..=0x03 => byte(registers.pm1_enable.into(), 0x02),
            0x04..=0x07 => byte(registers.pm1_control.into(), PM1_CONTROL),
            0x08..=0x0b => byte(self.timer().into(), PM_TIMER),
            0x20..=0x27 => byte(registers.gpe_status, GPE0),
            0x28..=0x2f => byte(registers.gpe_enable, GPE0 + 8),
            0x30..=0x33 => byte(registers.smi_enable.into(), SMI_ENABLE),
            SMI_STATUS..=0x37 => 0,
            // Registers of the block that do nothing here read as zero.
            _ => 0,
        }
    }

    fn write_block(&mut self, offset: u16, value: u8) {
        let registers = &mut self.registers;
        let high = offset & 1 != 0;
        let word = if high { u16::from(value) << 8 } else { u16::from(value) };
        let kept = if high { 0x00ff } else { 0xff00 };
        match offset {
            0x00..=0x01 => registers.pm1_status &= !word,
            0x02..=0x03 => {
                let enable = registers.pm1_enable & kept | word;
                registers.pm1_enable = enable & (PM1_ENABLES | PM1_PCIE_WAKE);
            }
            0x04..=0x05 => {
                let control = registers.pm1_control & kept | word;
                registers.pm1_control =
                    control & (CONTROL_SCI | CONTROL_BUS_MASTER | CONTROL_SLEEP_TYPE);
                if control & CONTROL_SLEEP != 0 {
                    self.sleep();
                }
            }
            0x20..=0x27 => {
                registers.gpe_status &= !(u64::from(value) << (8 * (offset - GPE0)));
            }
            0x28..=0x2f => {
                let shift = 8 * (offset - GPE0 - 8);
                registers.gpe_enable =
                    registers.gpe_enable & !(0xff << shift) | u64::from(value) << shift;
            }
            0x30..=0x33 => {
                let shift = 8 * (offset - SMI_ENABLE);
                registers.smi_enable =
                    registers.smi_enable & !(0xff << shift) | u32::from(value) << shift;
            }
            _ => {}
        }
        self.drive();
    }

    fn sleep(&self) {
        let kind = (self.registers.pm1_control & CONTROL_SLEEP_TYPE) >> 10;
        if kind == 0 || kind == u16::from(SLEEP_TYPE_SOFT_OFF) {
            self.events.raise(MachineEvent::PowerOff);
        }
    }

    fn write_smi_command(&mut self, value: u8) {
        self.registers.smi_command = value;
        match value {
            ACPI_ENABLE => self.registers.pm1_control |= CONTROL_SCI,
            ACPI_DISABLE => self.registers.pm1_control &= !CONTROL_SCI,
            _ => {}
        }
        self.drive();
    }

    fn block_offset(&self, port: u16) -> Option<u16> {
        let offset = port.wrapping_sub(self.registers.base?);
        (offset < BLOCK).then_some(offset)
    }
}

impl Device for AcpiPm {
    fn name(&self) -> &'static str {
        "acpi-pm"
    }

    fn reset(&mut self) {
        let seen_toggles = self.toggles();
        self.registers = AcpiPmRegisters { seen_toggles, ..Self::power_on(self.registers.now) };
        self.set_base(Some(PM_BASE));
        self.drive();
    }

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }

    fn timed(&mut self) -> Option<&mut dyn Timed> {
        Some(self)
    }
}

impl PortDevice for AcpiPm {
    fn ranges(&self) -> &[PortRange] {
        let [fixed @ .., _] = &self.ranges;
        if self.registers.base.is_some() { &self.ranges } else { fixed }
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| match (port, self.block_offset(port)) {
            (SMI_COMMAND, _) => self.registers.smi_command,
            (0xb3, _) => self.registers.smi_data,
            (RESET_CONTROL, _) => self.registers.reset_control,
            (_, Some(offset)) => self.read_block(offset),
            _ => 0xff,
        });
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| match (port, self.block_offset(port)) {
            (SMI_COMMAND, _) => self.write_smi_command(value),
            (0xb3, _) => self.registers.smi_data = value,
            (RESET_CONTROL, _) => {
                self.registers.reset_control = value & !RESET_CPU;
                if value & RESET_CPU != 0 {
                    self.events.raise(MachineEvent::Reset);
                }
            }
            (_, Some(offset)) => self.write_block(offset, value),
            _ => {}
        });
    }
}

impl Timed for AcpiPm {
    fn advance(&mut self, now: u64) {
        self.registers.now = now.max(self.registers.now);
        let toggles = self.toggles();
        if toggles != self.registers.seen_toggles {
            self.registers.seen_toggles = toggles;
            self.registers.pm1_status |= PM1_TIMER;
            self.drive();
        }
    }

    fn deadline(&self) -> Option<u64> {
        let awaited = self.registers.pm1_enable & !self.registers.pm1_status & PM1_TIMER != 0;
        awaited
            .then(|| {
                let ticks = (u128::from(self.registers.seen_toggles) + 1) << self.top_bit();
                let due = (ticks * NANOSECONDS).div_ceil(u128::from(PM_TIMER_FREQUENCY));
                u64::try_from(due).ok()
            })
            .flatten()
    }
}

impl SaveRestore for AcpiPm {
    type Registers = AcpiPmRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<AcpiPmRegisters> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<AcpiPmRegisters>) -> Result<(), StateError> {
        check_version("acpi-pm", &saved, Self::VERSION)?;
        let base = saved.registers.base;
        self.registers = saved.registers;
        self.set_base(base);
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_wires::{TestEvents, TestLine};

    struct Bench {
        pm: AcpiPm,
        sci: Arc<TestLine>,
        events: Arc<TestEvents>,
    }

    impl Bench {
        fn new(width: PmTimerWidth) -> Self {
            let (sci, events) = (TestLine::new(), TestEvents::new());
            Self { pm: AcpiPm::new(width, sci.clone(), events.clone()), sci, events }
        }

        fn read(&mut self, offset: u16) -> u32 {
            let mut bytes = [0; 4];
            self.pm.read(PM_BASE + offset, &mut bytes);
            u32::from_le_bytes(bytes)
        }

        fn write(&mut self, offset: u16, value: u16) {
            self.pm.write(PM_BASE + offset, &value.to_le_bytes());
        }
    }

    #[test]
    fn the_power_button_interrupts_a_guest_that_listens_until_it_clears_the_status() {
        let mut bench = Bench::new(PmTimerWidth::Bits24);
        assert!(!bench.pm.press_power_button());
        assert!(!bench.sci.is_high());
        bench.write(0x00, 0xffff);
        bench.pm.write(SMI_COMMAND, &[ACPI_ENABLE]);
        assert_eq!(bench.read(PM1_CONTROL) & 1, 1);
        bench.write(0x02, PM1_POWER_BUTTON);
        assert!(bench.pm.press_power_button());
        assert!(bench.sci.is_high());
        assert_eq!(bench.read(0x00) & 0xffff, u32::from(PM1_POWER_BUTTON));
        bench.write(0x00, PM1_POWER_BUTTON);
        assert!(!bench.sci.is_high());
    }

    #[test]
    fn soft_off_takes_type_7_and_ovmfs_type_0_and_no_other() {
        let mut bench = Bench::new(PmTimerWidth::Bits24);
        for kind in 0..8u16 {
            bench.write(PM1_CONTROL, kind << 10);
            assert_eq!(bench.events.taken(), [], "the type alone does nothing");
            bench.write(PM1_CONTROL, kind << 10 | CONTROL_SLEEP);
            let off = kind == 0 || kind == 7;
            assert_eq!(bench.events.taken().len(), usize::from(off), "type {kind}");
        }
        assert_eq!(bench.read(PM1_CONTROL) & u32::from(CONTROL_SLEEP), 0, "write-only");
    }

    #[test]
    fn the_timer_runs_at_its_frequency_in_its_width() {
        for (width, mask) in
            [(PmTimerWidth::Bits24, 0xff_ffff), (PmTimerWidth::Bits32, 0xffff_ffff)]
        {
            let mut bench = Bench::new(width);
            bench.pm.advance(1_000_000_000);
            assert_eq!(bench.read(PM_TIMER), 3_579_545);
            bench.pm.advance(10_000_000_000);
            assert_eq!(bench.read(PM_TIMER), 35_795_450 & mask);
        }
    }

    #[test]
    fn the_timer_interrupts_when_its_top_bit_changes() {
        let mut bench = Bench::new(PmTimerWidth::Bits24);
        bench.pm.enable_acpi();
        assert_eq!(bench.pm.deadline(), None);
        bench.write(0x02, PM1_TIMER);
        let due = bench.pm.deadline().unwrap();
        bench.pm.advance(due - 1);
        assert!(!bench.sci.is_high());
        bench.pm.advance(due);
        assert!(bench.sci.is_high());
        assert_eq!(bench.read(PM_TIMER), 1 << 23);
        bench.write(0x00, PM1_TIMER);
        assert!(!bench.sci.is_high());
        assert!(bench.pm.deadline().unwrap() > due);
    }

    #[test]
    fn general_purpose_events_interrupt_when_enabled() {
        let mut bench = Bench::new(PmTimerWidth::Bits24);
        bench.pm.enable_acpi();
        bench.pm.raise_gpe(9);
        bench.pm.raise_gpe(200);
        assert!(!bench.sci.is_high());
        bench.pm.write(PM_BASE + GPE0 + 9, &[0x02]);
        assert!(bench.sci.is_high());
        bench.pm.write(PM_BASE + GPE0 + 1, &[0x02]);
        assert!(!bench.sci.is_high());
    }

    #[test]
    fn the_reset_port_resets_once_per_request() {
        let mut bench = Bench::new(PmTimerWidth::Bits24);
        bench.pm.write(RESET_CONTROL, &[0x02]);
        assert_eq!(bench.events.taken(), []);
        bench.pm.write(RESET_CONTROL, &[RESET_VALUE]);
        assert_eq!(bench.events.taken(), [MachineEvent::Reset]);
    }

    #[test]
    fn the_block_moves_with_its_base() {
        let mut bench = Bench::new(PmTimerWidth::Bits24);
        bench.pm.set_base(Some(0xb044));
        assert_eq!(bench.pm.ranges()[2], PortRange::new(0xb000, 128));
        bench.pm.write(0xb002, &PM1_TIMER.to_le_bytes());
        let mut bytes = [0; 2];
        bench.pm.read(0xb002, &mut bytes);
        assert_eq!(u16::from_le_bytes(bytes), PM1_TIMER);
        bench.pm.read(PM_BASE + 2, &mut bytes);
        assert_eq!(bytes, [0xff, 0xff], "nobody is there any more");
        bench.pm.set_base(None);
        assert_eq!(bench.pm.ranges().len(), 2);
    }
}
