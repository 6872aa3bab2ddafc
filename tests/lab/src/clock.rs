//! How long things take, in the machine's own time.

use crate::Result;
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `program` `count` times.
pub(crate) fn run(program: &[OsString], count: usize) -> Result {
    let (name, arguments) = program.split_first().ok_or("no program given")?;
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let status = Command::new(name).args(arguments).stdout(Stdio::null()).status()?;
        times.push(start.elapsed());
        if !status.success() {
            return Err(format!("{} ended with {status}", name.display()).into());
        }
    }
    print_median(times)
}

/// Prints the median of `times`.
pub(crate) fn print_median(mut times: Vec<Duration>) -> Result {
    times.sort_unstable();
    let median = times.get(times.len() / 2).ok_or("nothing was measured")?;
    println!("nanoseconds {}", median.as_nanos());
    Ok(())
}
