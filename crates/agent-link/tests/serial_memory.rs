//! What a hostile guest can have the host keep for it on a serial line.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_link::serial::{answer, fuzzing};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// The system's allocator, and what is allocated.
struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's own, with the caller's own arguments; the counters allocate nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `alloc` above with this layout, so from the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// The kinds of frames (docs/src/guest-agent.md).
const HELLO: u8 = 1;
const OPEN: u8 = 2;
const DATA: u8 = 3;

const GUEST: u32 = 77;
const CHANNELS: u16 = 4;
/// Bytes that a channel may have on its way.
const WINDOW: usize = 64 << 10;

/// The number of the host's run, out of its first greeting.
async fn meet(wire: &mut DuplexStream) -> u32 {
    let hello = fuzzing::frame(HELLO, GUEST, 0, 0, &[]).expect("a frame");
    wire.write_all(&hello).await.expect("the host reads");
    let (mut heard, mut byte) = (Vec::new(), [0]);
    loop {
        wire.read_exact(&mut byte).await.expect("the host greets");
        heard.push(byte[0]);
        if let Some(host) = fuzzing::speakers(&heard).first() {
            return *host;
        }
    }
}

#[tokio::test]
async fn a_window_full_of_frames_of_one_byte_takes_the_room_of_its_bytes() {
    let (mut wire, host_end) = tokio::io::duplex(64 << 10);
    let (mut channels, carrying) = answer(host_end);
    let carrying = tokio::spawn(carrying);
    let host = meet(&mut wire).await;
    let mut unread = Vec::new();
    for channel in 1..=CHANNELS {
        let open = fuzzing::frame(OPEN, GUEST, host, channel, &[]).expect("a frame");
        wire.write_all(&open).await.expect("the host reads");
        unread.push(channels.next().await.expect("a channel").stream);
    }
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    for channel in 1..=CHANNELS {
        let byte = fuzzing::frame(DATA, GUEST, host, channel, b"x").expect("a frame");
        for _ in 0..WINDOW {
            wire.write_all(&byte).await.expect("the host reads");
        }
    }
    // All has been heard once a channel that is opened after it is there.
    let open = fuzzing::frame(OPEN, GUEST, host, 99, &[]).expect("a frame");
    wire.write_all(&open).await.expect("the host reads");
    let _last = channels.next().await.expect("a channel");
    let taken = MOST.load(Ordering::Relaxed) - before;
    // A queue grows by doubling; the rest is the line's own.
    let allowed = 3 * usize::from(CHANNELS) * WINDOW + (256 << 10);
    assert!(taken <= allowed, "{taken} bytes for {} of a guest", usize::from(CHANNELS) * WINDOW);
    // And every byte is there.
    for mut channel in unread {
        let mut bytes = vec![0; WINDOW];
        let read = tokio::time::timeout(Duration::from_secs(60), channel.read_exact(&mut bytes));
        read.await.expect("in time").expect("all bytes");
        assert!(bytes.iter().all(|byte| *byte == b'x'));
    }
    carrying.abort();
}
