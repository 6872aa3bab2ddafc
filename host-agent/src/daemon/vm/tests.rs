//! Steps of a VM whose process is any process.

use super::*;
use crate::daemon::agents::Agent;
use agent_link::Role;
use std::process::Command;
use std::sync::OnceLock;

/// Looks, when it is told that the process has ended, whether another could start already.
#[derive(Debug, Default)]
struct Watchful {
    vm: OnceLock<Arc<Vm>>,
    told: Mutex<Vec<String>>,
}

impl Audience for Watchful {
    fn came(&self, _: &Agent) {}

    fn left(&self, _: Role) {}

    fn started(&self) {
        self.told.lock().unwrap().push("started".to_owned());
    }

    fn ended(&self) {
        let vm = self.vm.get().unwrap();
        // Whoever starts a VM looks there first.
        let free = vm.live.try_lock().is_ok_and(|live| matches!(*live, Live::Idle));
        self.told.lock().unwrap().push(format!("ended, free: {free}"));
    }
}

#[tokio::test]
async fn a_process_has_ended_for_all_before_the_next_may_start() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places::below(folder.path());
    let store = Store::new(places.definitions());
    let (events, _) = broadcast::channel(8);
    let vm = Vm::new("vm", &places, &store, &Arc::default(), events, Handle::current());
    let audience = Arc::new(Watchful::default());
    let mut vm = Arc::into_inner(vm).unwrap();
    vm.audience = Arc::clone(&audience) as Arc<dyn Audience>;
    let vm = Arc::new(vm);
    audience.vm.set(Arc::clone(&vm)).unwrap();

    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let process = Process::of(child.id()).unwrap();
    let held = {
        let mut live = vm.live();
        *live = vm.watch(process, Some(child));
        let Live::Process(held) = &*live else { unreachable!("it is watched") };
        held.clone()
    };
    held.process.kill().unwrap();
    vm.wait_for_end(&held).await;
    assert!(matches!(*vm.live(), Live::Idle));
    assert_eq!(*audience.told.lock().unwrap(), ["started", "ended, free: false"]);
}
