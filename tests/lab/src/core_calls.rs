//! Calls the core from user space with random numbers: it must answer each, and root and the guests of
//! others must not notice. Partitions of others are left alone, and so are their transfer slots; everything
//! else is fair.
#![allow(unsafe_code)]

use crate::{Random, Result};
use hypervisor_abi::{
    CPUID_LEAF, CPUID_SIGNATURE, InformationPage, MAX_PARTITIONS, POOL_HEAD_SIZE, RootCall,
    SIGNATURE, TRANSFER_OFFSET, TRANSFER_SIZE, TRANSFER_SLOT,
};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::fs::File;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// A call that is denied answers this (`hypervisor_abi::Fault`).
const DENIED: u64 = 2;
/// The fault of a core that has no room, for a partition or a vCPU.
const FULL: u64 = 7;
/// Partitions to play with.
const OWN: usize = 3;

/// The core, by its device.
struct Core {
    head: *mut u8,
    key: [u64; 2],
    pool: (u64, u64),
    amd: bool,
}

impl Core {
    fn open(path: &str) -> Result<Self> {
        let leaf = __cpuid_count(CPUID_LEAF, 0);
        let words = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        if words.as_flattened() != CPUID_SIGNATURE {
            return Err("no core is beneath".into());
        }
        let file = File::options().read(true).write(true).open(path)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at a place the kernel picks.
        let head = unsafe {
            mmap(null_mut(), POOL_HEAD_SIZE as usize, protection, MapFlags::SHARED, &file, 0)
        }?;
        // SAFETY: mapped, and any bytes are a value.
        let page = unsafe { head.cast::<InformationPage>().read_volatile() };
        if page.signature != SIGNATURE {
            return Err(format!("{path} is no pool of the core's").into());
        }
        let amd = [*b"Auth", *b"Hygo"].contains(&__cpuid_count(0, 0).ebx.to_le_bytes());
        let pool = (page.pool_start, page.pool_size);
        Ok(Self { head: head.cast(), key: page.key, pool, amd })
    }

    /// One call: status and first result.
    fn call(&self, number: u64, arguments: [u64; 5], key: [u64; 2]) -> (u64, u64) {
        let [mut first, mut second, third, fourth, fifth] = arguments;
        let mut status = number;
        macro_rules! call {
            ($instruction:literal) => {
                // SAFETY: a core answers (`open`); that it checks what it is told is what this tool is
                // about. No Rust reference is to memory it may change.
                unsafe {
                    asm!(
                        "xchg rbx, {fifth}",
                        $instruction,
                        "xchg rbx, {fifth}",
                        fifth = inout(reg) fifth => _,
                        inout("rax") status,
                        inout("rdi") first,
                        inout("rsi") second,
                        in("rdx") third,
                        in("r10") fourth,
                        in("r8") key[0],
                        in("r9") key[1],
                        options(nostack),
                    )
                }
            };
        }
        if self.amd {
            call!("vmmcall");
        } else {
            call!("vmcall");
        }
        let _ = second;
        (status, first)
    }

    /// Fills a partition's transfer slot and a run page with random bytes.
    fn scribble(&self, random: &mut Random, partition: u64, run_page: u64) {
        let slot = TRANSFER_OFFSET + partition * TRANSFER_SLOT;
        for start in [slot, run_page] {
            for word in 0..512 {
                let value = number(random, self);
                // SAFETY: inside the head: both are places the core told.
                unsafe {
                    self.head
                        .wrapping_add(start as usize)
                        .cast::<u64>()
                        .add(word)
                        .write_volatile(value)
                };
            }
        }
    }
}

/// A number that is interesting to some call.
fn number(random: &mut Random, core: &Core) -> u64 {
    match random.below(10) {
        0 => 0,
        1 => random.below(4),
        2 => random.below(70),
        3 => 1 << random.below(64),
        4 => u64::MAX - random.below(5),
        5 => random.below(1 << 20) << 12,
        6 => core.pool.0 + (random.below(core.pool.1 >> 12) << 12),
        7 => core.pool.0 + core.pool.1 - random.below(3) * 4096,
        8 => 0xfee0_0000 | random.below(1 << 20),
        _ => random.next(),
    }
}

/// Marks owners of partitions of this tool's; below it the process id.
const MARK: u64 = 0x5eed << 48;

/// Ends what killed runs of this tool left.
fn tidy(core: &Core) {
    for partition in 1..MAX_PARTITIONS as u64 {
        let asked = [partition, 0, 0, 0, 0];
        let (status, owner) = core.call(RootCall::PartitionOwner.number(), asked, core.key);
        let process = owner ^ MARK;
        let alive = std::path::Path::new("/proc").join(process.to_string()).exists();
        if status == 0 && owner & MARK == MARK && process >> 32 == 0 && !alive {
            let end = [partition, owner, 0, 0, 0];
            core.call(RootCall::PartitionDestroy.number(), end, core.key);
        }
    }
}

