//! The timer: one-shot, periodic, and by TSC deadline (SDM 3A 11.5.4). It counts as the time-stamp
//! counter does, before its divider.

use units::Tsc;

use super::{LVT_MASKED, LocalApic, TIMER};

/// Timer modes, bits 18:17 of the entry (SDM 3A 11.5.4). Both bits are reserved and do not count.
pub(super) const MODE: u32 = 3 << 17;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;

/// One-shot or periodic.
const fn counts(entry: u32) -> bool {
    entry & TSC_DEADLINE == 0
}

impl LocalApic {
    /// When the timer will next have an interrupt to deliver; `None` when it has none to come. While its
    /// vector still waits there is none: another would be the same.
    pub fn next_deadline(&self) -> Option<Tsc> {
        let entry = self.lvt[TIMER];
        let idle =
            self.deadline == 0 || entry & LVT_MASKED != 0 || self.requested.contains(entry as u8);
        (!idle).then_some(Tsc(self.deadline))
    }

    /// The time is `now`: requests the timer's interrupt when it was due. To be called before
    /// [`LocalApic::acknowledge`].
    #[inline]
    pub fn advance(&mut self, now: Tsc) {
        if self.deadline != 0 && now.get() >= self.deadline {
            self.expire(now);
        }
    }

    #[cold]
    fn expire(&mut self, now: Tsc) {
        let entry = self.lvt[TIMER];
        self.deadline = if entry & MODE == PERIODIC {
            let period = self.period();
            let missed = (now.get() - self.deadline) / period;
            self.deadline.saturating_add(period.saturating_mul(missed.saturating_add(1)))
        } else {
            0
        };
        if entry & LVT_MASKED == 0 {
            self.request(entry as u8);
        }
    }

    /// IA32_TSC_DEADLINE: 0 outside its mode and when it has passed (SDM 3A 11.5.4.1).
    pub const fn tsc_deadline(&self, now: Tsc) -> u64 {
        if self.counts_to_deadline() && now.get() < self.deadline { self.deadline } else { 0 }
    }

    /// Sets IA32_TSC_DEADLINE; without effect outside its mode. Zero disarms.
    pub fn set_tsc_deadline(&mut self, value: u64, now: Tsc) {
        if self.counts_to_deadline() {
            self.advance(now);
            self.deadline = value;
            self.advance(now);
        }
    }

    /// The guest's time-stamp counter has been moved by `difference`, modulo 2^64. The counting timer
    /// does not follow it, a deadline does.
    pub const fn tsc_moved(&mut self, difference: u64) {
        if counts(self.lvt[TIMER]) && self.deadline != 0 {
            self.deadline = match self.deadline.wrapping_add(difference) {
                0 => 1,
                deadline => deadline,
            };
        }
    }

    /// Before the timer's entry becomes `new`.
    pub(super) fn prepare_timer(&mut self, new: u32, now: Tsc) {
        self.advance(now);
        let old = self.lvt[TIMER];
        if (old ^ new) & MODE != 0 && !(counts(old) && counts(new)) {
            // SDM 3A 11.5.4.1: to and from TSC deadline mode disarms.
            self.deadline = 0;
            self.initial_count = 0;
        }
    }

    pub(super) fn set_initial_count(&mut self, count: u32, now: Tsc) {
        if counts(self.lvt[TIMER]) {
            self.advance(now);
            self.initial_count = count;
            self.arm(count, now);
        }
    }

    pub(super) fn set_divide(&mut self, divide: u32, now: Tsc) {
        self.advance(now);
        let left = self.current_count(now);
        self.divide = divide;
        if counts(self.lvt[TIMER]) && self.deadline != 0 {
            self.arm(left, now);
        }
    }

    /// The current count.
    pub(super) fn current_count(&self, now: Tsc) -> u32 {
        let entry = self.lvt[TIMER];
        if !counts(entry) || self.deadline == 0 {
            return 0;
        }
        let left = match self.deadline.checked_sub(now.get()) {
            Some(0) | None if entry & MODE == PERIODIC => {
                let period = self.period();
                period - (now.get() - self.deadline) % period
            }
            left => left.unwrap_or(0),
        };
        let count = left.div_ceil(u64::from(self.divider()));
        u32::try_from(count).unwrap_or(u32::MAX).min(self.initial_count)
    }

    /// Lets the timer reach zero after `count`; never for 0.
    fn arm(&mut self, count: u32, now: Tsc) {
        self.deadline = match count {
            0 => 0,
            _ => now.get().saturating_add(self.duration(count)).max(1),
        };
    }

    fn duration(&self, count: u32) -> u64 {
        u64::from(count) * u64::from(self.divider())
    }

    /// Of a periodic timer; never 0.
    fn period(&self) -> u64 {
        self.duration(self.initial_count).max(self.config.shortest_period).max(1)
    }

    /// 2 to 128, and 1 (SDM 3A 11.5.4, figure 11-10).
    const fn divider(&self) -> u32 {
        let code = (self.divide & 3) | (self.divide >> 3 & 1) << 2;
        if code == 7 { 1 } else { 2 << code }
    }

    const fn counts_to_deadline(&self) -> bool {
        self.lvt[TIMER] & MODE == TSC_DEADLINE
    }
}
