//! Reads which Debian archives this machine is configured to use, in both of apt's formats
//! (sources.list(5)), so that everything else comes from the same place.

use std::path::Path;

/// One configured archive, one suite of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its address.
    pub(crate) uri: String,
    /// `bookworm`, `bookworm-updates`, ...
    pub(crate) suite: String,
    /// `main`, `contrib`, ...
    pub(crate) components: Vec<String>,
    /// Value of `Signed-By`, when it is a file or a fingerprint.
    pub(crate) signed_by: Option<String>,
}

impl Source {
    /// As one line of sources.list(5), component main only.
    pub(crate) fn line(&self) -> String {
        let signed =
            self.signed_by.as_ref().map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        format!("deb {signed}{} {} main", self.uri, self.suite)
    }
}

/// The release this machine runs, from os-release(5): (`debian`, `bookworm`).
pub(crate) fn release() -> Option<(String, String)> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    Some((value("ID")?, value("VERSION_CODENAME")?))
}

/// All enabled archives with a `main` component whose suite belongs to `codename`.
pub(crate) fn configured(codename: &str) -> Vec<Source> {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(stanzas(&text)),
            _ => {}
        }
    }
    sources.retain(|source| {
        source.components.iter().any(|component| component == "main")
            && (source.suite == codename
                || source.suite.strip_prefix(codename).is_some_and(|rest| rest.starts_with('-')))
    });
    let mut seen = std::collections::BTreeSet::new();
    sources.retain(|source| seen.insert(source.suite.clone()));
    sources
}

/// `deb [options] uri suite component...`
fn one_line(line: &str) -> Option<Source> {
    let mut rest = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (inside, after) = options.split_once(']')?;
        signed_by = inside
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: words.next()?,
        suite: words.next()?,
        components: words.collect(),
        signed_by,
    })
}

/// deb822 stanzas: `Types`, `URIs`, `Suites`, `Components`, `Signed-By`, `Enabled`.
fn stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| -> Option<String> {
            let at = stanza.iter().position(|line| {
                line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
            })?;
            let mut value = stanza[at].split_once(':')?.1.trim().to_owned();
            for more in stanza[at + 1..].iter().take_while(|line| line.starts_with([' ', '\t'])) {
                value.push(' ');
                value.push_str(more.trim());
            }
            Some(value)
        };
        let words = |name: &str| -> Vec<String> {
            field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"))
            || !words("Types").contains(&"deb".to_owned())
        {
            continue;
        }
        let signed_by =
            field("Signed-By").filter(|value| value.starts_with('/') && !value.contains(' '));
        for uri in words("URIs") {
            for suite in words("Suites") {
                sources.push(Source {
                    uri: uri.clone(),
                    suite,
                    components: words("Components"),
                    signed_by: signed_by.clone(),
                });
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::{one_line, stanzas};

    #[test]
    fn both_formats_say_the_same() {
        let line = one_line("deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # why").expect("one source");
        let text = "# note\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n contrib\nSigned-By: /k.gpg\n\nTypes: deb-src\nURIs: x\nSuites: y\nComponents: main\n";
        assert_eq!(stanzas(text), vec![line]);
    }

    #[test]
    fn a_disabled_stanza_and_a_source_line_are_left_out() {
        assert!(
            stanzas("Types: deb\nEnabled: no\nURIs: u\nSuites: s\nComponents: main\n").is_empty()
        );
        assert_eq!(one_line("deb-src http://mirror.example/debian bookworm main"), None);
        assert_eq!(one_line("# deb http://mirror.example/debian bookworm main"), None);
    }
}
