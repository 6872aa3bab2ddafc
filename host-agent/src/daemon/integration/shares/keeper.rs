//! Brings what is there to what is wanted, for one run of a VM: share processes first, then the guest's
//! mounts. One pass at a time; whatever changes asks for another.

use super::record::{Files, Wanted, free_port};
use super::served::{Served, Started};
use super::{Inner, told};
use crate::daemon::process::Process;
use crate::daemon::records::Records;
use definition::ShareKind;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often to look for the VM process, which has just been started.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How long a guest may take to leave mounts whose folders go.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before what failed is tried again; it doubles up to the longest while nothing changes.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// So many ends of one share's process within [`CRASH_WINDOW`] are enough.
const MOST_CRASHES: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(60);

/// Keeps the shares of run `run` until it ends.
pub(super) async fn keep(inner: Arc<Inner>, run: u64) {
    let Some(vm) = vm_process(&inner, run).await else {
        return;
    };
    let (vm_pid, about) = (vm.pid, Arc::clone(&inner.about));
    let found = tokio::task::spawn_blocking(move || {
        let files = Files::new(&about);
        let find = |record| Served::find(&files, record);
        files.read(vm_pid).into_iter().map(|record| (record.clone(), find(record))).collect()
    });
    let found: Vec<_> = found.await.unwrap_or_default();
    for (record, served) in found {
        // What a portal shows stands in its record alone.
        if record.wanted.only.is_some() {
            inner.state().portals.push(record.wanted.clone());
        }
        {
            // A process for a share by device is there because the guest could not mount the device.
            let mut state = inner.state();
            if state.devices.iter().any(|share| share.tag == record.wanted.tag) {
                let reason = "an earlier daemon found that it cannot be mounted".to_owned();
                state.fallen.insert(record.wanted.tag.clone(), reason);
            }
        }
        if let Some(served) = served {
            take(&inner, run, (served, None));
        }
    }
    let mut pause = RETRY_PAUSE;
    loop {
        let asked = inner.asked.borrow().to_owned();
        let sound = pass(&inner, run, &vm).await;
        if inner.state().run != Some(run) {
            return;
        }
        inner.done.send_replace(asked);
        let mut changed = inner.asked.subscribe();
        let asked_again = changed.wait_for(|now| *now != asked);
        if sound {
            let _ = asked_again.await;
            pause = RETRY_PAUSE;
        } else {
            let late = tokio::time::timeout(pause, asked_again).await.is_err();
            pause = next_pause(pause, late);
        }
    }
}

/// How long to wait for the next try after one that failed: what is asked for anew may have another end, and is
/// tried as often as the first.
fn next_pause(pause: Duration, nothing_changed: bool) -> Duration {
    if nothing_changed { (pause * 2).min(LONGEST_PAUSE) } else { RETRY_PAUSE }
}

