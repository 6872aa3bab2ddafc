//! What each hypercall answers.

mod common;

use common::{Memory, WALL, World};
use proptest::prelude::*;
use solo5::test_support::unikernel;
use solo5::{EntryKind, GuestMemory, Outcome, Tender, Unikernel, Violation};
use std::sync::atomic::Ordering::Relaxed;
use units::GuestPhysical;

const SIZE: u64 = 0x20_0000;
/// Where the tests put a call's structure and its data.
const AT: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const BLOCK: u64 = 1;
const NET: u64 = 2;

struct Bench {
    memory: Memory,
    world: World,
    tender: Tender,
}

fn bench() -> Bench {
    let devices = [("disk", EntryKind::Block), ("card", EntryKind::Net)];
    let file = unikernel(2, &devices, &[0xf4]);
    let world = World::with_disk(64 << 10);
    let tender = world.tender(&Unikernel::read(&file).unwrap());
    Bench { memory: Memory::new(SIZE as usize), world, tender }
}

impl Bench {
    fn call(&mut self, number: u16, fields: &[u64]) -> Result<Outcome, Violation> {
        for (index, field) in fields.iter().enumerate() {
            self.memory.put(AT + index as u64 * 8, &field.to_le_bytes());
        }
        self.tender.call(&self.memory, number, GuestPhysical(AT))
    }

    fn done(&mut self, number: u16, fields: &[u64]) {
        assert_eq!(self.call(number, fields), Ok(Outcome::Done));
    }

    fn block(&mut self, number: u16, fields: [u64; 4]) -> u32 {
        self.done(number, &fields);
        self.memory.word(AT + 32)
    }
}

#[test]
fn time_and_text() {
    let mut bench = bench();
    bench.world.now.store(5, Relaxed);
    bench.done(1, &[]);
    assert_eq!(bench.memory.long(AT), WALL + 5);
    bench.memory.put(DATA, b"hello");
    bench.done(2, &[DATA, 5]);
    bench.done(2, &[u64::MAX, 0]);
    let long = vec![b'x'; 100_000];
    bench.memory.put(DATA, &long);
    bench.done(2, &[DATA, long.len() as u64]);
    assert_eq!(bench.world.printed(), format!("hello{}", "x".repeat(100_000)));
}

#[test]
fn what_is_written_to_a_disk_is_read_back() {
    let mut bench = bench();
    bench.memory.put(DATA, &[7; 40_960]);
    assert_eq!(bench.block(4, [BLOCK, 512, DATA, 40_960]), 0);
    assert_eq!(bench.block(5, [BLOCK, 0, DATA, 1024]), 0);
    assert_eq!(bench.memory.get(DATA), [0; 512]);
    assert_eq!(bench.memory.get(DATA + 512), [7; 512]);
    assert_eq!(bench.world.disk.lock().unwrap()[41_471..41_473], [7, 0]);
}

#[test]
fn a_disk_refuses_what_is_not_whole_blocks_of_its_own() {
    let mut bench = bench();
    let end = 64 << 10;
    for [handle, offset, length] in [
        [0, 0, 512],
        [NET, 0, 512],
        [3, 0, 512],
        [u64::MAX, 0, 512],
        [BLOCK, 1, 512],
        [BLOCK, 0, 511],
        [BLOCK, end, 512],
        [BLOCK, end, 0],
        [BLOCK, end - 512, 1024],
        [BLOCK, 512, u64::MAX - 511],
        [BLOCK, u64::MAX - 511, 512],
    ] {
        for number in [4, 5] {
            assert_eq!(bench.block(number, [handle, offset, DATA, length]), 2);
        }
    }
    assert_eq!(bench.block(5, [BLOCK, 0, u64::MAX, 0]), 0);
    *bench.world.broken.lock().unwrap() = true;
    assert_eq!(bench.block(5, [BLOCK, 0, DATA, 512]), 3);
    assert_eq!(bench.block(4, [BLOCK, 0, DATA, 512]), 3);
}

#[test]
fn frames_go_out_and_come_in() {
    let mut bench = bench();
    bench.memory.put(DATA, &[1; 60]);
    for (length, answer) in [(60, 0), (13, 2), (1519, 2), (u64::MAX, 2)] {
        bench.done(6, &[NET, DATA, length]);
        assert_eq!(bench.memory.word(AT + 24), answer, "{length}");
    }
    assert_eq!(*bench.world.sent.lock().unwrap(), [vec![1; 60]]);
    bench.done(7, &[NET, DATA, 1514]);
    assert_eq!(bench.memory.word(AT + 24), 1, "nothing there");
    bench.world.inbox.lock().unwrap().push_back(vec![9; 70]);
    bench.world.inbox.lock().unwrap().push_back(vec![8; 70]);
    bench.done(7, &[NET, DATA, SIZE - DATA]);
    assert_eq!(bench.memory.word(AT + 24), 0);
    assert_eq!(bench.memory.long(AT + 16), 70);
    assert_eq!(bench.memory.get(DATA), [9; 70]);
    bench.done(7, &[NET, DATA, 20]);
    assert_eq!(bench.memory.long(AT + 16), 20, "cut off");
    bench.done(7, &[BLOCK, DATA, 1514]);
    assert_eq!(bench.memory.word(AT + 24), 2);
}

