//! Checks the book and the other documents: every link between files leads somewhere, and every
//! chapter is in the book's contents.

use crate::failure::{Context, Failure, Result};
use crate::workspace;
use std::path::{Path, PathBuf};

/// Fails with every broken link.
pub(crate) fn check() -> Result {
    let root = workspace::root();
    let mut files: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"]
        .iter()
        .map(|name| root.join(name))
        .collect();
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
    for file in files
        .iter()
        .filter(|file| file.starts_with(&source) && !file.ends_with("SUMMARY.md"))
    {
        let name = file
            .strip_prefix(&source)
            .unwrap_or(file)
            .display()
            .to_string();
        if !listed.contains(&name) {
            wrong.push(format!("docs/src/{name} is missing in docs/src/SUMMARY.md"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(wrong.join("\n")))
    }
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
    use super::links;

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
