//! What a guest says on its serial port, as the host hears it: bytes that are no frames, and frames that break
//! every rule. Run: `cargo +nightly fuzz run serial` in `crates/agent-link`.
#![no_main]

use agent_link::serial::{answer, fuzzing};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fuzz_target!(|bytes: &[u8]| {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (mut guest, host) = tokio::io::duplex(1 << 20);
        let (mut channels, carrying) = answer(host);
        let carrying = tokio::spawn(carrying);
        // The first half as it is, the second as frames that are addressed right.
        let (raw, records) = bytes.split_at(bytes.len() / 2);
        guest.write_all(raw).await.expect("room");
        let hello = fuzzing::frame(1, 9, 0, 0, &[]).expect("a greeting");
        guest.write_all(&hello).await.expect("room");
        let mut heard = vec![0; 4096];
        let count = guest.read(&mut heard).await.expect("an answer");
        let host = fuzzing::speakers(&heard[..count]).first().copied().unwrap_or(1);
        let mut rest = records;
        while let [kind, channel, length, after @ ..] = rest {
            let (data, after) = after.split_at(usize::from(*length).min(after.len()));
            if let Some(frame) = fuzzing::frame(kind % 8, 9, host, (*channel % 8).into(), data) {
                guest.write_all(&frame).await.expect("room");
            }
            rest = after;
        }
        drop(guest);
        let mut opened = 0;
        while channels.next().await.is_some() {
            opened += 1;
        }
        assert!(opened <= records.len());
        carrying.await.expect("no panic").ok();
    });
});
