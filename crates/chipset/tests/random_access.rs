//! Random accesses to every device, from fixed seeds: nothing a guest does makes one panic or ask
//! for the past, and each goes on the same after save and restore.

#[allow(unreachable_pub, reason = "the same module is public in the library of the fuzz targets")]
mod exercise;

use exercise::{
    AcpiPmSubject, DebugSubject, I8042Subject, IoApicSubject, PicSubject, PitSubject, RtcSubject,
    Subject, UartSubject, run,
};

const SEEDS: u64 = 40;
const BYTES: usize = 12 * 1000;

/// xorshift64*, Vigna 2016.
fn random_bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    });
    words.flat_map(u64::to_be_bytes).take(BYTES).collect()
}

fn survives<S: Subject>() {
    for seed in 1..=SEEDS {
        run::<S>(&random_bytes(seed));
    }
}

#[test]
fn uart() {
    survives::<UartSubject>();
}

#[test]
fn pit() {
    survives::<PitSubject>();
}

#[test]
fn rtc() {
    survives::<RtcSubject>();
}

#[test]
fn i8042() {
    survives::<I8042Subject>();
}

#[test]
fn acpi_pm() {
    survives::<AcpiPmSubject>();
}

#[test]
fn pic() {
    survives::<PicSubject>();
}

#[test]
fn ioapic() {
    survives::<IoApicSubject>();
}

#[test]
fn debug_and_hypercall_ports() {
    survives::<DebugSubject>();
}
