//! Scenarios that run two at a time.
//!
//! Bochs is one thread, and its time is made of its instructions: what runs beside it changes nothing but how long
//! it takes. So these scenarios share the processors. Each is a run of this task runner of its own
//! (`cargo xtask lab NAME`), whose output is shown in one piece when it ends.

use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step};
use crate::workspace;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// How many run at once.
const AT_ONCE: usize = 2;
/// For the whole of a scenario's run: its machine has a limit of its own, which says more.
const LIMIT: Duration = Duration::from_secs(3600);

/// One scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// As `cargo xtask lab` wants it.
    pub(super) name: String,
    /// What holds.
    pub(super) claim: String,
}

/// How one ended.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    pub(super) job: &'a Job,
    pub(super) result: Result,
    pub(super) took: Duration,
}

/// Runs all of them, the first ones first, and calls `ended` as each ends.
pub(super) fn run<'a>(jobs: &'a [Job], ended: &mut dyn FnMut(Ended<'a>)) {
    let left = Mutex::new(jobs.iter());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(jobs.len()) {
            let sender = sender.clone();
            let left = &left;
            scope.spawn(move || {
                while let Some(job) = left.lock().ok().and_then(|mut left| left.next()) {
                    let start = Instant::now();
                    let result = one(job);
                    let took = start.elapsed();
                    if sender.send(Ended { job, result, took }).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for one in receiver {
            println!("--- lab {}: {}", one.job.name, one.job.claim);
            if let Ok(text) = log(one.job).and_then(|log| read(&log)) {
                print!("{text}");
            }
            ended(one);
        }
    });
}

/// Runs one with its output in its log.
fn one(job: &Job) -> Result {
    let log = log(job)?;
    let _ = std::fs::remove_file(&log);
    step(job)?.run(Output::Logged(log.clone())).map_err(|failure| {
        let text = read(&log).unwrap_or_default();
        why(&text).map_or(failure, |why| Failure::new(why.to_owned()))
    })
}

/// Runs one by itself, its output shown as it comes.
pub(super) fn again(job: &Job) -> Result {
    step(job)?.run(Output::Shown)
}

fn step(job: &Job) -> Result<Step> {
    let program = std::env::current_exe().context(|| "find this program".to_owned())?;
    Ok(Step::new(program).arguments(["lab", &job.name]).limit(LIMIT))
}

/// The scenario's own word of why it does not hold.
fn why(text: &str) -> Option<&str> {
    const STARTS: [&str; 3] = ["does not hold: ", "error: ", "FAILED: "];
    text.lines().rev().find(|line| STARTS.iter().any(|start| line.starts_with(start)))
}

fn log(job: &Job) -> Result<PathBuf> {
    Ok(workspace::folder("test/lab")?.join(format!("{}.log", job.name)))
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::why;

    #[test]
    fn a_scenarios_last_word_is_the_reason() {
        let text = "FAILED: smp ended with 1\nmachine: exit 1\nerror: ends with 1\n{}";
        assert_eq!(why(text), Some("error: ends with 1"));
        assert_eq!(why("all is well\n"), None);
    }
}
