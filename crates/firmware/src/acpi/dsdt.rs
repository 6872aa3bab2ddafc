//! The differentiated system description: what the machine has that cannot be probed.

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, VirtioRegisters};
use acpi_tables::Aml;
use acpi_tables::aml::{
    self, AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed,
    Method, Name, Package, PackageBuilder, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use layout::{FW_CFG, PCI_PORTS, Range};

/// Interrupts of PCI lines A to H on the IOAPIC (ICH9 table 5-15).
const FIRST_PCI_INTERRUPT: u32 = 16;
const PCI_LINES: u32 = 8;
/// Ports of the power management block.
const PM_PORTS: u8 = 128;
/// Device status: present, enabled, shown, working (ACPI 6.5 6.3.7).
const STATUS_PRESENT: u8 = 0x0f;

pub(super) fn build(config: &AcpiConfig) -> Vec<u8> {
    let mut code = Vec::new();
    system_bus(config).iter().for_each(|device| code.extend_from_slice(device));
    let code = Scope::raw(Path::new("\\_SB_"), code);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&code);
    // Soft off: the sleep types for PM1a and PM1b, two reserved.
    let (kind, none) = (chipset::SLEEP_TYPE_SOFT_OFF, aml::ZERO);
    let s5 = Package::new(vec![&kind, &kind, &none, &none]);
    dsdt.append_slice(&encode(&Name::new(Path::new("_S5_"), &s5)));
    dsdt.as_slice().to_vec()
}

fn encode(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

fn system_bus(config: &AcpiConfig) -> Vec<Vec<u8>> {
    let mut devices = vec![host_bridge(config), motherboard(config), fw_cfg()];
    devices.extend((0..config.processors).map(processor));
    devices.extend((0u32..).zip(&config.virtio).map(|(n, at)| virtio(n, at)));
    devices
}

/// An integer in its shortest encoding.
struct Integer(u64);

impl Aml for Integer {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        if let Ok(byte) = u8::try_from(self.0) {
            byte.to_aml_bytes(sink);
        } else if let Ok(word) = u16::try_from(self.0) {
            word.to_aml_bytes(sink);
        } else if let Ok(double) = u32::try_from(self.0) {
            double.to_aml_bytes(sink);
        } else {
            self.0.to_aml_bytes(sink);
        }
    }
}

fn host_bridge(config: &AcpiConfig) -> Vec<u8> {
    let express = EISAName::new("PNP0A08");
    let conventional = EISAName::new("PNP0A03");
    let hid = Name::new(Path::new("_HID"), &express);
    let cid = Name::new(Path::new("_CID"), &conventional);
    let zero = aml::ZERO;
    let uid = Name::new(Path::new("_UID"), &zero);
    let segment = Name::new(Path::new("_SEG"), &zero);
    let base_bus = Name::new(Path::new("_BBN"), &zero);
    let resources = host_resources(config);
    let routes = interrupt_routes();
    let control = operating_system_control();
    let bridge = isa_bridge();
    let children: Vec<&dyn Aml> =
        vec![&hid, &cid, &uid, &segment, &base_bus, &resources, &routes, &control, &bridge];
    encode(&Device::new(Path::new("PCI0"), children))
}

/// AML already encoded.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// What the bridge forwards (`_CRS`).
fn host_resources(config: &AcpiConfig) -> Raw {
    let last_bus = config.ecam.map_or(255, |ecam| (ecam.size.0 >> 20).clamp(1, 256) - 1);
    let buses = AddressSpace::new_bus_number(0u16, u16::try_from(last_bus).unwrap_or(255));
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::new_io(0u16, 0xcf7, None);
    let ports = AddressSpace::new_io(PCI_PORTS.0, PCI_PORTS.1, None);
    let between = |range: &Range| (range.base.0, range.end().0 - 1);
    let low: Vec<AddressSpace<u32>> = config
        .map
        .pci_low(config.ecam)
        .iter()
        .map(between)
        .filter_map(|(first, last)| Some((u32::try_from(first).ok()?, u32::try_from(last).ok()?)))
        .map(|(first, last)| {
            AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
        })
        .collect();
    let (first, last) = between(&config.map.pci_high());
    let high: AddressSpace<u64> =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None);
    let mut resources: Vec<&dyn Aml> = vec![&buses, &config_ports, &low_ports, &ports];
    resources.extend(low.iter().map(|window| window as &dyn Aml));
    resources.push(&high);
    let template = ResourceTemplate::new(resources);
    Raw(encode(&Name::new(Path::new("_CRS"), &template)))
}

