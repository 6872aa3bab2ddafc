//! What is done in each turn, and what is printed of all.
//!
//! A turn of a side: the still subject is launched some times, each time until all of it is to be seen, the
//! last one stays; keys are pressed; nothing is done for a while; then the animation runs. Between two turns the
//! same subject is launched on the host's own X server. Sides take turns, so that what else the machine does
//! hits both.

use crate::cost::{self, Cost};
use crate::desktop::Desktop;
use crate::failure::{Failure, Result, system};
use crate::figures::{Times, Turns};
use crate::observer::{Marks, Observer};
use crate::program::{Program, command, own};
use crate::side::{Kind, Programs, Side};
use std::time::Duration;

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) turns: u32,
    pub(crate) keys: u32,
    pub(crate) seconds: u64,
    pub(crate) only: Option<Kind>,
    pub(crate) animation: bool,
}

/// Launches in a turn.
const LAUNCHES: u32 = 6;
/// For what is left to be done after the window is there.
const REST: Duration = Duration::from_secs(1);
/// How long nothing is done.
const IDLE: Duration = Duration::from_secs(5);
/// A key without an effect is lost after this.
const LOST: Duration = Duration::from_secs(5);
/// Most keys in a turn that may be lost.
const MOST_LOST: u32 = 3;
/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// Of one side.
#[derive(Debug, Default)]
struct Measured {
    launches: Times,
    keys: Times,
    lost: u32,
    frames: Turns,
    torn: usize,
    /// Seconds of CPU in a second of animation, of all processes but the observer.
    busy: Turns,
    /// Of the side's own programs alone.
    busy_programs: Turns,
    /// Milliseconds of CPU of all processes for a frame that was seen.
    frame_cost: Turns,
    /// Of the side's programs without the X server while nothing happens.
    idle_jiffies: Turns,
    idle_sleeps: Turns,
}

/// Measures and prints.
pub(crate) fn run(programs: &Programs, plan: &Plan) -> Result {
    std::fs::create_dir_all(&programs.logs)
        .map_err(system(format!("make {}", programs.logs.display())))?;
    let host = Desktop::start(&programs.logs)?;
    let observer = Observer::new(host.display(), &programs.logs)?;
    let (mut ours, mut xpra, mut plain) = Default::default();
    for number in 1..=plan.turns {
        for (kind, measured) in [(Kind::Ours, &mut ours), (Kind::Xpra, &mut xpra)] {
            if plan.only.is_some_and(|only| only != kind) {
                continue;
            }
            eprintln!("turn {number} of {}: {kind:?}", plan.turns);
            let side = Side::start(kind, programs, &host)?;
            if !plan.animation {
                still(measured, &side, &observer, programs, plan)?;
            }
            animation(measured, &side, &host, &observer, programs, plan)?;
        }
        if plan.only.is_none() && !plan.animation {
            launches(&mut plain, host.display(), &observer, programs)?;
        }
    }
    print(&ours, &xpra, &plain);
    Ok(())
}

fn subject(display: &str, programs: &Programs, mode: &str) -> Result<Program> {
    let mut subject = command(own()?);
    subject.args(["subject", mode]).env("DISPLAY", display);
    Program::start(&mut subject, &programs.logs.join("subject.log"))
}

/// Launches the subject several times; the last one stays.
fn launches(
    times: &mut Times,
    display: &str,
    observer: &Observer,
    programs: &Programs,
) -> Result<(Program, Marks)> {
    let mut number = 1;
    loop {
        std::thread::sleep(REST / 4);
        let start = std::time::Instant::now();
        let program = subject(display, programs, "still")?;
        let marks = observer.appear()?;
        times.add(start.elapsed());
        if number == LAUNCHES {
            return Ok((program, marks));
        }
        number += 1;
        drop(program);
        observer.vanish(marks)?;
    }
}

