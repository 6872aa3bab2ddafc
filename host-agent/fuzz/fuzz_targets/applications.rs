//! A guest's list of applications, from its bytes to the launchers: none has a key, a group or an owner that
//! the host did not give it.
//! Run: `cargo +nightly fuzz run applications` in `host-agent`.
#![no_main]

use host_agent::launchers::entry::{Entry, owner};
use host_agent::launchers::list::{check, digest};
use host_agent::untrusted::Untrusted;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::v1::ApplicationList;

const KEYS: [&str; 17] = [
    "Type", "Name", "GenericName", "Comment", "Exec", "TryExec", "Icon", "Terminal", "StartupNotify",
    "StartupWMClass", "NoDisplay", "Categories", "Keywords", "MimeType", "Actions", "X-Macrohard-VM",
    "X-Macrohard-App",
];

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut list) = ApplicationList::decode(bytes) else {
        return;
    };
    // No fuzzer finds digests, and few find an order.
    list.applications.sort_by(|a, b| a.id.cmp(&b.id));
    list.applications.dedup_by(|a, b| a.id == b.id);
    list.digest = digest(&list.applications).to_vec();
    let count = list.applications.len();
    let checked = check(Untrusted::new(list)).expect("it is sorted and has its digest");
    assert_eq!(checked.applications.len() + checked.left_out.values().sum::<usize>(), count);
    for application in &checked.applications {
        for open_with in [false, true] {
            let (vm, program) = ("Büro #1 (a&b)", "/opt/a b/cli");
            let Some(text) = (Entry { vm, application, program, open_with, icon: true }).text() else {
                continue;
            };
            assert_eq!(owner(&text), Some((vm.to_owned(), application.id.clone())));
            let mut groups = 0;
            for line in text.lines().filter(|line| !line.is_empty()) {
                if line.starts_with('[') {
                    groups += 1;
                    continue;
                }
                let (key, _) = line.split_once('=').expect("a key and a value");
                let key = key.split_once('[').map_or(key, |(key, _)| key);
                assert!(KEYS.contains(&key), "{line}");
                assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
            }
            assert_eq!(groups, 1 + application.actions.len());
        }
    }
});
