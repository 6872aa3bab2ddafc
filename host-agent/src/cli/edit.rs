//! `edit`: the definition of a VM in the person's editor, checked before it replaces the old one.

use super::output;
use super::vm::{block_on, daemon};
use crate::problem::{Kind, Problem};
use proto::v1;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn edit(name: &str) -> Result<(), Problem> {
    let request = v1::VmRequest { name: name.to_owned() };
    let stored = block_on(async { Ok(daemon().await?.definition(request).await?.into_inner()) })?;
    let draft = Draft::new(&stored.definition)?;
    loop {
        draft.open_editor()?;
        let text = draft.read()?;
        if text == stored.definition {
            return output::print(&format!("VM \"{name}\" is unchanged\n"));
        }
        let Err(problem) = replace(name, &text) else {
            draft.remove();
            return output::print(&format!(
                "changed VM \"{name}\"; its machine changes at its next start, all else at once\n"
            ));
        };
        // What the person typed is worth keeping, whatever happens next.
        let problem = Problem {
            advice: Some(format!(
                "the definition is unchanged; your text is kept in {}",
                draft.path.display()
            )),
            ..problem
        };
        if problem.kind == Kind::Unavailable || !io::stdin().is_terminal() || !again(&problem)? {
            return Err(problem);
        }
    }
}

/// Checks here, for the line and column, and stores through the daemon.
fn replace(name: &str, text: &str) -> Result<(), Problem> {
    definition::parse(text)?;
    block_on(async {
        let request = v1::UpdateRequest { name: name.to_owned(), definition: text.to_owned() };
        daemon().await?.update(request).await?;
        Ok(())
    })
}

fn again(problem: &Problem) -> Result<bool, Problem> {
    super::report(problem);
    eprint!("Edit again? [Y/n] ");
    let failed = |error| Problem::failed(format!("cannot ask: {error}"));
    io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    let count = io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(count > 0 && !answer.trim().to_lowercase().starts_with('n'))
}

/// The file the editor works on.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn new(text: &str) -> Result<Self, Problem> {
        let path = std::env::temp_dir().join(format!(
            "macrohard-edit-{}-{}.toml",
            std::process::id(),
            crate::launch::unix_time()
        ));
        let put = |path: &Path| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?
                .write_all(text.as_bytes())
        };
        put(&path).map_err(|error| {
            Problem::failed(format!("cannot write {}: {error}", path.display()))
        })?;
        Ok(Self { path })
    }

    fn open_editor(&self) -> Result<(), Problem> {
        let editor = ["VISUAL", "EDITOR"]
            .iter()
            .filter_map(std::env::var_os)
            .find(|editor| !editor.is_empty())
            .unwrap_or_else(|| OsString::from("editor"));
        // Through the shell, because people set EDITOR="code --wait".
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("{} \"$1\"", editor.to_string_lossy()))
            .arg("sh")
            .arg(&self.path)
            .status()
            .map_err(|error| Problem::failed(format!("cannot start {editor:?}: {error}")))?;
        if status.success() {
            return Ok(());
        }
        self.remove();
        Err(Problem::failed(format!(
            "the editor {editor:?} failed ({status}); nothing was changed"
        ))
        .advise("set EDITOR to the editor you use"))
    }

    fn read(&self) -> Result<String, Problem> {
        std::fs::read_to_string(&self.path).map_err(|error| {
            Problem::failed(format!("cannot read {}: {error}", self.path.display()))
        })
    }

    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