/// Which interrupt each device's pins A to D would use (`_PRT`), wired straight to the IOAPIC:
/// pin `p` of device `d` is line `(d + p) mod 8`.
fn interrupt_routes() -> Raw {
    let mut table = PackageBuilder::new();
    for device in 0..32u32 {
        for pin in 0..4u32 {
            let address = Integer(u64::from(device << 16 | 0xffff));
            let pin_number = Integer(pin.into());
            let interrupt = Integer((FIRST_PCI_INTERRUPT + (device + pin) % PCI_LINES).into());
            let zero = aml::ZERO;
            let entry = Package::new(vec![&address, &pin_number, &zero, &interrupt]);
            table.add_element(&entry);
        }
    }
    Raw(encode(&Name::new(Path::new("_PRT"), &table)))
}

/// `_OSC` for PCI Express (PCI Firmware 3.3, 4.5.1): the operating system may control the PCI
/// Express capability structures; there is no native hot plug, PME or error reporting to control.
fn operating_system_control() -> Raw {
    use aml::{
        And, Arg, CreateDWordField, Else, Equal, If, Local, NotEqual, Or, Return, Store, Uuid,
    };
    const CAPABILITY_STRUCTURE: u8 = 1 << 4;
    const UNKNOWN_UUID: u8 = 1 << 2;
    const UNKNOWN_REVISION: u8 = 1 << 3;
    const MASKED: u8 = 1 << 4;
    let (status_name, control_name) = (Path::new("CDW1"), Path::new("CDW3"));
    let status_field = CreateDWordField::new(&status_name, &Arg(3), &0u8);
    let control_field = CreateDWordField::new(&control_name, &Arg(3), &8u8);
    let express = Uuid::new("33DB4D5B-1FF7-401C-9657-7441C03DD766");
    let is_express = Equal::new(&Arg(0), &express);
    let granted = And::new(&Local(0), &control_name, &CAPABILITY_STRUCTURE);
    let other_revision = NotEqual::new(&Arg(1), &1u8);
    let set = |bit: &'static u8| Raw(encode(&Or::new(&Path::new("CDW1"), &Path::new("CDW1"), bit)));
    let (bad_revision, masked, bad_uuid) =
        (set(&UNKNOWN_REVISION), set(&MASKED), set(&UNKNOWN_UUID));
    let if_revision = If::new(&other_revision, vec![&bad_revision]);
    let fewer = NotEqual::new(&control_name, &Local(0));
    let if_fewer = If::new(&fewer, vec![&masked]);
    let answer = Store::new(&control_name, &Local(0));
    let if_express =
        If::new(&is_express, vec![&control_field, &granted, &if_revision, &if_fewer, &answer]);
    let otherwise = Else::new(vec![&bad_uuid]);
    let give = Return::new(&Arg(3));
    let body: Vec<&dyn Aml> = vec![&status_field, &if_express, &otherwise, &give];
    Raw(encode(&Method::new(Path::new("_OSC"), 4, false, body)))
}

/// The LPC bridge with the legacy devices behind it.
fn isa_bridge() -> Raw {
    let address = Integer(31 << 16);
    let address = Name::new(Path::new("_ADR"), &address);
    let serial = legacy("COM1", "PNP0501", &[(0x3f8, 8)], Some(4));
    let clock = legacy("RTC_", "PNP0B00", &[(0x70, 2)], Some(8));
    let keyboard = legacy("KBD_", "PNP0303", &[(0x60, 1), (0x64, 1)], Some(1));
    let mouse = legacy("MOU_", "PNP0F13", &[], Some(12));
    Raw(encode(&Device::new(Path::new("ISA_"), vec![&address, &serial, &clock, &keyboard, &mouse])))
}

