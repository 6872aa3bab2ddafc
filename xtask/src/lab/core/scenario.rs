//! Scenarios of the core: each a file in `tests/lab/core` that says what holds, on which machines, with
//! which guests, and what their consoles must say.

use super::archive::{Disk, Files, Guest};
use super::{Packed, Printer, Whose, describe, source};
use crate::failure::{Context, Failure, Result};
use crate::lab::bare::{Emulator, End, Machine, Module, Said, probe};
use crate::lab::scenario::figure;
use crate::{bare_metal, packages, workspace};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One scenario, as its file says it (docs/src/lab.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// `core-` and the file's name without its ending.
    #[serde(skip)]
    pub(crate) name: String,
    /// What holds, in a sentence or two.
    pub(crate) claim: String,
    /// The machines it holds on.
    pub(crate) machines: Vec<Emulator>,
    /// Machines on which it is known not to hold, and why: `cargo xtask test` counts it as skipped there.
    #[serde(default)]
    pub(crate) open: std::collections::BTreeMap<Emulator, String>,
    /// The machine's processors.
    #[serde(default = "single")]
    cpus: u32,
    /// The machine's memory in MiB; what its guests need when it is not said.
    memory: Option<u64>,
    /// Seconds after which it does not hold.
    limit: u64,
    /// QEMU boots GRUB from a disc.
    #[serde(default)]
    disc: bool,
    /// QEMU counts instructions.
    #[serde(default)]
    icount: bool,
    /// QEMU has a virtio console, and what is said there counts, not what the serial line says.
    #[serde(default)]
    terminal: bool,
    /// What boots instead of the core: `probe`.
    image: Option<String>,
    /// The core's command line.
    #[serde(default)]
    append: String,
    /// What lines of core and monitor must match, in this order.
    #[serde(default)]
    expect: Vec<Pattern>,
    /// What no line of anybody may match.
    #[serde(default)]
    refuse: Vec<Pattern>,
    /// The status the machine must end with. Without it the scenario holds, and the machine is ended,
    /// as soon as everything expected was said.
    status: Option<u8>,
    /// Figures by name, from what core and monitor say: a pattern whose group is the value.
    #[serde(default)]
    figures: BTreeMap<String, Pattern>,
    /// The guests.
    #[serde(default, rename = "guest")]
    guests: Vec<GuestWanted>,
    /// Boots that differ, one after the other; without them there is one boot.
    #[serde(default, rename = "case")]
    cases: Vec<Case>,
}

/// One boot of a scenario: what is different from its machine, and how it must end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The machine's memory in MiB; the scenario's when it is not said.
    memory: Option<u64>,
    /// Models of the processor, in the emulators' words.
    #[serde(default)]
    cpu: BTreeMap<Emulator, String>,
    /// The core's command line.
    #[serde(default)]
    append: String,
    /// Files of the boot archive with other contents, or more of them.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// Files that are left out of the boot archive.
    #[serde(default)]
    without: Vec<String>,
    /// How many bytes of the boot archive are left.
    cut: Option<usize>,
    /// What lines of core and monitor must match, in this order.
    expect: Vec<Pattern>,
    /// The status the machine must end with; without it the core must stop the machine.
    status: Option<u8>,
}

/// What every boot of a scenario is made of.
#[derive(Clone, Debug)]
struct Parts {
    core: PathBuf,
    files: Files,
    /// The guests' memory in MiB.
    memory: u64,
}

/// How a boot is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It is ended as soon as everything expected was said.
    AllSaid,
    /// It ends itself with this status.
    Status(u8),
    /// The core stops the machine.
    Stopped,
}

/// One guest of a scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestWanted {
    name: String,
    #[serde(default = "small")]
    memory: u64,
    #[serde(default = "single")]
    vcpus: u32,
    /// As `cargo xtask lab core --kernel`; paths from the clone's root.
    kernel: String,
    initrd: Option<String>,
    #[serde(default)]
    append: String,
    /// A script for the lab's guest (`initrd = "guest"`), which ends with its status.
    check: Option<String>,
    /// Size in MiB of a disk of zeros in memory.
    disk: Option<u64>,
    #[serde(default)]
    net: bool,
    /// What its console must say, in this order.
    #[serde(default)]
    expect: Vec<Pattern>,
    /// What the monitor must say of its end.
    ends: Option<Pattern>,
}

fn single() -> u32 {
    1
}

fn small() -> u64 {
    16
}

/// A regular expression, checked when the file is read.
#[derive(Clone, Debug)]
struct Pattern(Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What is still to be said on one console.
#[derive(Clone, Debug)]
struct Wanted<'a> {
    who: &'a str,
    patterns: std::collections::VecDeque<&'a Pattern>,
}

impl<'a> Wanted<'a> {
    fn new(who: &'a str, patterns: &'a [Pattern]) -> Self {
        Self { who, patterns: patterns.iter().collect() }
    }

