//! Solo5 unikernels: recognized by their note, put into memory, given a tender.

use super::{Maker, StartError};
use crate::GuestRam;
use crate::guest::{Made, Screen};
use crate::hvt::{Card, Disk, Hvt, HvtError, Text, Time};
use crate::manifest::GuestDefinition;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use loader::EntryPoint;
use solo5::{Block, Boot, Devices, Net, Start, Tender, Unikernel};
use units::Bytes;

/// RAM in one piece ends here at the latest (crate `layout`).
const MOST_MEMORY: u64 = layout::LOW_RAM_MOST.0 >> 20;

impl Maker<'_> {
    /// Puts the unikernel `file` into memory and gives `made` its tender; says how it starts.
    pub(super) fn unikernel(
        &mut self,
        definition: &GuestDefinition,
        file: &[u8],
        ram: GuestRam,
        made: &mut Made,
    ) -> Result<EntryPoint, StartError> {
        let refused = |error| StartError::Unikernel {
            guest: definition.name.clone(),
            kernel: definition.kernel.clone(),
            error,
        };
        check(definition).map_err(refused)?;
        let unikernel = Unikernel::read(file).map_err(|error| refused(error.into()))?;
        let block = |storage| Box::new(Disk(storage)) as Box<dyn Block>;
        let blocks = self.storage(definition)?.map(block).into_iter().collect();
        let mut nets: Vec<Box<dyn Net>> = Vec::new();
        if definition.net {
            let wakes = Arc::clone(&made.wakes);
            let port = self.means.switch.join(move || wakes.wake(1));
            nets.push(Box::new(Card(port)));
        }
        let clock = self.means.clock;
        let boot = Boot {
            memory: Bytes::mib(definition.memory),
            command_line: &definition.append,
            tsc_hertz: clock.hertz(),
        };
        let place = || -> Result<_, HvtError> {
            let devices = Devices::attach(&unikernel.manifest, blocks, nets)?;
            let start = Start::place(&ram, &unikernel, &devices, boot)?;
            Ok((devices, start))
        };
        let (devices, Start { registers, system }) = place().map_err(refused)?;
        let console = Arc::clone(&self.means.console);
        let text = Text(Screen::new(console, made.source, self.means.now));
        let time = Time { machine: self.means.machine, clock, wall_clock: self.means.wall_clock };
        let tender = Tender::new(devices, Box::new(text), Box::new(time));
        made.hvt = Some(Hvt::new(tender, ram, clock));
        Ok(EntryPoint::State { registers, system })
    }
}

fn check(definition: &GuestDefinition) -> Result<(), HvtError> {
    if definition.vcpus != 1 {
        return Err(HvtError::Vcpus(definition.vcpus));
    }
    if definition.initrd.is_some() {
        return Err(HvtError::Initrd);
    }
    if definition.memory > MOST_MEMORY {
        return Err(HvtError::Memory(definition.memory));
    }
    Ok(())
}
