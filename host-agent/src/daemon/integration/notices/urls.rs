//! Which URLs of a guest may reach the host's programs.

use crate::untrusted::{TextProblem, Untrusted};
use url::Url;

/// Longest, as the protocol says.
const LONGEST: usize = 8192;
/// How much of one a question shows.
const SHOWN: usize = 200;

/// Fields of a mail that a URL may fill in (RFC 6068). Others attach files of the host, or send from
/// elsewhere, in one mail program or another.
const MAIL_FIELDS: [&str; 6] = ["to", "cc", "bcc", "subject", "body", "in-reply-to"];

/// Why a URL is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum UrlProblem {
    #[error(transparent)]
    Text(#[from] TextProblem),
    #[error("not a URL: {0}")]
    Syntax(#[from] url::ParseError),
    #[error("the scheme is not http, https or mailto")]
    Scheme,
    #[error("it carries a user name or password")]
    Credentials,
    #[error("a mail's URL fills in a field other than {MAIL_FIELDS:?}")]
    MailField,
    #[error("a mail's URL has a `#`, a quote or a backslash")]
    MailSign,
    #[error("it has a space")]
    Space,
}

/// A URL that a browser or mail program may be given: as this program writes it, whatever the guest wrote.
pub(super) fn check(text: Untrusted<String>) -> Result<Url, UrlProblem> {
    // Parsers leave out some control characters: such a URL is not what it looks like.
    let url = Url::parse(&text.line("the URL", LONGEST)?)?;
    match url.scheme() {
        "http" | "https" => {
            // `https://bank.example@evil.example` shows another host than it goes to.
            if !url.username().is_empty() || url.password().is_some() {
                return Err(UrlProblem::Credentials);
            }
        }
        "mailto" => {
            let known =
                |field: &str| MAIL_FIELDS.iter().any(|known| known.eq_ignore_ascii_case(field));
            // Mail programs know no fragments and read on behind the `#`; scripts on the way quote by hand.
            if url.fragment().is_some() || url.as_str().contains(['\'', '"', '`', '\\']) {
                return Err(UrlProblem::MailSign);
            }
            if !url.query_pairs().all(|(field, _)| known(&field)) {
                return Err(UrlProblem::MailField);
            }
        }
        _ => return Err(UrlProblem::Scheme),
    }
    // One that is left is in a mail's address, where none belongs.
    match url.as_str().contains(' ') {
        true => Err(UrlProblem::Space),
        false => Ok(url),
    }
}

/// What a person is asked about.
pub(super) fn question(url: &Url) -> String {
    let text = Untrusted::new(url.as_str().to_owned()).shown(SHOWN);
    let cut = if text.len() < url.as_str().len() { "…" } else { "" };
    match url.host_str() {
        Some(host) => format!("It leads to {host}:\n{text}{cut}"),
        None => format!("{text}{cut}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<String, UrlProblem> {
        check(Untrusted::new(text.to_owned())).map(|url| url.as_str().to_owned())
    }

    #[test]
    fn web_and_mail_pass_as_this_program_writes_them() {
        for (text, written) in [
            ("https://example.org/a b?q=\"1\"#x", "https://example.org/a%20b?q=%221%22#x"),
            ("HTTP://EXAMPLE.org", "http://example.org/"),
            ("http://b\u{fc}cher.example", "http://xn--bcher-kva.example/"),
            ("mailto:a@example.org?Subject=x&body=y", "mailto:a@example.org?Subject=x&body=y"),
            ("  https://example.org/  ", "https://example.org/"),
        ] {
            assert_eq!(checked(text).unwrap(), written);
        }
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        for (text, reason) in [
            ("file:///etc/passwd", "the scheme"),
            ("javascript:alert(1)", "the scheme"),
            ("java\nscript:alert(1)", "contains the character"),
            ("ftp://example.org", "the scheme"),
            ("vnd.vlc://x", "the scheme"),
            ("--help", "not a URL"),
            ("-v", "not a URL"),
            ("/etc/passwd", "not a URL"),
            ("", "not a URL"),
            ("http://", "not a URL"),
            ("https://bank.example@evil.example/", "user name"),
            ("https://:p@evil.example/", "user name"),
            ("https://example.org/\u{202e}gpj.exe", "contains the character"),
            ("https://example.org/\u{1b}[2J", "contains the character"),
            ("mailto:a b@example.org", "a space"),
            ("mailto:a@example.org?attach=/etc/passwd", "a mail's URL"),
            ("mailto:a@example.org?subject=x&ATTACHMENT=x", "a mail's URL"),
            ("mailto:a@example.org?subject=x#&attach=/etc/passwd", "a mail's URL"),
            ("mailto:a'@example.org", "a mail's URL"),
        ] {
            let refusal = checked(text).expect_err(text).to_string();
            assert!(refusal.contains(reason), "{text}: {refusal}");
        }
        let long = format!("https://example.org/{}", "x".repeat(LONGEST));
        assert!(checked(&long).unwrap_err().to_string().contains("bytes; allowed: 8192"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_becomes_an_option_or_another_scheme(text in "(https?:|mailto:|-|file:|\\PC){0,3}\\PC{0,40}") {
            if let Ok(written) = checked(&text) {
                proptest::prop_assert!(
                    ["http://", "https://", "mailto:"].iter().any(|start| written.starts_with(start)),
                    "{}", written
                );
                proptest::prop_assert!(written.is_ascii() && !written.contains([' ', '\n']));
            }
        }
    }

    #[test]
    fn a_question_names_the_host_and_is_short() {
        let url =
            check(Untrusted::new(format!("https://example.org/{}", "x".repeat(4000)))).unwrap();
        let question = question(&url);
        assert!(
            question.starts_with("It leads to example.org:\nhttps://example.org/"),
            "{question}"
        );
        assert!(question.ends_with('…') && question.len() < 300);
    }
}