    /// One line answers one pattern.
    fn hear(&mut self, line: &str) {
        let answered = |pattern: &&Pattern| pattern.0.is_match(line);
        if self.patterns.front().is_some_and(answered) {
            self.patterns.pop_front();
        }
    }
}

impl Scenario {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| format!("read {}", path.display()))?;
        let mut scenario: Self =
            toml::from_str(&text).context(|| format!("read {}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        scenario.name = format!("core-{stem}");
        Ok(scenario)
    }

    /// Runs it on one machine; prints everything said; its figures, or why it does not hold.
    pub(crate) fn run(&self, emulator: Emulator) -> Result<Map<String, Value>> {
        packages::require(packages::CORE)?;
        let start = Instant::now();
        let parts = self.parts()?;
        let mut figures = Map::new();
        if self.cases.is_empty() {
            let boot = Case {
                append: self.append.clone(),
                expect: self.expect.clone(),
                ..Case::default()
            };
            let ending = self.status.map_or(Ending::AllSaid, Ending::Status);
            self.boot(emulator, &parts, &boot, ending, &mut figures)?;
        }
        for case in &self.cases {
            println!("- {}", case.name);
            let ending = case.status.map_or(Ending::Stopped, Ending::Status);
            self.boot(emulator, &parts, case, ending, &mut figures)
                .map_err(|failure| Failure::new(format!("{}: {failure}", case.name)))?;
        }
        figures.insert(
            "seconds".to_owned(),
            json!((start.elapsed().as_secs_f64() * 10.0).round() / 10.0),
        );
        Ok(figures)
    }

    fn boot(
        &self,
        emulator: Emulator,
        parts: &Parts,
        case: &Case,
        ending: Ending,
        figures: &mut Map<String, Value>,
    ) -> Result {
        let packed = parts.pack(case)?;
        let machine = Machine {
            emulator,
            image: packed.core.clone(),
            modules: vec![Module::plain(packed.archive.clone())],
            command_line: case.append.clone(),
            cpus: self.cpus,
            cpu: case.cpu.get(&emulator).cloned(),
            lenient: false,
            memory: case.memory.or(self.memory).unwrap_or(packed.memory),
            disc: self.disc && emulator == Emulator::Qemu,
            icount: self.icount && emulator == Emulator::Qemu,
            disk: None,
            terminal: self.terminal && emulator == Emulator::Qemu,
            net: emulator == Emulator::Qemu && self.guests.iter().any(|guest| guest.net),
            limit: Duration::from_secs(self.limit),
        };
        self.judge(&machine, case, ending, figures)
    }

    fn judge(
        &self,
        machine: &Machine,
        case: &Case,
        ending: Ending,
        figures: &mut Map<String, Value>,
    ) -> Result {
        let names: Vec<&str> = self.guests.iter().map(|guest| guest.name.as_str()).collect();
        let mut of_machine = Wanted::new("the machine", &case.expect);
        let mut of_guests: Vec<Wanted<'_>> =
            self.guests.iter().map(|guest| Wanted::new(&guest.name, &guest.expect)).collect();
        let mut of_ends: Vec<Wanted<'_>> = self
            .guests
            .iter()
            .map(|guest| Wanted::new(&guest.name, guest.ends.as_slice()))
            .collect();
        let mut refused = None;
        let mut printer = Printer::new(true);
        let end = machine.run(&mut |said: Said<'_>| {
            let whose = Whose::of(said.text, &names);
            printer.hear(whose, said);
            if let Some(pattern) = self.refuse.iter().find(|one| one.0.is_match(said.text)) {
                refused = Some(format!("`{}` was said: {}", pattern.0, said.text));
                return ControlFlow::Break(());
            }
            match whose {
                Whose::Guest(index, line) => of_guests[index].hear(line),
                Whose::Machine(line) => {
                    of_machine.hear(line);
                    for wanted in &mut of_ends {
                        if let Some(end) = end_of(wanted.who, line) {
                            wanted.hear(end);
                        }
                    }
                    figures.extend(self.figures_in(line));
                }
            }
            let (Whose::Guest(_, line) | Whose::Machine(line)) = whose;
            if let Some((name, value)) = figure(line).filter(|_| said.complete) {
                figures.insert(name, value);
            }
            let all = of_machine.patterns.is_empty()
                && of_guests.iter().chain(&of_ends).all(|wanted| wanted.patterns.is_empty());
            if ending == Ending::AllSaid && all {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        drop(printer);
        if let Some(refused) = refused {
            return Err(Failure::new(refused));
        }
        let missing = std::iter::once(&of_machine)
            .chain(&of_guests)
            .chain(&of_ends)
            .find_map(|wanted| Some((wanted.who, wanted.patterns.front()?)));
        let missing = missing.map(|(who, pattern)| format!("{who} never said `{}`", pattern.0));
        match (&end, ending, missing) {
            (End::Enough, Ending::AllSaid, None) | (End::Stopped, Ending::Stopped, None) => Ok(()),
            (End::Exit(found), Ending::Status(wanted), None) if *found == wanted => Ok(()),
            (_, _, Some(missing)) => {
                Err(Failure::new(format!("{missing}; {}", describe(&end, machine))))
            }
            (_, Ending::Status(wanted), None) => Err(Failure::new(format!(
                "status {wanted} was expected; {}",
                describe(&end, machine)
            ))),
            (_, Ending::Stopped, None) => Err(Failure::new(format!(
                "the core was to stop the machine; {}",
                describe(&end, machine)
            ))),
            (_, Ending::AllSaid, None) => Err(Failure::new(describe(&end, machine))),
        }
    }

    fn figures_in(&self, line: &str) -> impl Iterator<Item = (String, Value)> {
        self.figures.iter().filter_map(move |(name, pattern)| {
            let value = pattern.0.captures(line)?.get(1)?.as_str();
            Some((name.clone(), json!(value.parse::<f64>().ok()?)))
        })
    }

    fn parts(&self) -> Result<Parts> {
        let guests: Vec<Guest> =
            self.guests.iter().map(GuestWanted::make).collect::<Result<_>>()?;
        let images = match self.image.as_deref() {
            None => bare_metal::images()?,
            Some("probe") => {
                let probe = probe::build()?;
                bare_metal::Images { core: probe.clone(), monitor: probe }
            }
            Some(other) => {
                return Err(Failure::new(format!(
                    "{}: image = \"{other}\": only `probe` can boot instead of the core",
                    self.name
                )));
            }
        };
        Ok(Parts {
            files: Files::new(&images.monitor, &guests)?,
            core: images.core,
            memory: guests.iter().map(|guest| guest.memory).sum(),
        })
    }
}

impl Parts {
    fn pack(&self, case: &Case) -> Result<Packed> {
        let mut files = self.files.clone();
        for (name, text) in &case.files {
            files.set(name, text.as_bytes());
        }
        for name in &case.without {
            files.remove(name);
        }
        let mut bytes = files.pack();
        bytes.truncate(case.cut.unwrap_or(usize::MAX));
        Packed::new(self.core.clone(), &bytes, self.memory)
    }
}

impl GuestWanted {
    fn make(&self) -> Result<Guest> {
        let mut initrd = self
            .initrd
            .as_deref()
            .map(|name| source::in_clone(name, source::initrd))
            .transpose()?;
        if let Some(script) = &self.check {
            initrd = initrd.map(|initrd| source::with_check(initrd, script));
        }
        Ok(Guest {
            name: self.name.clone(),
            memory: self.memory,
            vcpus: self.vcpus,
            kernel: source::in_clone(&self.kernel, source::kernel)?,
            initrd,
            append: self.append.clone(),
            disk: self
                .disk
                .map(|size| Disk::Image(vec![0; usize::try_from(size << 20).unwrap_or(0)])),
            net: self.net,
        })
    }
}

/// What the monitor says of the end of the guest `name`, when the line is about that.
fn end_of<'a>(name: &str, line: &'a str) -> Option<&'a str> {
    line.strip_prefix("monitor: guest ")?.strip_prefix(name)?.strip_prefix(" ended: ")
}

