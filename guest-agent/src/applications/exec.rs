//! The Exec key: a command line with fields for what to open (Desktop Entry Specification 1.5, section 7).
//!
//! No shell ever sees it. Words are split and quoted as the specification says; what it leaves open is
//! done as desktops do it: single quotes quote, a backslash outside quotes takes the next character as it
//! is. A field inside a longer quoted argument stays text, so that nothing is put into the middle of a
//! script; a quoted argument that is nothing but a field is one.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::str::FromStr;

/// Why a command line is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ExecError {
    /// Nothing in it.
    #[error("it names no program")]
    Empty,
    /// A quote without an end.
    #[error("a quote does not end")]
    Quote,
    /// A field the specification does not know: such a line must not be run.
    #[error("it has a field that does not exist")]
    Field,
    /// The program is a field, or an assignment.
    #[error("its first word is no program")]
    Program,
    /// No argument can contain it.
    #[error("it contains a zero byte")]
    Zero,
}

/// What a command line can be given to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// `%f`
    File,
    /// `%F`
    Files,
    /// `%u`
    Url,
    /// `%U`
    Urls,
}

impl Takes {
    /// Whether targets that are not files can be given.
    #[must_use]
    pub fn urls(self) -> bool {
        matches!(self, Self::Url | Self::Urls)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Targets,
    Icon,
    Name,
    File,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

/// A command line that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    program: String,
    arguments: Vec<Vec<Piece>>,
    takes: Takes,
}

/// What fields other than those of targets stand for.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `%c`
    pub name: &'a str,
    /// `%i`
    pub icon: &'a str,
    /// `%k`
    pub file: &'a Path,
}

/// A character, and whether it was quoted.
type Quoted = (char, bool);

/// Splits into words.
fn words(text: &str) -> Result<Vec<Vec<Quoted>>, ExecError> {
    let mut words = Vec::new();
    let mut word: Option<Vec<Quoted>> = None;
    let mut characters = text.chars();
    let mut next = || characters.next();
    while let Some(character) = next() {
        if matches!(character, ' ' | '\t' | '\n' | '\r') {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match character {
            '"' => loop {
                match next().ok_or(ExecError::Quote)? {
                    '"' => break,
                    '\\' => match next().ok_or(ExecError::Quote)? {
                        special @ ('"' | '`' | '$' | '\\') => word.push((special, true)),
                        other => word.extend([('\\', true), (other, true)]),
                    },
                    other => word.push((other, true)),
                }
            },
            '\'' => loop {
                match next().ok_or(ExecError::Quote)? {
                    '\'' => break,
                    other => word.push((other, true)),
                }
            },
            '\\' => word.push((next().unwrap_or('\\'), true)),
            other => word.push((other, false)),
        }
    }
    words.extend(word);
    Ok(words)
}

/// What a word becomes; `taken` is set by the first field for targets, and there is only one. `None` when
/// nothing is left of it.
fn pieces(word: &[Quoted], taken: &mut Takes) -> Result<Option<Vec<Piece>>, ExecError> {
    let whole = word.len() == 2;
    let (mut pieces, mut text, mut dropped) = (Vec::new(), String::new(), false);
    let mut rest = word.iter().copied();
    while let Some((character, quoted)) = rest.next() {
        let code = rest.clone().next();
        let field = match (character, code) {
            ('%', Some(('%', _))) => {
                rest.next();
                text.push('%');
                continue;
            }
            ('%', Some((code, _))) if !quoted || (whole && "fFuU".contains(code)) => code,
            ('%', None) if !quoted => return Err(ExecError::Field),
            _ => {
                text.push(character);
                continue;
            }
        };
        rest.next();
        let targets = match field {
            'f' => Some(Takes::File),
            'F' => Some(Takes::Files),
            'u' => Some(Takes::Url),
            'U' => Some(Takes::Urls),
            _ => None,
        };
        let field = match (field, targets) {
            (_, Some(takes)) if *taken == Takes::Nothing => {
                // Several fit only into words of their own.
                *taken = match takes {
                    Takes::Files if !whole => Takes::File,
                    Takes::Urls if !whole => Takes::Url,
                    other => other,
                };
                Some(Field::Targets)
            }
            ('i', _) if whole => Some(Field::Icon),
            ('c', _) => Some(Field::Name),
            ('k', _) => Some(Field::File),
            // The last six are deprecated, and nothing.
            ('f' | 'F' | 'u' | 'U' | 'i' | 'd' | 'D' | 'n' | 'N' | 'v' | 'm', _) => None,
            _ => return Err(ExecError::Field),
        };
        match field {
            Some(field) => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Field(field));
            }
            None => dropped = true,
        }
    }
    // `""` is an argument, and an empty one.
    if !text.is_empty() || (pieces.is_empty() && !dropped) {
        pieces.push(Piece::Text(text));
    }
    Ok((!pieces.is_empty()).then_some(pieces))
}