#[test]
fn a_poll_ends_with_a_frame_or_with_its_time() {
    let mut bench = bench();
    bench.done(3, &[0]);
    assert_eq!((bench.memory.long(AT + 8), bench.memory.word(AT + 16)), (0, 0));
    let Ok(Outcome::Wait(wait)) = bench.call(3, &[1000]) else {
        panic!("nothing to wait for");
    };
    assert_eq!(wait.until, 1000);
    assert_eq!(bench.tender.poll(&bench.memory, &wait), Ok(false));
    bench.world.inbox.lock().unwrap().push_back(vec![0; 60]);
    assert_eq!(bench.tender.poll(&bench.memory, &wait), Ok(true));
    assert_eq!((bench.memory.long(AT + 8), bench.memory.word(AT + 16)), (4, 1));
    bench.done(3, &[u64::MAX]);
    bench.world.inbox.lock().unwrap().clear();
    let Ok(Outcome::Wait(wait)) = bench.call(3, &[u64::MAX]) else {
        panic!("nothing to wait for");
    };
    assert_eq!(wait.until, u64::MAX);
    bench.world.now.store(1000, Relaxed);
    assert_eq!(bench.tender.poll(&bench.memory, &wait), Ok(false));
}

#[test]
fn a_halt_has_a_status_and_may_have_a_cookie() {
    let mut bench = bench();
    assert_eq!(bench.call(8, &[0, 3]), Ok(Outcome::Halt { status: 3 }));
    let all = u64::from(u32::MAX);
    assert_eq!(bench.call(8, &[DATA, all]), Ok(Outcome::Halt { status: -1 }));
    let beyond = bench.call(8, &[SIZE - 511, 0]);
    assert!(matches!(beyond, Err(Violation::Pointer { length: 512, .. })));
}

#[test]
fn a_guest_that_points_outside_its_memory_is_at_its_end() {
    let mut bench = bench();
    assert_eq!(bench.call(0, &[]), Err(Violation::UnknownCall(0)));
    assert_eq!(bench.call(9, &[]), Err(Violation::UnknownCall(9)));
    for number in 1..=8 {
        let beyond = GuestPhysical(SIZE - 7);
        let refused = bench.tender.call(&bench.memory, number, beyond);
        assert!(matches!(refused, Err(Violation::Pointer { .. })), "{number}");
    }
    for fields in [[SIZE, 1], [0, SIZE + 1], [u64::MAX, 1], [1, u64::MAX]] {
        let refused = bench.call(2, &fields).unwrap_err();
        assert!(refused.to_string().starts_with("hypercall puts: "), "{refused}");
    }
    let before = bench.world.disk.lock().unwrap().clone();
    assert!(bench.call(4, &[BLOCK, 0, SIZE - 512, 1024]).is_err());
    assert!(bench.call(5, &[BLOCK, 0, SIZE - 512, 1024]).is_err());
    assert!(bench.call(6, &[NET, SIZE - 14, 15]).is_err());
    assert!(bench.call(7, &[NET, DATA, SIZE]).is_err());
    assert_eq!(*bench.world.disk.lock().unwrap(), before);
    assert_eq!(bench.world.printed(), "");
}

/// Numbers near what matters, and any.
fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        Just(512),
        Just(64 << 10),
        Just(DATA),
        (SIZE - 600)..(SIZE + 4),
        (u64::MAX - 600)..=u64::MAX,
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn no_call_panics_or_reaches_outside(
        calls in prop::collection::vec(
            (0u16..12, prop_oneof![Just(AT), interesting()], prop::array::uniform5(interesting())),
            1..20,
        )
    ) {
        let mut bench = bench();
        bench.world.inbox.lock().unwrap().push_back(vec![1; 1514]);
        for (number, pointer, fields) in calls {
            let bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            let whole = bench.memory.write(GuestPhysical(pointer), &bytes);
            match bench.tender.call(&bench.memory, number, GuestPhysical(pointer)) {
                Ok(Outcome::Wait(wait)) => {
                    prop_assert_eq!(number, 3);
                    prop_assert!(bench.tender.poll(&bench.memory, &wait).is_ok());
                }
                Ok(_) => prop_assert!((1..=8).contains(&number)),
                Err(Violation::UnknownCall(_)) => prop_assert!(!(1..=8).contains(&number)),
                Err(Violation::Pointer { address, length, .. }) => {
                    prop_assert!(!whole || !bench.memory.holds(address, length));
                }
            }
            bench.world.now.fetch_add(1, Relaxed);
        }
        prop_assert_eq!(bench.world.disk.lock().unwrap().len(), 64 << 10);
    }
}