/// The VM process, as soon as it can be found.
async fn vm_process(inner: &Inner, run: u64) -> Option<Process> {
    let records = Records::new(&inner.about.places, &inner.about.vm);
    let path = records.files().pid();
    loop {
        if inner.state().run != Some(run) {
            return None;
        }
        if let Some(process) = Process::find(&path) {
            if let Some(definition) = records.launched() {
                let mut state = inner.state();
                state.agent = definition.agent;
                state.devices = definition.shares;
                state.devices.retain(|share| share.kind.has_device());
            }
            return Some(process);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Takes a living process under watch.
fn take(inner: &Arc<Inner>, run: u64, (served, child): Started) {
    let (tag, process) = (served.record.wanted.tag.clone(), served.process.clone());
    {
        let mut state = inner.state();
        if state.run != Some(run) {
            drop(state);
            // The VM it was started for has ended meanwhile.
            tokio::spawn(served.discard(child));
            return;
        }
        state.served.insert(tag.clone(), served);
    }
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        let pid = process.pid;
        let how = Served::ended(process, child).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let mut state = inner.state();
        let current = state.run == Some(run)
            && state.served.get(&tag).is_some_and(|it| it.process.pid == pid);
        if current {
            state.served.remove(&tag);
            // The guest's mounts of it are dead, though what it was told is still so.
            state.told = None;
            state.crashes.entry(tag.clone()).or_default().push(Instant::now());
            drop(state);
            // A VM process that has ended takes its shares along, and is noticed just after.
            let records = Records::new(&inner.about.places, &inner.about.vm);
            if Process::find(&records.files().pid()).is_some() {
                tracing::warn!(vm = inner.about.vm, tag, how, "a share's process has ended");
            }
            inner.ask();
        }
    });
}

/// One pass. False when something is not as it is wanted and another try may help.
async fn pass(inner: &Arc<Inner>, run: u64, vm: &Process) -> bool {
    let wanted = wanted(inner).await;
    stop_others(inner, &wanted).await;
    let mut sound = true;
    for share in wanted {
        sound &= serve(inner, run, vm, share).await;
    }
    sound & tell(inner).await
}

/// What is to be served.
async fn wanted(inner: &Arc<Inner>) -> Vec<Wanted> {
    let about = Arc::clone(&inner.about);
    let loaded = tokio::task::spawn_blocking(move || about.definition()).await.ok().flatten();
    let mut state = inner.state();
    // A definition that became nonsense takes nothing away from a run.
    if let Some(definition) = loaded {
        let live = definition.shares.iter().filter(|share| share.kind == ShareKind::Vsock);
        state.live = live
            .map(|share| Wanted {
                tag: share.tag.clone(),
                folder: share.path.clone(),
                read_only: share.read_only,
                only: None,
            })
            .collect();
        state.defined = definition.shares.into_iter().map(|share| share.tag).collect();
    }
    let devices: BTreeSet<&str> = state.devices.iter().map(|share| share.tag.as_str()).collect();
    let live = state.live.iter().filter(|wanted| !devices.contains(wanted.tag.as_str()));
    let fallen = state.devices.iter().filter(|share| state.fallen.contains_key(&share.tag));
    let fallen = fallen.map(|share| Wanted {
        tag: share.tag.clone(),
        folder: share.path.clone(),
        read_only: share.read_only,
        only: None,
    });
    live.chain(&state.portals).cloned().chain(fallen).collect()
}

/// Ends what is served and not wanted any more, or not in this way.
async fn stop_others(inner: &Arc<Inner>, wanted: &[Wanted]) {
    let same = |served: &Served| {
        wanted.iter().any(|wanted| {
            let is = &served.record.wanted;
            // A portal's names grow while it runs.
            is.tag == wanted.tag
                && is.folder == wanted.folder
                && is.read_only == wanted.read_only
                && is.only.is_some() == wanted.only.is_some()
        })
    };
    let others: Vec<Served> = {
        let mut state = inner.state();
        state.failures.retain(|tag, _| wanted.iter().any(|wanted| wanted.tag == *tag));
        let tags: Vec<String> = state
            .served
            .iter()
            .filter(|(_, served)| !same(served))
            .map(|(tag, _)| tag.clone())
            .collect();
        tags.iter().filter_map(|tag| state.served.remove(tag)).collect()
    };
    if others.is_empty() {
        return;
    }
    // The guest leaves its mounts before they go; one that takes its time does not keep the folders.
    let _ = tokio::time::timeout(LEAVE_PATIENCE, tell(inner)).await;
    let about = Arc::clone(&inner.about);
    let stopped = tokio::task::spawn_blocking(move || {
        let (files, records) = (Files::new(&about), Records::new(&about.places, &about.vm));
        for served in others {
            if let Err(error) = served.process.kill() {
                tracing::warn!(%error, tag = served.record.wanted.tag, "a share goes on");
            }
            let _ = std::fs::remove_file(records.files().host_port(served.record.port));
            files.forget(served.record.port);
        }
    });
    let _ = stopped.await;
}

/// Has one folder served. False when it is not and another try may help.
async fn serve(inner: &Arc<Inner>, run: u64, vm: &Process, wanted: Wanted) -> bool {
    let tag = wanted.tag.clone();
    let port = {
        let mut state = inner.state();
        if state.run != Some(run) || state.served.contains_key(&tag) {
            return true;
        }
        let crashes = state.crashes.entry(tag.clone()).or_default();
        crashes.retain(|crash| crash.elapsed() < CRASH_WINDOW);
        if crashes.len() >= MOST_CRASHES {
            let failure = format!("its process ended {MOST_CRASHES} times; shares.log says more");
            state.failures.insert(tag, failure);
            return false;
        }
        free_port(|port| state.served.values().any(|served| served.record.port == port))
    };
    let (about, vm) = (Arc::clone(&inner.about), vm.clone());
    let started = tokio::task::spawn_blocking(move || {
        let port = port.ok_or("there are too many shares")?;
        Served::start(&about, &vm, wanted, port)
    });
    match started.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(started) => {
            let (vm, pid) = (&inner.about.vm, started.0.process.pid);
            tracing::info!(vm, tag, pid, "a folder is shared");
            inner.state().failures.remove(&tag);
            take(inner, run, started);
            true
        }
        Err(reason) => {
            if inner.state().failures.insert(tag.clone(), reason.clone()).as_ref() != Some(&reason)
            {
                tracing::warn!(vm = inner.about.vm, tag, reason, "a folder is not shared");
            }
            false
        }
    }
}

/// Tells the guest what has changed for it. False when it has not mounted all.
async fn tell(inner: &Arc<Inner>) -> bool {
    let (agent, request) = {
        let state = inner.state();
        let Some(agent) = state.system.clone() else {
            return true;
        };
        if state.is_early() {
            return false;
        }
        let (request, left_out) = told::request(&state);
        if left_out > 0 && state.told.as_ref() != Some(&request) {
            let vm = &inner.about.vm;
            tracing::warn!(vm, left_out, "more shares for all users than the guest can be told of");
        }
        if state.told.as_ref() == Some(&request) && state.problems.is_empty() {
            return state.unanswered.is_none();
        }
        (agent, request)
    };
    let answer = told::tell(&agent, request.clone()).await;
    let mut state = inner.state();
    match answer {
        Ok(problems) => {
            for ((tag, user), reason) in &problems {
                if state.problems.get(&(tag.clone(), *user)) != Some(reason) {
                    tracing::warn!(
                        vm = inner.about.vm,
                        tag,
                        user,
                        reason,
                        "a share is not mounted"
                    );
                }
            }
            state.told = Some(request);
            state.unanswered = None;
            state.problems = problems;
            if told::fall_back(&mut state) {
                drop(state);
                inner.ask();
                return false;
            }
            state.problems.is_empty()
        }
        Err(reason) => {
            state.told = None;
            if state.unanswered.as_ref() != Some(&reason) {
                tracing::warn!(vm = inner.about.vm, reason, "the guest is not told of its shares");
            }
            state.unanswered = Some(reason);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_ever_more_seldom_and_a_change_begins_anew() {
        let mut pause = RETRY_PAUSE;
        for _ in 0..3 {
            pause = next_pause(pause, true);
        }
        assert_eq!(pause, RETRY_PAUSE * 8);
        for _ in 0..100 {
            pause = next_pause(pause, true);
        }
        assert_eq!(pause, LONGEST_PAUSE);
        assert_eq!(next_pause(pause, false), RETRY_PAUSE);
    }
}