impl FromStr for Line {
    type Err = ExecError;

    fn from_str(text: &str) -> Result<Self, ExecError> {
        if text.contains('\0') {
            return Err(ExecError::Zero);
        }
        let words = words(text)?;
        let (first, rest) = words.split_first().ok_or(ExecError::Empty)?;
        let mut takes = Takes::Nothing;
        let program = match pieces(first, &mut takes)?.as_deref() {
            Some([Piece::Text(program)]) if !program.is_empty() && !program.contains('=') => {
                program.clone()
            }
            _ => return Err(ExecError::Program),
        };
        let mut arguments = Vec::new();
        for word in rest {
            arguments.extend(pieces(word, &mut takes)?);
        }
        Ok(Self { program, arguments, takes })
    }
}

impl Line {
    /// The program: a path, or a name to be found in `PATH`.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// What it can open.
    #[must_use]
    pub fn takes(&self) -> Takes {
        self.takes
    }

    /// Programs to start, each with its arguments: one for each target where only one can be given, else
    /// one. Targets of a line that takes none are left out.
    #[must_use]
    pub fn commands(&self, facts: &Facts<'_>, targets: &[OsString]) -> Vec<Vec<OsString>> {
        match self.takes {
            Takes::File | Takes::Url if targets.len() > 1 => {
                targets.iter().map(|one| self.command(facts, std::slice::from_ref(one))).collect()
            }
            Takes::Nothing => vec![self.command(facts, &[])],
            _ => vec![self.command(facts, targets)],
        }
    }

