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
use crate::observer::{Marks, Observer, Strike};
use crate::program::{Program, command, own};
use crate::side::{Kind, Programs, Side};
use std::path::Path;
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
    animations: Vec<Animation>,
    torn: usize,
    /// Of the side's programs without the X server while nothing happens.
    idle_jiffies: Turns,
    idle_sleeps: Turns,
}

/// One turn of the animation.
#[derive(Clone, Copy, Debug, Default)]
struct Animation {
    /// Different frames seen in a second.
    frames: f64,
    /// Seconds of CPU in a second, of all processes but the observer: both X servers, the window manager and
    /// the subject are among them.
    all: f64,
    /// Of the side's own programs alone.
    own: f64,
}

impl Measured {
    /// The turn with most frames: what the side can do when the machine does little else.
    fn best(&self) -> Animation {
        let best = self.animations.iter().max_by(|one, two| one.frames.total_cmp(&two.frames));
        best.copied().unwrap_or_default()
    }
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

pub(crate) fn subject(display: &str, programs: &Programs, mode: &str) -> Result<Program> {
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
    let (strikes, lost) = strike_all(observer, marks, plan.keys, LOST, &programs.logs)?;
    strikes.iter().for_each(|strike| measured.keys.add(strike.took()));
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

/// Presses so many keys, each after the one before has been seen.
pub(crate) fn strike_all(
    observer: &Observer,
    marks: Marks,
    keys: u32,
    patience: Duration,
    logs: &Path,
) -> Result<(Vec<Strike>, u32)> {
    let (mut strikes, mut lost) = (Vec::new(), 0);
    for number in 0..keys {
        match observer.strike(marks, patience)? {
            Some(strike) => strikes.push(strike),
            None => lost += 1,
        }
        if lost > MOST_LOST {
            let (what, seconds) = ("what keys do".to_owned(), patience.as_secs());
            return Err(Failure::Late { what, seconds, logs: logs.to_owned() });
        }
        // In no step with any clock of the sides.
        std::thread::sleep(Duration::from_millis(60 + u64::from(number * 37 % 41)));
    }
    Ok((strikes, lost))
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
    let frames = seen.frames as f64 / seconds;
    let (all, own) = (spent / seconds, own_spent / seconds);
    eprintln!("{frames:.1} frames/s, {all:.3} CPUs, {own:.3} of them its own");
    measured.animations.push(Animation { frames, all, own });
    measured.torn += seen.torn;
    drop(program);
    std::thread::sleep(REST);
    Ok(())
}

fn print(ours: &Measured, xpra: &Measured, plain: &Times) {
    let compare = |name: &str, unit: &str, better: &str, ours: f64, xpra: f64| {
        println!("compare {name} {unit} {better} {ours:.3} {xpra:.3}");
    };
    let times = |name: &str, of: fn(&Measured) -> &Times| {
        for percent in [10, 50, 90] {
            let name = format!("{name}_p{percent}");
            let value = |measured| of(measured).percentile(percent);
            compare(&name, "ms", "lower", value(ours), value(xpra));
        }
    };
    let best = |name: &str, unit: &str, better: &str, of: fn(Animation) -> f64| {
        compare(name, unit, better, of(ours.best()), of(xpra.best()));
    };
    times("key_to_pixel", |measured| &measured.keys);
    best("frames", "1/s", "higher", |best| best.frames);
    best("animation_cpu", "cpus", "lower", |best| best.all);
    best("animation_cpu_own", "cpus", "lower", |best| best.own);
    best("cpu_of_a_frame", "ms", "lower", |best| best.all * 1000.0 / best.frames.max(1e-3));
    times("launch", |measured| &measured.launches);
    let (our_sleeps, their_sleeps) = (&ours.idle_sleeps, &xpra.idle_sleeps);
    compare("idle_sleeps", "sleeps", "lower", our_sleeps.median(), their_sleeps.median());
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
