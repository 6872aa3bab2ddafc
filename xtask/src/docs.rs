//! Makes the chapter on the core's calls, and checks the book and the other documents: every link between files leads somewhere, and every
//! chapter is in the book's contents.

use crate::failure::{Context, Failure, Result};
use crate::workspace;
use std::path::{Path, PathBuf};

/// Where the interface's chapter lies.
const INTERFACE: &str = "docs/src/core-interface.md";

/// `cargo xtask docs`: writes what is made from the code, then checks.
pub(crate) fn run() -> Result {
    let path = workspace::root().join(INTERFACE);
    std::fs::write(&path, interface()).context(|| format!("write {}", path.display()))?;
    check()
}

/// The chapter on the core's calls, from `hypervisor/abi`.
fn interface() -> String {
    let mut text = format!(
        "# The core's calls\n\nMade by `cargo xtask docs` from `hypervisor/abi`: change it there. Interface version {}.{}. How calls\n\
         are made, the run page and the memory at the pool's head: [the core](core.md).\n\n## Root's calls\n\n",
        hypervisor_abi::VERSION >> 16,
        hypervisor_abi::VERSION & 0xffff
    );
    for call in hypervisor_abi::RootCall::ALL {
        let title = format!("`{:#07x}` {}", call.number(), call.name());
        section(&mut text, &title, call.documentation());
    }
    text.push_str(
        "## Calls of guests\n\nFrom kernel mode only; from user mode they are denied.\n\n",
    );
    for call in hypervisor_abi::GuestCall::ALL {
        let title = format!("`{:#06x}` {}", call.number(), call.name());
        section(&mut text, &title, call.documentation());
    }
    text.push_str(
        "## Status words\n\nRAX after a call: 0, or the fault in bits 0 to 7 and the argument it is about, from 1, in bits 8\nto 15.\n\n| fault | means |\n| --- | --- |\n",
    );
    for fault in hypervisor_abi::Fault::ALL {
        text.push_str(&format!("| {} | {} |\n", fault as u8, fault.text()));
    }
    text
}

fn section(text: &mut String, title: &str, lines: &[&str]) {
    let words: Vec<String> = lines.iter().map(|line| plain(line.trim())).collect();
    text.push_str(&format!("### {title}\n\n{}\n\n", words.join("\n")));
}

/// Rustdoc's links as plain code: `[text](path)` and `[text]` become `text`.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find("[`") {
        let (before, link) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = link.find(']') else { break };
        out.push_str(&link[1..end].replace("Self::", ""));
        rest = &link[end + 1..];
        if rest.starts_with('(')
            && let Some(close) = rest.find(')')
        {
            rest = &rest[close + 1..];
        }
    }
    out.push_str(rest);
    out
}

/// Fails with every broken link.
pub(crate) fn check() -> Result {
    let root = workspace::root();
    let written =
        std::fs::read_to_string(root.join(INTERFACE)).context(|| format!("read {INTERFACE}"))?;
    if written != interface() {
        return Err(Failure::new(format!(
            "{INTERFACE} is not what hypervisor/abi says: run cargo xtask docs"
        )));
    }
    let mut files: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md"].iter().map(|name| root.join(name)).collect();
    gather(&root.join("docs"), &mut files)?;
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).context(|| format!("read {}", file.display()))?;
        let folder = file.parent().unwrap_or(&root);
        for target in links(&text) {
            if !leads_somewhere(folder, &target) {
                wrong.push(format!(
                    "{}: {target} leads nowhere",
                    file.strip_prefix(&root).unwrap_or(file).display()
                ));
            }
        }
    }
    let source = root.join("docs/src");
    let contents = std::fs::read_to_string(source.join("SUMMARY.md"))
        .context(|| "read docs/src/SUMMARY.md".to_owned())?;
    let listed = links(&contents);
    for file in
        files.iter().filter(|file| file.starts_with(&source) && !file.ends_with("SUMMARY.md"))
    {
        let name = file.strip_prefix(&source).unwrap_or(file).display().to_string();
        if !listed.contains(&name) {
            wrong.push(format!("docs/src/{name} is missing in docs/src/SUMMARY.md"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n"))) }
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) -> Result {
    let entries = std::fs::read_dir(folder).context(|| format!("read {}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// Targets of `[text](target)` outside code blocks, without addresses of the web.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code || line.starts_with("    ") {
            continue;
        }
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')')
                && !target.contains("://")
                && !target.starts_with("mailto:")
            {
                found.push(target.to_owned());
            }
        }
    }
    found
}

fn leads_somewhere(folder: &Path, target: &str) -> bool {
    let (path, _) = target.split_once('#').unwrap_or((target, ""));
    path.is_empty() || folder.join(path).exists()
}

#[cfg(test)]
mod tests {
    use super::{links, plain};

    #[test]
    fn links_of_rustdoc_become_code() {
        assert_eq!(plain("a [`B`](crate::B) and [`c`], [0]"), "a `B` and `c`, [0]");
    }

    #[test]
    fn finds_links_between_files_and_nothing_else() {
        let text = "a [b](c.md#d) and [e](https://example.org)\n```\n[f](g.md)\n```\n    [h](i.md)\n[j](k)";
        assert_eq!(links(text), ["c.md#d", "k"]);
    }

    #[test]
    fn the_documents_of_this_repository_hold_together() {
        super::check().expect("all links lead somewhere");
    }
}