    fn command(&self, facts: &Facts<'_>, targets: &[OsString]) -> Vec<OsString> {
        let mut command = vec![OsString::from(&self.program)];
        for argument in &self.arguments {
            match &argument[..] {
                [Piece::Field(Field::Targets)] => command.extend_from_slice(targets),
                [Piece::Field(Field::Icon)] if facts.icon.is_empty() => {}
                [Piece::Field(Field::Icon)] => command.extend(["--icon".into(), facts.icon.into()]),
                pieces => {
                    let mut word = OsString::new();
                    for piece in pieces {
                        word.push(match piece {
                            Piece::Text(text) => OsStr::new(text),
                            Piece::Field(Field::Targets) => {
                                targets.first().map_or(OsStr::new(""), OsString::as_os_str)
                            }
                            Piece::Field(Field::Icon) => OsStr::new(facts.icon),
                            Piece::Field(Field::Name) => OsStr::new(facts.name),
                            Piece::Field(Field::File) => facts.file.as_os_str(),
                        });
                    }
                    command.push(word);
                }
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands(line: &str, targets: &[&str]) -> Vec<Vec<String>> {
        let facts =
            Facts { name: "A %f \"$(x)\"", icon: "an icon", file: Path::new("/a b.desktop") };
        let targets: Vec<OsString> = targets.iter().map(OsString::from).collect();
        let commands = line.parse::<Line>().unwrap().commands(&facts, &targets);
        let text = |word: OsString| word.into_string().unwrap();
        commands.into_iter().map(|words| words.into_iter().map(text).collect()).collect()
    }

    fn one(line: &str, targets: &[&str]) -> Vec<String> {
        let mut commands = commands(line, targets);
        assert_eq!(commands.len(), 1, "{line}");
        commands.remove(0)
    }

    #[test]
    fn words_are_split_and_quoted_as_the_specification_says() {
        for (line, words) in [
            ("a b\tc  d", &["a", "b", "c", "d"][..]),
            (r#""/opt/a program" "" b"#, &["/opt/a program", "", "b"]),
            (r#"a "\"q\" \`x\` \$HOME \\ \n""#, &["a", r#""q" `x` $HOME \ \n"#]),
            (
                r#"a "$(touch /tmp/x)" `id` $HOME ~ ; & | > <"#,
                &["a", "$(touch /tmp/x)", "`id`", "$HOME", "~", ";", "&", "|", ">", "<"],
            ),
            // What the specification leaves open.
            ("sh -c 'echo \"$1\" \\'", &["sh", "-c", "echo \"$1\" \\"]),
            (
                r#"env P="/home/a b/.wine" wine C:\\windows\\a\ b.exe"#,
                &["env", "P=/home/a b/.wine", "wine", r"C:\windows\a b.exe"],
            ),
            ("a b\nc", &["a", "b", "c"]),
            ("a \"b\nc\"", &["a", "b\nc"]),
            ("a \\", &["a", "\\"]),
        ] {
            assert_eq!(one(line, &[]), words, "{line}");
        }
    }

    #[test]
    fn fields_become_what_the_specification_says() {
        let (f, g) = ("/x/one", "/x/two");
        for (line, targets, words) in [
            ("a %f", &[f][..], &["a", f][..]),
            ("a %f", &[], &["a"]),
            ("a %F -x", &[f, g], &["a", f, g, "-x"]),
            ("a %u", &["https://x/"], &["a", "https://x/"]),
            ("a %U", &[f, g], &["a", f, g]),
            ("a --file=%f", &[f], &["a", "--file=/x/one"]),
            ("a --file=%f", &[], &["a", "--file="]),
            ("a \"%F\"", &[f, g], &["a", f, g]),
            // One field for targets only.
            ("a %f %u %F x%U", &[f], &["a", f, "x"]),
            ("a 100%% %%f", &[f], &["a", "100%", "%f"]),
            ("a %i %c %k", &[], &["a", "--icon", "an icon", "A %f \"$(x)\"", "/a b.desktop"]),
            ("a --n=%c", &[], &["a", "--n=A %f \"$(x)\""]),
            ("a %d %D %n %N %v %m x%dy", &[], &["a", "xy"]),
            // Inside quotes they are text.
            ("sh -c \"cat %f '%%'\" sh", &[f], &["sh", "-c", "cat %f '%'", "sh"]),
            ("sh -c 'cat %f'", &[f], &["sh", "-c", "cat %f"]),
            (r"a \%f", &[f], &["a", f]),
            ("a '%z' '100%'", &[], &["a", "%z", "100%"]),
            ("a", &[f], &["a"]),
        ] {
            assert_eq!(one(line, targets), words, "{line}");
        }
    }

    #[test]
    fn a_target_is_one_argument_whatever_it_is_called() {
        for name in ["/x/%f %U%%", "/x/a b\"c'd", "/x/$(id)`id`", "/x/a\nb", "/x/-rf", "/x/\\"] {
            assert_eq!(one("a %F", &[name, name]), ["a", name, name]);
            assert_eq!(one("a -f=%u", &[name]), ["a".to_owned(), format!("-f={name}")]);
        }
    }

    #[test]
    fn what_takes_one_is_started_once_for_each() {
        assert_eq!(commands("a %f", &["/1", "/2"]), [["a", "/1"], ["a", "/2"]]);
        assert_eq!(commands("a -u=%U", &["/1", "/2"]), [["a", "-u=/1"], ["a", "-u=/2"]]);
        for (line, takes) in [
            ("a", Takes::Nothing),
            ("a %f", Takes::File),
            ("a %F", Takes::Files),
            ("a %u", Takes::Url),
            ("a %U", Takes::Urls),
            ("a --x=%F", Takes::File),
            ("a %% %c %i %d", Takes::Nothing),
        ] {
            assert_eq!(line.parse::<Line>().unwrap().takes(), takes, "{line}");
        }
    }

    #[test]
    fn a_line_that_must_not_be_run_says_why() {
        for (line, why) in [
            ("", ExecError::Empty),
            (" \t\n", ExecError::Empty),
            ("a \"b", ExecError::Quote),
            ("a \"b\\\"", ExecError::Quote),
            ("a 'b", ExecError::Quote),
            ("a %z", ExecError::Field),
            ("a 100%", ExecError::Field),
            ("a %", ExecError::Field),
            ("a % b", ExecError::Field),
            ("%f", ExecError::Program),
            ("\"%U\" a", ExecError::Program),
            ("a%c", ExecError::Program),
            ("A=b c", ExecError::Program),
            ("\"\" a", ExecError::Program),
            ("%d a", ExecError::Program),
            ("a\0b", ExecError::Zero),
        ] {
            assert_eq!(line.parse::<Line>().unwrap_err(), why, "{line:?}");
        }
    }

    /// Any argument, written as the specification asks.
    fn quoted(text: &str) -> String {
        let mut quoted = "\"".to_owned();
        for character in text.chars() {
            match character {
                '"' | '`' | '$' | '\\' => quoted.extend(['\\', character]),
                '%' => quoted += "%%",
                other => quoted.push(other),
            }
        }
        quoted + "\""
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "(%[a-zA-Z%]|[ \"'\\\\$`a=%\n]){0,24}", target in ".{0,8}") {
            if let Ok(read) = line.parse::<Line>() {
                let facts = Facts { name: "n", icon: "i", file: Path::new("/k") };
                let commands = read.commands(&facts, &[target.into()]);
                prop_assert_eq!(commands.len(), 1);
                prop_assert!(!commands[0][0].is_empty());
                prop_assert_eq!(commands[0][0].to_str().unwrap(), read.program());
            }
        }

        #[test]
        fn quoted_arguments_come_back_as_they_were(words in proptest::collection::vec("[^\0]{0,12}", 0..6)) {
            let line = words.iter().fold("a".to_owned(), |line, word| line + " " + &quoted(word));
            prop_assert_eq!(&one(&line, &["/target"])[1..], &words[..]);
        }
    }
}
