//! Random work on files, done in two folders alike: whatever one shows must be what the other shows.

use crate::Result;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Files and folders the work is about.
const NAMES: u64 = 12;
/// The largest offset of a write.
const REACH: u64 = 300_000;
/// The largest piece.
const PIECE: u64 = 70_000;

/// xorshift64*: the same sequence everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn name(&mut self) -> PathBuf {
        let number = self.below(NAMES);
        match self.below(3) {
            0 => format!("folder-{}/file-{number}", self.below(3)).into(),
            _ => format!("file-{number}").into(),
        }
    }
}

/// What a step showed: the kind of its failure, or the bytes it read.
type Shown = std::result::Result<Vec<u8>, std::io::ErrorKind>;

/// One step in a folder.
#[derive(Clone, Debug)]
enum Step {
    Make(PathBuf),
    Write { path: PathBuf, at: u64, length: usize, byte: u8 },
    Append { path: PathBuf, length: usize, byte: u8 },
    Read { path: PathBuf, at: u64, length: usize },
    Resize(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeFolder(PathBuf),
    RemoveFolder(PathBuf),
    List(PathBuf),
}

impl Step {
    fn random(random: &mut Random) -> Self {
        let path = random.name();
        let (at, length) = (random.below(REACH), random.below(PIECE) as usize);
        let byte = random.below(256) as u8;
        let folder = PathBuf::from(format!("folder-{}", random.below(3)));
        match random.below(16) {
            0 => Self::Make(path),
            1..=4 => Self::Write { path, at, length, byte },
            5 => Self::Append { path, length, byte },
            6..=8 => Self::Read { path, at, length },
            9 => Self::Resize(path, at),
            10 => Self::Rename(path, random.name()),
            11 => Self::Link(path, random.name()),
            12 => Self::Remove(path),
            13 => Self::MakeFolder(folder),
            14 => Self::RemoveFolder(folder),
            _ => Self::List(folder),
        }
    }

    fn run(&self, root: &Path) -> std::io::Result<Vec<u8>> {
        let at = |path: &Path| root.join(path);
        match self {
            Self::Make(path) => File::create_new(at(path)).map(|_| Vec::new()),
            Self::Write { path, at: offset, length, byte } => {
                let file = OpenOptions::new().write(true).open(at(path))?;
                // Different bytes, so that a piece in the wrong place shows.
                let piece: Vec<u8> =
                    (0..*length).map(|n| byte.wrapping_add((n / 7) as u8)).collect();
                file.write_all_at(&piece, *offset).map(|()| Vec::new())
            }
            Self::Append { path, length, byte } => {
                let mut file = OpenOptions::new().append(true).open(at(path))?;
                std::io::Write::write_all(&mut file, &vec![*byte; *length]).map(|()| Vec::new())
            }
            Self::Read { path, at: offset, length } => {
                let file = File::open(at(path))?;
                let mut piece = vec![0; *length];
                let mut got = 0;
                while got < piece.len() {
                    match file.read_at(&mut piece[got..], offset + got as u64)? {
                        0 => break,
                        count => got += count,
                    }
                }
                piece.truncate(got);
                Ok(piece)
            }
            Self::Resize(path, size) => {
                OpenOptions::new().write(true).open(at(path))?.set_len(*size).map(|()| Vec::new())
            }
            Self::Rename(from, to) => fs::rename(at(from), at(to)).map(|()| Vec::new()),
            Self::Link(from, to) => fs::hard_link(at(from), at(to)).map(|()| Vec::new()),
            Self::Remove(path) => fs::remove_file(at(path)).map(|()| Vec::new()),
            Self::MakeFolder(path) => fs::create_dir(at(path)).map(|()| Vec::new()),
            Self::RemoveFolder(path) => fs::remove_dir(at(path)).map(|()| Vec::new()),
            Self::List(path) => {
                let mut names = Vec::new();
                for entry in fs::read_dir(at(path))? {
                    names.push(entry?.file_name().into_encoded_bytes());
                }
                names.sort();
                Ok(names.join(&b'/'))
            }
        }
    }
}

/// Every file below `root` with its contents; folders with none.
fn tree(root: &Path) -> Result<BTreeMap<PathBuf, Option<Vec<u8>>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let below = path.strip_prefix(root)?.to_owned();
            if path.is_dir() {
                found.insert(below, None);
                folders.push(path);
            } else {
                found.insert(below, Some(fs::read(&path)?));
            }
        }
    }
    Ok(found)
}

/// Works in both folders, which are empty, and compares after every step and at the end.
pub(crate) fn run(one: &Path, other: &Path, seed: u64, steps: u64) -> Result {
    let mut random = Random(seed | 1 << 32);
    let mut good = 0;
    for number in 0..steps {
        let step = Step::random(&mut random);
        let shown = [one, other].map(|root| -> Shown { step.run(root).map_err(|e| e.kind()) });
        if shown[0] != shown[1] {
            let short = shown.map(|shown| shown.map(|bytes| bytes.len()));
            return Err(format!("step {number}, {step:?}: {short:?}").into());
        }
        good += u64::from(shown[0].is_ok());
    }
    if tree(one)? != tree(other)? {
        return Err("the trees differ at the end".into());
    }
    println!("steps {steps} done {good} seed {seed}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_local_folders_are_alike_and_a_third_hand_is_noticed() {
        let base = std::env::temp_dir().join(format!("lab-files-{}", std::process::id()));
        let [one, other] = ["one", "other"].map(|name| base.join(name));
        for folder in [&one, &other] {
            fs::create_dir_all(folder).unwrap();
        }
        run(&one, &other, 1, 400).unwrap();
        fs::write(other.join("stray"), "x").unwrap();
        assert!(run(&one, &other, 2, 0).is_err());
        fs::remove_dir_all(&base).unwrap();
    }
}