fn still(
    measured: &mut Measured,
    side: &Side,
    observer: &Observer,
    programs: &Programs,
    plan: &Plan,
) -> Result {
    let (program, marks) = launches(&mut measured.launches, side.display(), observer, programs)?;
    std::thread::sleep(REST);
    observer.click(marks)?;
    std::thread::sleep(REST);
    let mut lost = 0;
    for number in 0..plan.keys {
        match observer.strike(marks, LOST)? {
            Some(time) => measured.keys.add(time),
            None => lost += 1,
        }
        if lost > MOST_LOST {
            let (what, seconds) = ("what keys do".to_owned(), LOST.as_secs());
            return Err(Failure::Late { what, seconds, logs: programs.logs.clone() });
        }
        // In no step with any clock of the sides.
        std::thread::sleep(Duration::from_millis(60 + u64::from(number * 37 % 41)));
    }
    measured.lost += lost;
    std::thread::sleep(REST);
    let before = cost::of(&side.programs())?;
    std::thread::sleep(IDLE);
    let idle = cost::of(&side.programs())? - before;
    measured.idle_jiffies.add(idle.jiffies as f64);
    measured.idle_sleeps.add(idle.sleeps as f64);
    drop(program);
    observer.vanish(marks)
}

fn animation(
    measured: &mut Measured,
    side: &Side,
    host: &Desktop,
    observer: &Observer,
    programs: &Programs,
    plan: &Plan,
) -> Result {
    let program = subject(side.display(), programs, "animate")?;
    let marks = observer.appear_animated()?;
    std::thread::sleep(REST);
    let mut all = side.programs();
    let own = all.clone();
    all.extend(host.processes());
    all.extend([side.server(), program.id()]);
    let seconds = plan.seconds as f64;
    let spent = |of: &[u32], before: Cost| -> Result<f64> {
        Ok((cost::of(of)? - before).nanoseconds as f64 / SECOND)
    };
    let (before, own_before) = (cost::of(&all)?, cost::of(&own)?);
    let seen = observer.watch(marks, Duration::from_secs(plan.seconds))?;
    let (spent, own_spent) = (spent(&all, before)?, spent(&own, own_before)?);
    measured.frames.add(seen.frames as f64 / seconds);
    measured.torn += seen.torn;
    measured.busy.add(spent / seconds);
    measured.busy_programs.add(own_spent / seconds);
    measured.frame_cost.add(spent * 1000.0 / (seen.frames.max(1) as f64));
    drop(program);
    std::thread::sleep(REST);
    Ok(())
}

fn print(ours: &Measured, xpra: &Measured, plain: &Times) {
    let compare = |name: &str, unit: &str, better: &str, ours: f64, xpra: f64| {
        println!("compare {name} {unit} {better} {ours:.3} {xpra:.3}");
    };
    let times = |name: &str, of: fn(&Measured) -> &Times| {
        for percent in [50, 90] {
            let name = format!("{name}_p{percent}");
            let value = |measured| of(measured).percentile(percent);
            compare(&name, "ms", "lower", value(ours), value(xpra));
        }
    };
    let turns = |name: &str, unit: &str, better: &str, of: fn(&Measured) -> &Turns| {
        compare(name, unit, better, of(ours).median(), of(xpra).median());
    };
    times("key_to_pixel", |measured| &measured.keys);
    turns("frames", "1/s", "higher", |measured| &measured.frames);
    turns("animation_cpu", "cpu", "lower", |measured| &measured.busy);
    turns("animation_cpu_own", "cpu", "lower", |measured| &measured.busy_programs);
    turns("cpu_of_a_frame", "ms", "lower", |measured| &measured.frame_cost);
    times("launch", |measured| &measured.launches);
    turns("idle_sleeps", "sleeps", "lower", |measured| &measured.idle_sleeps);
    for (who, measured) in [("ours", ours), ("xpra", xpra)] {
        let Measured { keys, lost, torn, launches, .. } = measured;
        let (keys, launches) = (keys.count(), launches.count());
        println!("{who}: {keys} keys, {lost} lost, {launches} launches, {torn} torn frames");
    }
    for percent in [50, 90] {
        let plain = plain.percentile(percent);
        println!("launch without either, p{percent}: {plain:.3} ms");
    }
    let held = |name: &str, unit: &str, found: f64, most: f64| {
        println!("held {name} {unit} {found:.3} {most:.3}");
    };
    held("idle", "jiffies", ours.idle_jiffies.largest(), 0.0);
    held("idle_sleeps", "sleeps", ours.idle_sleeps.largest(), 0.0);
    let beyond = ours.launches.percentile(50) - plain.percentile(50);
    held("launch_beyond", "ms", beyond, 150.0);
}
