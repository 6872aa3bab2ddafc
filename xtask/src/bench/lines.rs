//! Counts lines of code: of Rust and assembly files, without empty lines, comments and tests.

use crate::failure::{Context, Result};
use std::path::Path;

/// Lines of code of the files below `folder`.
pub(super) fn count(folder: &Path) -> Result<usize> {
    let mut files = Vec::new();
    walk(folder, &mut files)?;
    // Files and folders that a `#[cfg(test)] mod NAME;` brings in: beside lib.rs and mod.rs, else below
    // the file's own name.
    let tests: Vec<_> = files
        .iter()
        .flat_map(|(path, text)| {
            let beside =
                [Some("lib"), Some("mod")].contains(&path.file_stem().and_then(|s| s.to_str()));
            let within = if beside { path.with_file_name("") } else { path.with_extension("") };
            test_modules(text).flat_map(move |name| {
                let module = within.join(name);
                [module.with_extension("rs"), module]
            })
        })
        .collect();
    let is_test = |path: &Path| tests.iter().any(|test| path.starts_with(test));
    Ok(files.iter().filter(|(path, _)| !is_test(path)).map(|(_, text)| code(text)).sum())
}

fn walk(folder: &Path, files: &mut Vec<(std::path::PathBuf, String)>) -> Result {
    let read = || format!("read {}", folder.display());
    for entry in std::fs::read_dir(folder).context(read)? {
        let path = entry.context(read)?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "rs" || end == "s") {
            let text =
                std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
            files.push((path, text));
        }
    }
    Ok(())
}

const TEST: &str = "#[cfg(test)]";

fn test_modules(text: &str) -> impl Iterator<Item = &str> {
    text.lines().zip(text.lines().skip(1)).filter(|(line, _)| *line == TEST).filter_map(
        |(_, next)| {
            let name = next.trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
            name.strip_suffix(';')
        },
    )
}

/// Lines of code of one file. What follows `#[cfg(test)]` goes to a line with `}` or ending in `;` at
/// the same depth, as rustfmt writes it.
fn code(text: &str) -> usize {
    let mut count = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let words = line.trim();
        if words == TEST {
            let depth = &line[..line.len() - line.trim_start().len()];
            let ends = |line: &str| {
                line.strip_prefix(depth).is_some_and(|rest| {
                    rest == "}" || !rest.starts_with(' ') && rest.ends_with(';')
                })
            };
            let _ = lines.by_ref().find(|line| ends(line));
        } else if !words.is_empty() && !is_comment(words) {
            count += 1;
        }
    }
    count
}

/// `//` of Rust, `#` of assembly; `#[` and `#!` begin attributes.
fn is_comment(line: &str) -> bool {
    line.starts_with("//")
        || line.strip_prefix('#').is_some_and(|rest| !rest.starts_with(['[', '!']))
}

#[cfg(test)]
mod tests {
    use super::{code, test_modules};

    #[test]
    fn only_code_counts() {
        let text = "//! About.\n#![no_std]\n\n#[cfg(test)]\nmod fixtures;\nfn f() {\n    // why\n    \
                    g(); // here\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\nfn h() {}\n";
        assert_eq!(code(text), 5);
        assert_eq!(test_modules(text).collect::<Vec<_>>(), ["fixtures"]);
        assert_eq!(code("# comment\n.text\n  ret # back\n"), 2);
    }
}
