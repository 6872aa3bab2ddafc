//! The way from a key to its pixels, stage by stage.
//!
//! Who sits before the screen knows the two ends. Between them compositor and agent write to their logs when a
//! key came past which place (`window_link::latency`), and the subject says when it got the key and when it had
//! drawn. All these times are of one clock on each machine (`CLOCK_MONOTONIC`). Of two machines nothing is
//! compared: what is left of the time that the compositor waited for the guest, without the time that the
//! guest's programs have accounted for, is the way there and back.

use crate::desktop::Desktop;
use crate::failure::{Failure, Result, system};
use crate::figures::Times;
use crate::observer::{Observer, Strike};
use crate::side::{Kind, Programs, Side};
use crate::turns;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A key without an effect is lost after this: an emulated machine is slow when others work.
const LOST: Duration = Duration::from_secs(20);
/// Nanoseconds between two keys, at least.
const APART: i128 = 20_000_000;
/// For what is left to be done after the window is there.
const REST: Duration = Duration::from_secs(2);

/// What the logs say.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub(crate) host: String,
    pub(crate) guest: String,
    pub(crate) subject: String,
}

/// Times of a process, by place.
type Way = BTreeMap<String, u64>;

/// A stage: what happens in it, and how long each key took.
pub(crate) type Stages = Vec<(&'static str, Times)>;

/// The lines of a log that tell of a way with all these places.
fn ways(log: &str, places: &[&str]) -> Vec<Way> {
    log.lines()
        .filter_map(|line| {
            let (_, way) = line.split_once("way ")?;
            let way: Way = way
                .split_whitespace()
                .filter_map(|part| part.split_once('='))
                .filter_map(|(place, at)| Some((place.to_owned(), at.parse().ok()?)))
                .collect();
            places.iter().all(|place| way.contains_key(*place)).then_some(way)
        })
        .collect()
}

/// Guest's time that was `host`'s, by a pair known to belong together: in the middle of the time it may be.
fn offset(host: &Way, guest: &Way) -> i128 {
    let middle = |from: u64, to: u64| i128::from(from).midpoint(i128::from(to));
    middle(guest["heard"], guest["sent"]) - middle(host["said"], host["read"])
}

/// A process may lose the CPU between what it did and the note of it; what came of it is noted by another one before.
fn in_order(mut way: [u64; 7]) -> [u64; 7] {
    for number in (0..way.len() - 1).rev() {
        way[number] = way[number].min(way[number + 1]);
    }
    way
}

/// What the subject prints for each key.
fn drawn(log: &str) -> Vec<Way> {
    ways(log, &["got", "drew"])
}

/// Puts together what belongs together. Keys of which a part is missing are left out; how many is told.
pub(crate) fn split(strikes: &[Strike], texts: &Texts) -> Result<(Stages, usize)> {
    let hosts = ways(&texts.host, &["pressed", "said", "read", "taken", "drawn"]);
    let guests = ways(&texts.guest, &["heard", "injected", "damaged", "captured", "sent"]);
    let subjects = drawn(&texts.subject);
    let missing = |what: &str| Failure::Stages(what.to_owned());
    let first = hosts.iter().zip(&guests).next();
    let (host, guest) = first.ok_or_else(|| {
        missing(&format!(
            "{} keys in the compositor's log, {} in the agent's",
            hosts.len(),
            guests.len()
        ))
    })?;
    // The clocks are known to within the first key's way there and back; keys are further apart.
    let slack = i128::from(host["read"] - host["said"]).max(APART);
    let offset = offset(host, guest);
    let mut stages: Stages = [
        "host: X server, to the compositor",
        "compositor: key becomes a message",
        "between host and guest, both ways",
        "agent: key to the guest's X server",
        "guest: X server, to the program",
        "program draws",
        "guest: X server, damage to the agent",
        "agent: pixels to window memory",
        "agent: message to the host",
        "compositor: message to its loop",
        "compositor: pixels to the X server",
        "host: X server, until it is seen",
        "all",
    ]
    .map(|name| (name, Times::default()))
    .into();
    let mut left_out = 0;
    for strike in strikes {
        let host = hosts
            .iter()
            .find(|host| host["pressed"] >= strike.struck && host["read"] <= strike.seen);
        let guest = host.and_then(|host| {
            guests.iter().find(|guest| {
                i128::from(guest["heard"]) - offset >= i128::from(host["said"]) - slack
                    && i128::from(guest["sent"]) - offset <= i128::from(host["read"]) + slack
            })
        });
        let subject = guest.and_then(|guest| {
            subjects.iter().find(|it| it["got"] >= guest["heard"] && it["got"] <= guest["damaged"])
        });
        let (Some(host), Some(guest), Some(subject)) = (host, guest, subject) else {
            left_out += 1;
            continue;
        };
        let here = in_order([
            strike.struck,
            host["pressed"],
            host["said"],
            host["read"],
            host["taken"],
            host["drawn"],
            strike.seen,
        ]);
        let there = in_order([
            guest["heard"],
            guest["injected"],
            subject["got"],
            subject["drew"],
            guest["damaged"],
            guest["captured"],
            guest["sent"],
        ]);
        let part = |way: &[u64; 7], number: usize| way[number + 1] - way[number];
        let took = [
            part(&here, 0),
            part(&here, 1),
            part(&here, 2).saturating_sub(there[6] - there[0]),
            part(&there, 0),
            part(&there, 1),
            part(&there, 2),
            part(&there, 3),
            part(&there, 4),
            part(&there, 5),
            part(&here, 3),
            part(&here, 4),
            part(&here, 5),
            here[6] - here[0],
        ];
        for ((_, times), took) in stages.iter_mut().zip(took) {
            times.add(Duration::from_nanos(took));
        }
    }
    if left_out * 4 > strikes.len() {
        return Err(missing(&format!("of {} keys {left_out} left no whole way", strikes.len())));
    }
    Ok((stages, left_out))
}

/// For `cargo xtask bench`: `stage MEDIAN NINETIETH NAME`, in milliseconds.
pub(crate) fn print(stages: &Stages, left_out: usize) {
    for (name, times) in stages {
        println!("stage {:.3} {:.3} {name}", times.percentile(50), times.percentile(90));
    }
    let keys = stages.last().map_or(0, |(_, times)| times.count());
    println!("{keys} keys, {left_out} left out");
}

/// Without a VM: measures and prints.
pub(crate) fn measure(programs: &Programs, keys: u32) -> Result {
    let logs = &programs.logs;
    std::fs::create_dir_all(logs).map_err(system(format!("make {}", logs.display())))?;
    let host = Desktop::start(logs)?;
    let side = Side::start(Kind::Ours, programs, &host)?;
    let subject = turns::subject(side.display(), programs, "still")?;
    let strikes = press(&Observer::new(host.display(), logs)?, logs, keys)?;
    drop((subject, side));
    let read = |name: &str| read(&logs.join(name));
    let texts = Texts {
        host: read("compositor.log")?,
        guest: read("agent.log")?,
        subject: read("subject.log")?,
    };
    let (stages, left_out) = split(&strikes, &texts)?;
    print(&stages, left_out);
    Ok(())
}

/// On `$DISPLAY`: presses keys and prints what came of them.
pub(crate) fn strike(logs: &Path, keys: u32) -> Result {
    let display = std::env::var("DISPLAY").unwrap_or_default();
    for Strike { struck, seen } in press(&Observer::new(&display, logs)?, logs, keys)? {
        println!("strike {struck} {seen}");
    }
    Ok(())
}

fn press(observer: &Observer, logs: &Path, keys: u32) -> Result<Vec<Strike>> {
    let marks = observer.appear()?;
    std::thread::sleep(REST);
    observer.click(marks)?;
    std::thread::sleep(REST);
    let (strikes, lost) = turns::strike_all(observer, marks, keys, LOST, logs)?;
    eprintln!("{} keys, {lost} lost", strikes.len());
    Ok(strikes)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(system(format!("read {}", file.display())))
}

/// What files say.
pub(crate) fn of_files(strikes: &Path, host: &Path, guest: &Path, subject: &Path) -> Result {
    let texts = Texts { host: read(host)?, guest: read(guest)?, subject: read(subject)? };
    let (stages, left_out) = split(&self::strikes(&read(strikes)?), &texts)?;
    print(&stages, left_out);
    Ok(())
}

/// Lines `strike STRUCK SEEN`, as [`strike`] prints them.
pub(crate) fn strikes(text: &str) -> Vec<Strike> {
    text.lines()
        .filter_map(|line| {
            let (struck, seen) = line.strip_prefix("strike ")?.split_once(' ')?;
            Some(Strike { struck: struck.parse().ok()?, seen: seen.parse().ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Texts, in_order, split, strikes};

    /// Two keys; the guest's clock is 1000 ms behind. Of the second the guest's line is there first.
    fn texts() -> Texts {
        let ms = |at: u64| at * 1_000_000;
        let host = |start: u64| {
            format!(
                "TRACE latency: way pressed={} said={} read={} taken={} drawn={}\n",
                ms(start + 1),
                ms(start + 3),
                ms(start + 40),
                ms(start + 41),
                ms(start + 43)
            )
        };
        let guest = |start: u64| {
            format!(
                "way heard={} injected={} damaged={} captured={} sent={}\n",
                ms(start + 11 - 1000),
                ms(start + 13 - 1000),
                ms(start + 20 - 1000),
                ms(start + 24 - 1000),
                ms(start + 25 - 1000)
            )
        };
        let subject = |start: u64| {
            format!("way got={} drew={}\n", ms(start + 16 - 1000), ms(start + 17 - 1000))
        };
        Texts {
            host: host(5000) + "something else\n" + &host(5200),
            guest: guest(5000) + &guest(5200),
            subject: subject(5000) + &subject(5200),
        }
    }

    #[test]
    fn each_stage_has_its_time_and_the_way_between_machines_is_what_is_left() {
        let strikes =
            strikes("strike 5000000000 5046000000\nstrike 5200000000 5246000000\n3 lost\n");
        let (stages, left_out) = split(&strikes, &texts()).unwrap();
        assert_eq!(left_out, 0);
        let found: Vec<f64> = stages.iter().map(|(_, times)| times.percentile(50)).collect();
        let expected = [1.0, 2.0, 23.0, 2.0, 3.0, 1.0, 3.0, 4.0, 1.0, 1.0, 2.0, 3.0, 46.0];
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let sum: f64 = found[..12].iter().sum();
        assert!((sum - found[12]).abs() < 1e-6, "the stages are all of it: {sum}");
    }

    #[test]
    fn what_is_noted_late_was_there_before_what_came_of_it() {
        assert_eq!(in_order([1, 5, 4, 6, 9, 7, 8]), [1, 4, 4, 6, 7, 7, 8]);
    }

    #[test]
    fn keys_without_a_whole_way_are_left_out_and_too_many_are_a_failure() {
        let mut texts = texts();
        let all = "strike 5000000000 5046000000\n".repeat(4) + "strike 5200000000 5246000000\n";
        texts.subject = texts.subject.lines().next().unwrap().to_owned();
        let (stages, left_out) = split(&strikes(&all), &texts).unwrap();
        assert_eq!((left_out, stages[0].1.count()), (1, 4));
        let most = "strike 5000000000 5046000000\nstrike 5200000000 5246000000\n";
        assert!(split(&strikes(most), &texts).is_err());
        texts.guest.clear();
        assert!(split(&strikes(most), &texts).is_err());
    }
}
