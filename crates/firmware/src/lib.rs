//! What firmware and guests read about the machine: ACPI, SMBIOS, fw_cfg, flash.
