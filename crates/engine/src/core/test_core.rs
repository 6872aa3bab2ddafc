//! A core for tests: partitions, reservations and mappings as numbers, a pool in a memfd, and runs that end
//! as a list says.

use super::gate::Gate;
use super::pool::Pool;
use hypervisor_abi::{
    EXIT_DATA, ExitReason, ExitRecord, Fault, InformationPage, MAX_PARTITIONS, POOL_HEAD_SIZE,
    RUN_PAGES_OFFSET, RootCall, RunPage, SIGNATURE, Status, TRANSFER_OFFSET, VERSION, VcpuState,
};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use units::PAGE_SIZE;

/// What a scripted run does to the run page.
type Step = Box<dyn FnOnce(&mut RunPage) + Send>;

#[derive(Default)]
struct State {
    owners: BTreeMap<u64, u64>,
    /// Pool address: partition, bytes, cleared.
    reserved: BTreeMap<u64, (u64, u64, u64)>,
    /// Guest address: partition, pool address, bytes, access.
    mapped: BTreeMap<u64, (u64, u64, u64, u64)>,
    vcpus: Vec<(u64, u64)>,
    states: BTreeMap<u64, VcpuState>,
    script: VecDeque<Step>,
    injected: Vec<(u64, u64, u64)>,
    woken: u64,
    /// Requests, vectors and promises found in the run page.
    orders: Vec<(u32, u32, u64)>,
    kicks: u64,
    resets: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct TestCore {
    state: Mutex<State>,
    /// The pool, seen from the core.
    pool: Mutex<Option<File>>,
}

/// A page as no core has it: a pool of 8 MiB.
pub(super) fn information() -> InformationPage {
    InformationPage {
        signature: SIGNATURE,
        version: VERSION,
        processors: 1,
        key: [1, 2],
        pool_start: 0x4000_0000,
        pool_size: 8 << 20,
        features: 0,
        tsc_frequency: 1_000_000_000,
    }
}

pub(super) fn bytes(page: &InformationPage) -> Vec<u8> {
    let start = std::ptr::from_ref(page).cast::<u8>();
    // SAFETY: numbers only, without padding (the interface asserts the size).
    unsafe { std::slice::from_raw_parts(start, size_of::<InformationPage>()) }.to_vec()
}

/// A file of `size` bytes with this first page.
pub(super) fn pool_file(page: &InformationPage, size: u64) -> File {
    let file = File::from(memfd_create("pool", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file.write_all_at(&bytes(page), 0).unwrap();
    file
}

pub(super) fn empty_page() -> RunPage {
    RunPage {
        request: 0,
        external_vector: 0,
        accepts_external: 0,
        armed: 0,
        deadline: u64::MAX,
        rip: 0,
        rflags: 0,
        exit: ExitRecord {
            reason: 0,
            width: 1,
            count: 1,
            detail: 0,
            address: 0,
            arguments: [0; 6],
            results: [0; 3],
            data: [0; EXIT_DATA],
        },
        armed_on: 0,
    }
}

impl TestCore {
    /// A core with a pool of `mib` MiB.
    pub(super) fn with_pool(mib: u64) -> (Arc<Self>, Pool) {
        let core = Arc::new(Self::default());
        let size = mib << 20;
        let file = pool_file(&InformationPage { pool_size: size, ..information() }, size);
        *core.pool.lock().unwrap() = Some(file.try_clone().unwrap());
        (core, Pool::of(file).unwrap().unwrap())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next run ends like this.
    pub(super) fn then(
        &self,
        reason: ExitReason,
        fill: impl FnOnce(&mut RunPage) + Send + 'static,
    ) {
        let step = move |page: &mut RunPage| {
            page.exit.reason = reason as u32;
            fill(page);
        };
        self.state().script.push_back(Box::new(step));
    }

    pub(super) fn owners(&self) -> Vec<u64> {
        self.state().owners.values().copied().collect()
    }

    /// Pool addresses and bytes.
    pub(super) fn reserved(&self) -> Vec<(u64, u64)> {
        self.state().reserved.iter().map(|(start, (_, size, _))| (*start, *size)).collect()
    }

    /// Guest addresses, pool addresses, bytes and access.
    pub(super) fn mapped(&self) -> Vec<(u64, u64, u64, u64)> {
        let state = self.state();
        state
            .mapped
            .iter()
            .map(|(guest, (_, pool, size, how))| (*guest, *pool, *size, *how))
            .collect()
    }

    pub(super) fn orders(&self) -> Vec<(u32, u32, u64)> {
        std::mem::take(&mut self.state().orders)
    }

    pub(super) fn injected(&self) -> Vec<(u64, u64, u64)> {
        self.state().injected.clone()
    }

    /// What the next injections answer.
    pub(super) fn set_woken(&self, woken: u64) {
        self.state().woken = woken;
    }

    pub(super) fn resets(&self) -> u64 {
        self.state().resets
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let pool = self.pool.lock().unwrap();
        pool.as_ref().unwrap().write_all_at(bytes, TRANSFER_OFFSET + offset).unwrap();
    }

    fn read<T: Copy>(&self, offset: u64) -> T {
        let mut bytes = vec![0; size_of::<T>()];
        self.pool.lock().unwrap().as_ref().unwrap().read_exact_at(&mut bytes, offset).unwrap();
        // SAFETY: as many bytes as the type has, numbers only.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    }

    fn write_value<T: Copy>(&self, offset: u64, value: &T) {
        let start = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: numbers only, without padding.
        self.write(offset, unsafe { std::slice::from_raw_parts(start, size_of::<T>()) });
    }

    fn run(&self, number: u64, index: u64) -> Result<u64, Fault> {
        let mut state = self.state();
        let place = state.vcpus.iter().position(|vcpu| *vcpu == (number, index));
        let place = RUN_PAGES_OFFSET + place.ok_or(Fault::NotFound)? as u64 * PAGE_SIZE;
        let mut page: RunPage = self.read(place);
        state.orders.push((page.request, page.external_vector, page.armed));
        let step = state.script.pop_front();
        drop(state);
        page.request = 0;
        step.expect("a run beyond the script")(&mut page);
        let start = std::ptr::from_ref(&page).cast::<u8>();
        // SAFETY: only the fields, which are numbers and come first; the rest of the page is padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(
                start,
                std::mem::offset_of!(RunPage, exit) + size_of::<ExitRecord>(),
            )
        };
        self.pool.lock().unwrap().as_ref().unwrap().write_all_at(bytes, place).unwrap();
        Ok(0)
    }

    fn answer(&self, call: RootCall, [a, b, c, d, e]: [u64; 5]) -> Result<u64, Fault> {
        if call == RootCall::VcpuRun {
            return self.run(a, b);
        }
        let mut state = self.state();
        let partition = |state: &State| state.owners.get(&a).copied().ok_or(Fault::NotFound);
        match call {
            RootCall::Version => Ok(VERSION.into()),
            RootCall::PartitionCreate => {
                let number = (1..MAX_PARTITIONS as u64).find(|n| !state.owners.contains_key(n));
                let number = number.ok_or(Fault::OutOfMemory)?;
                state.owners.insert(number, a);
                Ok(number)
            }
            RootCall::PartitionDestroy => {
                if b != 0 && partition(&state)? != b {
                    return Err(Fault::NotOwned);
                }
                state.owners.remove(&a).ok_or(Fault::NotFound)?;
                state.reserved.retain(|_, (owner, ..)| *owner != a);
                state.mapped.retain(|_, (owner, ..)| *owner != a);
                Ok(0)
            }
            RootCall::PartitionOwner => partition(&state),
            RootCall::MemoryReserve => {
                let page = information();
                let mut at = page.pool_start + POOL_HEAD_SIZE;
                for (start, (_, size, _)) in &state.reserved {
                    if at + b * PAGE_SIZE <= *start {
                        break;
                    }
                    at = (start + size).next_multiple_of(c);
                }
                at = at.next_multiple_of(c);
                let end = page.pool_start
                    + self.pool.lock().unwrap().as_ref().unwrap().metadata().unwrap().len();
                if at + b * PAGE_SIZE > end {
                    return Err(Fault::OutOfMemory);
                }
                state.reserved.insert(at, (a, b * PAGE_SIZE, 0));
                Ok(at)
            }
            RootCall::MemoryClear => {
                let run = state.reserved.get_mut(&b).filter(|run| run.0 == a);
                let (_, size, clear) = run.ok_or(Fault::NotFound)?;
                *clear = (*clear + (1 << 20)).min(*size);
                Ok(*size - *clear)
            }
            RootCall::MemoryRelease => {
                let (_, size, _) = *state.reserved.get(&b).ok_or(Fault::NotFound)?;
                if state.mapped.values().any(|map| map.1 < b + size && b < map.1 + map.2) {
                    return Err(Fault::Busy);
                }
                state.reserved.remove(&b);
                Ok(0)
            }
            RootCall::MemoryUnreserved => {
                let file = self.pool.lock().unwrap();
                let all = file.as_ref().unwrap().metadata().unwrap().len() - POOL_HEAD_SIZE;
                Ok(all - state.reserved.values().map(|(_, size, _)| size).sum::<u64>())
            }
            RootCall::MemoryMap => {
                let clear = state.reserved.iter().any(|(start, (owner, size, clear))| {
                    *owner == a && *start <= c && c + d * PAGE_SIZE <= start + size && clear == size
                });
                if !clear {
                    return Err(Fault::NotOwned);
                }
                state.mapped.insert(b, (a, c, d * PAGE_SIZE, e));
                Ok(0)
            }
            RootCall::MemoryUnmap => {
                let found = state.mapped.remove(&b).ok_or(Fault::NotFound)?;
                assert_eq!(found.2, c * PAGE_SIZE);
                Ok(0)
            }
            RootCall::MemoryDirtyLog => {
                drop(state);
                // Every third page, and what no page has.
                for byte in 0..c.div_ceil(8) {
                    let bits = (0..8).filter(|bit| (byte * 8 + bit) % 3 == 0);
                    self.write(d + byte, &[bits.fold(0, |byte, bit| byte | 1 << bit)]);
                }
                Ok(0)
            }
            RootCall::VcpuCreate => {
                state.vcpus.push((a, b));
                Ok(RUN_PAGES_OFFSET + (state.vcpus.len() as u64 - 1) * PAGE_SIZE)
            }
            RootCall::VcpuGetState => {
                let value = state.states.get(&b).copied().unwrap_or_default();
                drop(state);
                self.write_value(c, &value);
                Ok(0)
            }
            RootCall::VcpuSetState => {
                let value = self.read(TRANSFER_OFFSET + c);
                state.states.insert(b, value);
                Ok(0)
            }
            RootCall::VcpuReset => {
                state.resets += 1;
                Ok(0)
            }
            RootCall::VcpuKick => {
                state.kicks += 1;
                Ok(0)
            }
            RootCall::Inject => {
                state.injected.push((a, b, c));
                Ok(std::mem::take(&mut state.woken))
            }
            RootCall::Statistics => Err(Fault::Busy),
            _ => Err(Fault::UnknownCall),
        }
    }
}

impl Gate for TestCore {
    fn call(&self, number: RootCall, arguments: [u64; 5]) -> (Status, [u64; 2]) {
        match self.answer(number, arguments) {
            Ok(result) => (Status::OK, [result, 0]),
            Err(fault) => (Status::fault(fault), [0; 2]),
        }
    }
}
