//! What the machine starts, and how that is put in place at power-on and after each reset.

use crate::MachineError;
use definition::Boot;
use layout::MemoryMap;
use loader::{Loaded, Request};
use std::fs::File;
use std::path::Path;
use units::GuestPhysical;
use vm_memory::GuestMemoryMmap;

/// A kernel, opened once: after the sandbox is closed its path is out of reach.
pub(super) struct Kernel {
    kernel: File,
    kernel_name: String,
    initrd: Option<File>,
    initrd_name: String,
    append: String,
}

fn open(what: &'static str, path: &Path) -> Result<File, MachineError> {
    File::open(path).map_err(|e| MachineError::file(what, path, e))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Kernel {
    /// Opens what `boot` names; `None` when it names no kernel.
    pub(super) fn open(boot: &Boot) -> Result<Option<Self>, MachineError> {
        let Some(path) = &boot.kernel else {
            return Ok(None);
        };
        let initrd =
            boot.initrd.as_deref().map(|path| open("cannot open initrd", path)).transpose()?;
        Ok(Some(Self {
            kernel: open("cannot open kernel", path)?,
            kernel_name: file_name(path),
            initrd,
            initrd_name: boot.initrd.as_deref().map(file_name).unwrap_or_default(),
            append: boot.append.clone().unwrap_or_default(),
        }))
    }

    /// Puts it into guest memory; says how the first processor starts.
    pub(super) fn load(
        &mut self,
        memory: &GuestMemoryMmap,
        map: &MemoryMap,
        rsdp: GuestPhysical,
    ) -> Result<Loaded, MachineError> {
        let request = Request {
            kernel: &mut self.kernel,
            kernel_name: &self.kernel_name,
            initrd: self.initrd.as_mut(),
            initrd_name: &self.initrd_name,
            command_line: &self.append,
            rsdp: Some(rsdp),
        };
        let loaded = loader::load(memory, map, request)
            .map_err(|e| MachineError::Part { part: "kernel", reason: e.to_string() })?;
        tracing::info!(kernel = %self.kernel_name, kind = ?loaded.kind, "loaded");
        Ok(loaded)
    }
}
