//! Where the packages come from: what the person says, else where the host gets its own.

use super::Order;
use crate::problem::Problem;
use std::path::Path;

/// Lines for the guest's sources.list; empty to let mmdebstrap take Debian's own servers.
pub(super) fn sources(order: &Order) -> Result<Vec<String>, Problem> {
    let Some(mirror) = &order.mirror else {
        return Ok(of_host(&order.suite));
    };
    let is_url = mirror.contains("://") && !mirror.contains(|c: char| c.is_whitespace());
    if is_url {
        Ok(vec![mirror.clone()])
    } else {
        Err(Problem::usage(format!(
            "--mirror is {mirror:?}; allowed: an address like http://mirror.example/debian"
        )))
    }
}

fn of_host(suite: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    if let Ok(folder) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => lines.extend(one_line_style(&text, suite)),
            Some("sources") => lines.extend(deb822_style(&text, suite)),
            _ => {}
        }
    }
    // Without the release itself, updates of it are of no use.
    let has_release = lines.iter().any(|line: &String| line.split(' ').nth(2) == Some(suite));
    if has_release { lines } else { Vec::new() }
}

/// The release, its updates and its security updates; no backports, which are another choice.
fn belongs(candidate: &str, suite: &str) -> bool {
    candidate.strip_prefix(suite).is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
}

fn line(uri: &str, suite: &str) -> String {
    format!("deb {uri} {suite} main")
}

/// sources.list(5): `deb [options] uri suite component...`.
fn one_line_style(text: &str, suite: &str) -> Vec<String> {
    text.lines()
        .filter_map(|text| {
            let rest = text.trim().strip_prefix("deb ")?.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_whitespace();
            let (uri, its_suite) = (words.next()?, words.next()?);
            let has_main = words.take_while(|word| *word != "#").any(|word| word == "main");
            (has_main && belongs(its_suite, suite)).then(|| line(uri, its_suite))
        })
        .collect()
}

/// sources.list(5), deb822: paragraphs of `Field: value`.
fn deb822_style(text: &str, suite: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            let words = paragraph.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then_some(value)
            });
            words.unwrap_or_default().split_whitespace()
        };
        if field("Enabled").any(|word| word == "no")
            || !field("Types").any(|word| word == "deb")
            || !field("Components").any(|word| word == "main")
        {
            continue;
        }
        for its_suite in field("Suites").filter(|its| belongs(its, suite)) {
            lines.extend(field("URIs").map(|uri| line(uri, its_suite)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_own_source_of_the_release_is_found() {
        let list = "# comment\ndeb [arch=amd64 signed-by=/k] http://m/debian bookworm main contrib\n\
                    deb http://m/debian bookworm-backports main\ndeb-src http://m/debian bookworm main\n\
                    deb http://x/other bookworm other\ndeb http://m/sec bookworm-security main\n";
        assert_eq!(
            one_line_style(list, "bookworm"),
            ["deb http://m/debian bookworm main", "deb http://m/sec bookworm-security main"]
        );
        let sources = "Types: deb\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\
                       Components: main\n\nTypes: deb\nEnabled: no\nURIs: http://n\nSuites: bookworm\n\
                       Components: main\n";
        assert_eq!(
            deb822_style(sources, "bookworm"),
            ["deb http://m/debian bookworm main", "deb http://m/debian bookworm-updates main"]
        );
        assert!(deb822_style(sources, "trixie").is_empty());
    }
}
