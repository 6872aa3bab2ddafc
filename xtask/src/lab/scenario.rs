//! Scenarios: each a script in `tests/lab/scenarios` whose first comment says what holds, and whose
//! `# lab:` line says what machine it wants.

use super::machine::{Engine, Machine};
use super::small::Small;
use super::{core, guest, product_files};
use crate::failure::{Context, Failure, Result};
use crate::{binaries, image, workspace};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// File name without its ending.
    pub(crate) name: String,
    /// What holds, in a sentence or two.
    pub(crate) claim: String,
    path: PathBuf,
    memory: u64,
    cpus: u32,
    limit: u64,
    scratch: u64,
    icount: bool,
    /// Only `cargo xtask test --all` runs it on KVM.
    long: bool,
    /// It is about KVM itself, or the core.
    only: Option<Engine>,
    /// `cargo xtask test` runs it on engine core, too; all others `cargo xtask test --all` does.
    core: bool,
    /// Its machine has the compositor.
    compositor: bool,
    /// It is known not to hold, for a reason in the comment at its head: `cargo xtask test` skips it.
    pub(crate) open: bool,
}

/// Starts the line with a scenario's machine.
const WANTS: &str = "# lab:";

impl Scenario {
    /// Whether `cargo xtask test` runs it on this engine, with `--all` or without.
    pub(crate) const fn tested(&self, engine: Engine, all: bool) -> bool {
        all || match engine {
            Engine::Kvm => !self.long,
            Engine::Core => self.core,
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| format!("read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let comment = || text.lines().skip(1).take_while(|line| line.starts_with('#'));
        let claim: Vec<&str> = comment()
            .take_while(|line| !line.starts_with(WANTS))
            .map(|line| line.trim_start_matches('#').trim())
            .collect();
        let mut scenario = Self {
            name,
            claim: claim.join(" "),
            path: path.to_path_buf(),
            memory: 2048,
            cpus: 2,
            limit: 900,
            scratch: 0,
            icount: false,
            long: false,
            only: None,
            core: false,
            compositor: false,
            open: false,
        };
        for word in
            comment().filter_map(|line| line.strip_prefix(WANTS)).flat_map(str::split_whitespace)
        {
            let wrong = || {
                Failure::new(format!(
                    "{}: `{word}` is not memory=, cpus=, limit=, scratch=NUMBER, icount, long, open, core, compositor, only-kvm or only-core",
                    path.display()
                ))
            };
            if let Some(engine) = word.strip_prefix("only-") {
                let known = [Engine::Kvm, Engine::Core];
                let found = known.into_iter().find(|known| known.name() == engine);
                scenario.only = Some(found.ok_or_else(wrong)?);
                continue;
            }
            let flag = match word {
                "icount" => Some(&mut scenario.icount),
                "long" => Some(&mut scenario.long),
                "core" => Some(&mut scenario.core),
                "compositor" => Some(&mut scenario.compositor),
                "open" => Some(&mut scenario.open),
                _ => None,
            };
            if let Some(flag) = flag {
                *flag = true;
                continue;
            }
            let (key, value) = word.split_once('=').ok_or_else(wrong)?;
            let value: u64 = value.parse().map_err(|_| wrong())?;
            match key {
                "memory" => scenario.memory = value,
                "cpus" => scenario.cpus = u32::try_from(value).map_err(|_| wrong())?,
                "limit" => scenario.limit = value,
                "scratch" => scenario.scratch = value,
                _ => return Err(wrong()),
            }
        }
        Ok(scenario)
    }

    /// The engines it holds on.
    pub(crate) fn engines(&self) -> &'static [Engine] {
        match self.only {
            Some(Engine::Kvm) => &[Engine::Kvm],
            Some(Engine::Core) => &[Engine::Core],
            None => &[Engine::Kvm, Engine::Core],
        }
    }

    /// Runs it; prints its output; returns its figures, or `None` when it does not hold.
    pub(crate) fn run(
        &self,
        machines: &Machines,
        engine: Engine,
    ) -> Result<Option<Map<String, Value>>> {
        self.run_with(machines, engine, &mut |line| println!("{line}"))
    }

    /// Runs it; gives every line that is no figure to `each`.
    pub(crate) fn run_with(
        &self,
        machines: &Machines,
        engine: Engine,
        each: &mut dyn FnMut(&str),
    ) -> Result<Option<Map<String, Value>>> {
        let mut files = machines.files.clone();
        if self.compositor {
            let small = workspace::folder("lab")?.join("macrohard-compositor");
            binaries::stripped(&binaries::compositor_of_tests()?, &small)?;
            files.push((small, "/opt/macrohard/bin/macrohard-compositor".to_owned()));
        }
        let machine = Machine {
            memory: self.memory,
            cpus: self.cpus,
            icount: self.icount,
            files,
            script: self.path.clone(),
            engine,
            scratch: self.scratch,
            limit: Duration::from_secs(self.limit),
        };
        let mut figures = Map::new();
        let start = Instant::now();
        let status = machine.run(&machines.image, &mut |line| match figure(line) {
            Some((name, value)) => drop(figures.insert(name, value)),
            None => each(line),
        })?;
        figures.insert(
            "seconds".to_owned(),
            json!((start.elapsed().as_secs_f64() * 10.0).round() / 10.0),
        );
        if status == 0 { Ok(Some(figures)) } else { Ok(None) }
    }
}

/// `figure NAME VALUE`
pub(super) fn figure(line: &str) -> Option<(String, Value)> {
    let (name, value) = line.strip_prefix("figure ")?.split_once(' ')?;
    let value =
        serde_json::from_str(value.trim()).unwrap_or_else(|_| Value::String(value.to_owned()));
    Some((name.to_owned(), value))
}

/// What every scenario needs, prepared once.
pub(crate) struct Machines {
    image: image::Image,
    files: Vec<(PathBuf, String)>,
}

impl Machines {
    /// For a run in which time matters: a scenario that finds `/lab/short` leaves out repetitions.
    pub(crate) fn shorten(&mut self) -> Result {
        let file = workspace::folder("lab")?.join("short");
        std::fs::write(&file, "").context(|| format!("write {}", file.display()))?;
        self.files.push((file, "/lab/short".to_owned()));
        Ok(())
    }
}

/// Builds and packs everything scenarios use.
pub(crate) fn prepare() -> Result<Machines> {
    let image = image::prepare()?;
    let mut files = product_files()?;
    files.extend(guest::files(&image)?);
    files.push((binaries::virtiofsd()?, "/usr/libexec/virtiofsd".to_owned()));
    for name in ["lib.sh", "userland.sh", "white.py", "multiboot.s"] {
        files.push((folder().join(name), format!("/lab/{name}")));
    }
    let check = workspace::root().join("tests/desktop/end-to-end.sh");
    files.push((check, "/lab/end-to-end.sh".to_owned()));
    Ok(Machines { image, files })
}

fn folder() -> PathBuf {
    workspace::root().join("tests/lab")
}

/// All scenarios, by name.
pub(crate) fn all() -> Result<Vec<Scenario>> {
    within("scenarios")
}

/// The scripts of a folder of `tests/lab`, by name.
pub(crate) fn within(name: &str) -> Result<Vec<Scenario>> {
    let folder = folder().join(name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .context(|| format!("read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
        .collect();
    paths.sort();
    paths.iter().map(|path| Scenario::read(path)).collect()
}

/// `cargo xtask lab --list`
pub(crate) fn list() -> Result<i32> {
    for scenario in all()? {
        let engines: Vec<&str> = scenario.engines().iter().map(|engine| engine.name()).collect();
        println!("{:16} [{}] {}", scenario.name, engines.join(", "), scenario.claim);
    }
    for (name, claim, _) in Small::scenarios()? {
        println!("{name:16} {claim}");
    }
    for scenario in core::scenario::all()? {
        let machines: Vec<String> = scenario.machines.iter().map(ToString::to_string).collect();
        println!("{:16} [{}] {}", scenario.name, machines.join(", "), scenario.claim);
    }
    Ok(0)
}

/// `cargo xtask lab NAME`: the closing JSON line, and 0 when it holds.
pub(crate) fn one(name: &str) -> Result<i32> {
    if let Some((scenario, machines)) = core::scenario::find(name)? {
        return core::scenario::one(&scenario, &machines);
    }
    if let Some((name, _, small)) =
        Small::scenarios()?.into_iter().find(|(known, ..)| known == name)
    {
        return small.check(&name).map(|()| 0);
    }
    let scenarios = all()?;
    // `NAME` on KVM, or where it is at home; `NAME@ENGINE` on that engine.
    let (bare, wanted) = name.split_once('@').map_or((name, None), |(bare, at)| (bare, Some(at)));
    let found = scenarios.iter().find(|scenario| scenario.name == bare).and_then(|scenario| {
        let mut engines = scenario.engines().iter();
        let engine = engines.find(|known| wanted.is_none_or(|wanted| known.name() == wanted))?;
        Some((scenario, *engine))
    });
    let Some((scenario, engine)) = found else {
        let cores = core::scenario::all()?;
        let names: Vec<&str> = scenarios
            .iter()
            .map(|scenario| scenario.name.as_str())
            .chain(cores.iter().map(|scenario| scenario.name.as_str()))
            .collect();
        return Err(Failure::new(format!(
            "there is no scenario `{name}`; there are: {}",
            names.join(", ")
        )));
    };
    let figures = scenario.run(&prepare()?, engine).unwrap_or_else(|failure| {
        println!("{failure}");
        None
    });
    let holds = figures.is_some();
    let mut line = Map::new();
    line.insert("scenario".to_owned(), json!(name));
    line.insert("holds".to_owned(), json!(holds));
    line.extend(figures.unwrap_or_default());
    println!("{}", Value::Object(line));
    Ok(i32::from(!holds))
}

#[cfg(test)]
mod tests {
    use super::{all, figure};

    #[test]
    fn every_scenario_says_what_holds_and_what_it_wants() {
        let scenarios = all().expect("all scenarios are well formed");
        assert!(scenarios.len() >= 8);
        for scenario in scenarios {
            assert!(scenario.claim.len() > 40, "{}: no claim", scenario.name);
            assert!(scenario.limit >= 60 && scenario.memory >= 512, "{scenario:?}");
        }
    }

    #[test]
    fn a_figure_line_is_a_name_and_a_number() {
        assert_eq!(
            figure("figure seconds 1.5"),
            Some(("seconds".to_owned(), serde_json::json!(1.5)))
        );
        assert_eq!(figure("seconds 1.5"), None);
    }
}
