//! `ping`: how far away a guest's agent is.

use super::arguments::PingArguments;
use super::output;
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use proto::v1::PingAgentRequest;
use serde::Serialize;

/// Microseconds, of the calls in order of their time.
#[derive(Debug, PartialEq, Serialize)]
struct Times {
    count: usize,
    least: f64,
    median: f64,
    most: f64,
}

fn times(mut nanoseconds: Vec<u64>) -> Option<Times> {
    nanoseconds.sort_unstable();
    // Exact for calls of up to days.
    let microseconds = |at: usize| nanoseconds.get(at).map(|time| *time as f64 / 1000.0);
    Some(Times {
        count: nanoseconds.len(),
        least: microseconds(0)?,
        median: microseconds(nanoseconds.len() / 2)?,
        most: microseconds(nanoseconds.len() - 1)?,
    })
}

pub(super) fn ping(arguments: PingArguments) -> Result<(), Problem> {
    let PingArguments { name, count, wait, json } = arguments;
    let request = PingAgentRequest { name, count, patience: wait };
    let reply = block_on(async { Ok(daemon().await?.ping_agent(request).await?.into_inner()) })?;
    let times = times(reply.nanoseconds).ok_or_else(|| Problem::failed("nothing was measured"))?;
    if json {
        return output::print_json(&times);
    }
    let Times { count, least, median, most } = times;
    let calls = if count == 1 { "call" } else { "calls" };
    output::print(&format!(
        "{count} {calls}: least {least:.0} \u{b5}s, median {median:.0} \u{b5}s, most {most:.0} \u{b5}s\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calls_in_order() {
        assert_eq!(times(vec![]), None);
        let times = times(vec![3000, 1000, 9000]).unwrap();
        assert_eq!(times, Times { count: 3, least: 1.0, median: 3.0, most: 9.0 });
    }
}
