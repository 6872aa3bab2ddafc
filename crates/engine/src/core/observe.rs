//! Looking at the core: its log, what root leaves for it, whether it is as it was. For people and tests.

use super::{CoreEngine, CoreError};
use crate::EngineError;
use hypervisor_abi::{EXIT_KINDS, StatisticsRecord, TRANSFER_SLOT};
use std::collections::BTreeMap;

/// Why this system's own virtual CPU on one physical CPU was left, since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootExits {
    /// The physical CPU, as the core numbers them.
    pub processor: u32,
    /// Exits by kind; kinds that never happened are left out.
    pub by_kind: BTreeMap<&'static str, u64>,
}

impl CoreEngine {
    /// The core's log from `position` on, 0 for all there is, and the position to go on from. It begins
    /// with the end of the log of the boot before where memory has survived.
    ///
    /// # Errors
    /// The core does not answer.
    pub fn log(&self, mut position: u64) -> Result<(Vec<u8>, u64), EngineError> {
        let mut text = Vec::new();
        loop {
            let part = self.0.pool.common_slot(|slot| {
                let count = self
                    .0
                    .calls
                    .read_log(slot.offset(), TRANSFER_SLOT, position)
                    .map_err(CoreError::from)? as usize;
                let words = slot.words((count + 8).div_ceil(8).min(TRANSFER_SLOT as usize / 8));
                let mut bytes: Vec<u8> =
                    words[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
                bytes.truncate(count);
                position = words[0] + count as u64;
                Ok(bytes)
            })?;
            if part.is_empty() {
                return Ok((text, position));
            }
            text.extend(part);
        }
    }

    /// Exits of this system's own virtual CPUs.
    ///
    /// # Errors
    /// The core does not answer.
    pub fn root_exits(&self) -> Result<Vec<RootExits>, EngineError> {
        let processors = self.0.pool.information().processors;
        (0..processors)
            .map(|processor| {
                self.0.pool.common_slot(|slot| {
                    let root = super::calls::PartitionNumber(0);
                    self.0
                        .calls
                        .statistics(root, processor, slot.offset())
                        .map_err(CoreError::from)?;
                    let record: StatisticsRecord = slot.read(0);
                    let counted = EXIT_KINDS.into_iter().zip(record.exits);
                    let by_kind = counted.filter(|(_, count)| *count > 0).collect();
                    Ok(RootExits { processor, by_kind })
                })
            })
            .collect()
    }

    /// What of the core's own memory is not as it was, in words; `None` when all is.
    ///
    /// # Errors
    /// The core does not look.
    pub fn damage(&self) -> Result<Option<&'static str>, EngineError> {
        let part = self.0.calls.self_check().map_err(CoreError::from)?;
        Ok(part.map(hypervisor_abi::CorePart::text))
    }
}