/// All of them, by name.
pub(crate) fn all() -> Result<Vec<Scenario>> {
    let folder = workspace::root().join("tests/lab/core");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .context(|| format!("read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths.iter().map(|path| Scenario::read(path)).collect()
}

/// The one called `NAME`, and where it is to run: on all its machines, or on that of `NAME@MACHINE`.
pub(crate) fn find(name: &str) -> Result<Option<(Scenario, Vec<Emulator>)>> {
    let (name, wanted) =
        name.split_once('@').map_or((name, None), |(name, machine)| (name, Some(machine)));
    let Some(scenario) = all()?.into_iter().find(|scenario| scenario.name == name) else {
        return Ok(None);
    };
    let mut machines = scenario.machines.clone();
    if let Some(wanted) = wanted {
        machines.retain(|machine| machine.to_string() == wanted);
        if machines.is_empty() {
            return Err(Failure::new(format!("{name} does not run on a machine `{wanted}`")));
        }
    }
    Ok(Some((scenario, machines)))
}

/// `cargo xtask lab core-NAME[@MACHINE]`: the figures per machine as one JSON line, 0 when it holds on
/// each.
pub(crate) fn one(scenario: &Scenario, machines: &[Emulator]) -> Result<i32> {
    let mut line = Map::new();
    line.insert("scenario".to_owned(), json!(scenario.name));
    let mut holds = true;
    for machine in machines {
        println!("--- {} on {machine}: {}", scenario.name, scenario.claim);
        let figures = scenario.run(*machine).unwrap_or_else(|failure| {
            println!("does not hold: {failure}");
            holds = false;
            Map::new()
        });
        line.insert(machine.to_string(), Value::Object(figures));
    }
    line.insert("holds".to_owned(), json!(holds));
    println!("{}", Value::Object(line));
    Ok(i32::from(!holds))
}

#[cfg(test)]
mod tests;
