//! Where a guest's disk comes from.

use super::{Maker, StartError};
use crate::manifest::{DiskSource, GuestDefinition};
use crate::virtio::{MemoryDisk, Storage};
use alloc::boxed::Box;

impl Maker<'_> {
    /// Its disk, if it is to have one.
    pub(super) fn storage(
        &mut self,
        definition: &GuestDefinition,
    ) -> Result<Option<Box<dyn Storage>>, StartError> {
        Ok(match &definition.disk {
            Some(DiskSource::File(name)) => {
                let contents = self.file(definition, "disk", name)?;
                Some(Box::new(self.memory_disk(definition, name, contents)?))
            }
            Some(DiskSource::Machine) => {
                let disk = self.means.disk.take();
                Some(disk.ok_or_else(|| StartError::NoDisk { guest: definition.name.clone() })?)
            }
            None => None,
        })
    }

    /// A disk of which the guest may write every byte.
    fn memory_disk(
        &mut self,
        definition: &GuestDefinition,
        name: &str,
        contents: &'static [u8],
    ) -> Result<MemoryDisk, StartError> {
        let disk = MemoryDisk::new(contents);
        let left = self.means.disk_memory;
        self.means.disk_memory =
            left.checked_sub(disk.size()).ok_or_else(|| StartError::DiskMemory {
                guest: definition.name.clone(),
                file: name.into(),
                size: disk.size() >> 20,
                left: left >> 20,
            })?;
        Ok(disk)
    }
}