fn legacy(name: &str, id: &str, ports: &[(u16, u8)], interrupt: Option<u32>) -> Raw {
    let id = EISAName::new(id);
    let hid = Name::new(Path::new("_HID"), &id);
    let unique = Name::new(Path::new("_UID"), &aml::ZERO);
    let status = Name::new(Path::new("_STA"), &STATUS_PRESENT);
    let ports: Vec<IO> =
        ports.iter().map(|(port, count)| IO::new(*port, *port, 1, *count)).collect();
    // ISA interrupts are edge-triggered, active high, not shared.
    let interrupt = interrupt.map(|number| Interrupt::new(true, true, false, false, number));
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    resources.extend(interrupt.iter().map(|line| line as &dyn Aml));
    let template = ResourceTemplate::new(resources);
    let resources = Name::new(Path::new("_CRS"), &template);
    Raw(encode(&Device::new(Path::new(name), vec![&hid, &unique, &status, &resources])))
}

/// Addresses that belong to the board and to no device: the configuration window, without which
/// Linux does not trust MCFG, and the power management block.
fn motherboard(config: &AcpiConfig) -> Vec<u8> {
    let id = EISAName::new("PNP0C02");
    let hid = Name::new(Path::new("_HID"), &id);
    let unique = Name::new(Path::new("_UID"), &aml::ZERO);
    let window = config.ecam.and_then(|ecam| {
        let (base, size) = (u32::try_from(ecam.base.0).ok()?, u32::try_from(ecam.size.0).ok()?);
        Some(Memory32Fixed::new(true, base, size))
    });
    let power = IO::new(config.pm_base, config.pm_base, 1, PM_PORTS);
    let mut resources: Vec<&dyn Aml> = vec![&power];
    resources.extend(window.iter().map(|window| window as &dyn Aml));
    let template = ResourceTemplate::new(resources);
    let resources = Name::new(Path::new("_CRS"), &template);
    encode(&Device::new(Path::new("MBRD"), vec![&hid, &unique, &resources]))
}

/// The firmware configuration device (QEMU docs/specs/fw_cfg: QEMU0002).
fn fw_cfg() -> Vec<u8> {
    let hid = Name::new(Path::new("_HID"), &"QEMU0002");
    let status = Name::new(Path::new("_STA"), &STATUS_PRESENT);
    let ports = IO::new(FW_CFG, FW_CFG, 1, 12);
    let template = ResourceTemplate::new(vec![&ports]);
    let resources = Name::new(Path::new("_CRS"), &template);
    encode(&Device::new(Path::new("FWCF"), vec![&hid, &status, &resources]))
}

/// Virtio device `number` (Linux drivers/virtio/virtio_mmio.c: LNRO0005).
fn virtio(number: u32, at: &VirtioRegisters) -> Vec<u8> {
    let name = format!("VR{:02X}", number & 0xff);
    let hid = Name::new(Path::new("_HID"), &"LNRO0005");
    let number = Integer(number.into());
    let unique = Name::new(Path::new("_UID"), &number);
    let (base, size) = (at.range.base.0, at.range.size.0);
    let registers = Memory32Fixed::new(
        true,
        u32::try_from(base).unwrap_or(0),
        u32::try_from(size).unwrap_or(0),
    );
    // Level-triggered, active high, not shared.
    let interrupt = Interrupt::new(true, false, false, false, at.interrupt);
    let template = ResourceTemplate::new(vec![&registers, &interrupt]);
    let resources = Name::new(Path::new("_CRS"), &template);
    encode(&Device::new(Path::new(&name), vec![&hid, &unique, &resources]))
}

/// Processor `id`, which the MADT lists under the same unique id.
fn processor(id: u32) -> Vec<u8> {
    let name = format!("C{id:03X}");
    let hid = Name::new(Path::new("_HID"), &"ACPI0007");
    let number = Integer(id.into());
    let unique = Name::new(Path::new("_UID"), &number);
    encode(&Device::new(Path::new(&name), vec![&hid, &unique]))
}