/// Makes `count` calls.
pub(crate) fn run(device: &str, seed: u64, count: u64) -> Result {
    let core = Core::open(device)?;
    tidy(&core);
    let mut random = Random::new(seed);
    // Without the key there is one answer to everything.
    for _ in 0..count / 4 {
        let asked = RootCall::ALL[random.below(RootCall::ALL.len() as u64) as usize].number();
        let key = [core.key[0], core.key[1] ^ 1 << random.below(64)];
        let arguments = std::array::from_fn(|_| number(&mut random, &core));
        let (status, _) = core.call(asked, arguments, key);
        if status != DENIED {
            return Err(format!("call {asked:#x} without the key answers {status:#x}").into());
        }
    }
    let owner = MARK | u64::from(std::process::id());
    let mut own = Vec::new();
    let mut statuses = std::collections::BTreeMap::<u64, u64>::new();
    for step in 0..count {
        if own.len() < OWN {
            // Another one like this may have them all, for as long as it runs.
            let begin = Instant::now();
            let (status, partition) = loop {
                let made =
                    core.call(RootCall::PartitionCreate.number(), [owner, 0, 0, 0, 0], core.key);
                if made.0 & 0xff != FULL || begin.elapsed() > Duration::from_secs(120) {
                    break made;
                }
                std::thread::sleep(Duration::from_millis(100));
                tidy(&core);
            };
            if status != 0 {
                return Err(format!("no partition: status {status:#x} at step {step}").into());
            }
            let (status, page) =
                core.call(RootCall::VcpuCreate.number(), [partition, 0, 0, 0, 0], core.key);
            if status != 0 {
                return Err(format!("no vCPU: status {status:#x} at step {step}").into());
            }
            own.push((partition, page));
        }
        let (partition, page) = own[random.below(own.len() as u64) as usize];
        let asked = match random.below(20) {
            0 => number(&mut random, &core),
            _ => RootCall::ALL[random.below(RootCall::ALL.len() as u64) as usize].number(),
        };
        let mut arguments: [u64; 5] = std::array::from_fn(|_| number(&mut random, &core));
        // Its own, or none that can be.
        arguments[0] = match random.below(8) {
            0 => MAX_PARTITIONS as u64 + random.below(1 << 40),
            _ => partition,
        };
        let call = RootCall::from_number(asked);
        let slot = partition * TRANSFER_SLOT;
        let offset = if random.below(4) == 0 { TRANSFER_SIZE - random.below(9) } else { slot };
        match call {
            Some(RootCall::VcpuGetState | RootCall::VcpuSetState | RootCall::Statistics) => {
                arguments[2] = offset;
            }
            Some(RootCall::VcpuSetCpuid) => arguments[2] = offset,
            Some(RootCall::PartitionCreate) => arguments[0] = owner,
            Some(RootCall::MemoryDirtyLog) => {
                arguments[3] = offset;
                arguments[2] = random.below(TRANSFER_SLOT * 8);
            }
            Some(RootCall::CpuidSupported) => arguments = [offset, random.below(128), 0, 0, 0],
            // At most its own slot: what it writes elsewhere is another VM's.
            Some(RootCall::LogRead) => {
                let most = if offset == slot { random.below(TRANSFER_SLOT + 1) } else { 1 << 40 };
                arguments = [offset, most, number(&mut random, &core), 0, 0];
            }
            _ => {}
        }
        if random.below(3) == 0 {
            core.scribble(&mut random, partition, page);
        }
        let (status, result) = core.call(asked, arguments, core.key);
        if call == Some(RootCall::PartitionCreate) && status == 0 {
            // Partitions without anything would soon be all that there can be.
            let end = [result, owner, 0, 0, 0];
            core.call(RootCall::PartitionDestroy.number(), end, core.key);
        }
        *statuses.entry(status & 0xff).or_default() += 1;
        if call == Some(RootCall::PartitionDestroy) && status == 0 {
            own.retain(|(other, _)| *other != partition);
        }
    }
    for (partition, _) in own {
        let end = [partition, owner, 0, 0, 0];
        let (status, _) = core.call(RootCall::PartitionDestroy.number(), end, core.key);
        if status != 0 {
            return Err(format!("partition {partition} does not end: status {status:#x}").into());
        }
    }
    println!("answers by fault, 0 for none: {statuses:?}");
    Ok(())
}
