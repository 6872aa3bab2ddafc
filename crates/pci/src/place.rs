//! Gives BARs their addresses where no firmware does (direct kernel boot).

use crate::config_space::{BAR0, is_64_bit};
use crate::{Apertures, BarKind, Function, Region};

/// Hands out naturally aligned addresses, lowest first.
pub(crate) struct Allocator {
    ports: (u64, u64),
    low: Vec<(u64, u64)>,
    high: Vec<(u64, u64)>,
}

impl Allocator {
    /// Ranges without `taken`, where memory below 4 GiB and above are kept apart: 32-bit BARs need
    /// the former.
    pub(crate) fn new(apertures: &Apertures, taken: Option<Region>) -> Self {
        let around = |range: &(u64, u64)| match taken {
            Some(region) => {
                let below = (range.0, range.1.min(region.base.saturating_sub(1)));
                let above = (range.0.max(region.base + region.size), range.1);
                vec![below, above]
            }
            None => vec![*range],
        };
        let (low, high) = apertures
            .memory
            .iter()
            .flat_map(around)
            .filter(|range| range.0 <= range.1)
            .partition(|range| range.1 < 1 << 32);
        let ports = (u64::from(apertures.ports.0), u64::from(apertures.ports.1));
        Self { ports, low, high }
    }

    fn take(&mut self, kind: BarKind, size: u64) -> Option<u64> {
        let fit = |range: &mut (u64, u64)| {
            let base = range.0.checked_next_multiple_of(size)?;
            let last = base.checked_add(size - 1)?;
            (last <= range.1).then(|| {
                range.0 = last.saturating_add(1);
                base
            })
        };
        match kind {
            BarKind::Port => fit(&mut self.ports),
            BarKind::Memory32 => self.low.iter_mut().find_map(fit),
            BarKind::Memory64 | BarKind::Prefetchable64 => {
                self.high.iter_mut().chain(&mut self.low).find_map(fit)
            }
        }
    }

    /// Programs every BAR of `function`, largest first. One that fits nowhere stays at 0, which
    /// means not decoded. Decoding stays off: that is the driver's to switch on.
    pub(crate) fn place(&mut self, function: &mut dyn Function) {
        let mut bars = function.bars();
        bars.sort_by_key(|(index, _, size)| (std::cmp::Reverse(*size), *index));
        for (index, kind, size) in bars {
            let Some(address) = self.take(kind, size) else {
                continue;
            };
            let bytes = address.to_le_bytes();
            let length = if is_64_bit(kind) { 8 } else { 4 };
            let register = BAR0 + u16::from(index) * 4;
            for (half, offset) in bytes[..length].chunks(4).zip([0, 4]) {
                function.write_config(register + offset, half);
            }
        }
    }
}
