//! What firmware is told about the machine, through fw_cfg.

use super::motherboard::part;
use crate::MachineError;
use firmware::{AcpiConfig, Basics, FwCfg, GuestDma, Items, SmbiosConfig, add_smbios};
use layout::{MemoryMap, Range};
use pci::{Owner, Region};
use std::sync::Arc;
use units::{Bytes, GuestPhysical};

/// Makes the device. ACPI tables describe the windows as firmware has programmed them by the time
/// it reads the tables.
///
/// # Errors
/// More files than the device holds.
pub(super) fn fw_cfg(
    smbios: &SmbiosConfig,
    map: &MemoryMap,
    boot_order: &[String],
    agent_token: Option<&str>,
    memory: virtio::GuestMemory,
    pci: &Arc<pci::Bus>,
) -> Result<FwCfg, MachineError> {
    let failed = |e: firmware::FileError| part("fw_cfg")(&e);
    let mut items = Items::new(&Basics {
        uuid: smbios.uuid,
        ram: map.ram_size().0,
        processors: u16::try_from(smbios.processors).unwrap_or(u16::MAX),
    });
    items.add_ram(map).map_err(failed)?;
    add_smbios(&mut items, smbios).map_err(failed)?;
    if !boot_order.is_empty() {
        items.add_boot_order(boot_order).map_err(failed)?;
    }
    if let Some(token) = agent_token {
        items.add_file(vm_control::AGENT_TOKEN_FILE, token.as_bytes().to_vec()).map_err(failed)?;
    }
    let (pci, map, processors) = (Arc::clone(pci), map.clone(), smbios.processors);
    let source = move || {
        let regions = pci.regions();
        let find = |owner| regions.iter().find(|region| region.owner == owner);
        let power = find(Owner::PowerManagement).and_then(|r| u16::try_from(r.base).ok());
        AcpiConfig {
            processors,
            map: map.clone(),
            ecam: find(Owner::Ecam).map(range),
            pm_base: power.unwrap_or(layout::PM_BASE),
            virtio: Vec::new(),
        }
    };
    FwCfg::with_acpi(items, Box::new(GuestDma(memory)), Box::new(source)).map_err(failed)
}

fn range(region: &Region) -> Range {
    Range { base: GuestPhysical(region.base), size: Bytes(region.size) }
}
