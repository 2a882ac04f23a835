//! `.gitmodules`: what a tree says about its submodules.
//!
//! The file is in the syntax of git's configuration and comes from somebody else. libgit2's reader follows
//! `include` to other files of this machine; this one reads `[submodule "NAME"]` with `path`, `url` and
//! `update`, takes everything else for words of others, and refuses what is not in the syntax.

use std::iter::Peekable;
use std::str::Chars;

/// Largest file that is read.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Most submodules that it may name.
const MAX_SECTIONS: usize = 4096;

/// A section about one submodule; as in git, the last value of a key counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) path: Option<String>,
    pub(crate) url: Option<String>,
    pub(crate) update: Option<String>,
}

/// Reads the sections; those of one name are one.
///
/// # Errors
/// The line that is wrong, and how.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Section>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("it is larger than {} KiB", MAX_BYTES >> 10));
    }
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut reader = Reader { rest: text.chars().peekable(), line: 1, start: 1 };
    let mut sections: Vec<Section> = Vec::new();
    reader.read(&mut sections).map_err(|why| format!("line {}: {why}", reader.start))?;
    Ok(sections)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    /// The line where the section, key or comment at hand begins.
    start: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        self.rest.next().inspect(|&c| self.line += usize::from(c == '\n'))
    }

    fn read(&mut self, sections: &mut Vec<Section>) -> Result<(), &'static str> {
        // The section at hand: none before the first, or one that is not about a submodule.
        let mut current: Option<Option<usize>> = None;
        loop {
            self.start = self.line;
            let Some(c) = self.next() else { return Ok(()) };
            match c {
                '#' | ';' => while self.next().is_some_and(|c| c != '\n') {},
                '[' => {
                    current = Some(self.heading()?.map(|name| {
                        let known = sections.iter().position(|section| section.name == name);
                        known.unwrap_or_else(|| {
                            sections.push(Section { name, ..Section::default() });
                            sections.len() - 1
                        })
                    }));
                    if sections.len() > MAX_SECTIONS {
                        return Err("it names too many submodules");
                    }
                }
                c if c.is_whitespace() => {}
                c if c.is_ascii_alphabetic() => {
                    let key = self.key(c);
                    let value = self.value()?;
                    let section = current.ok_or("a key stands before the first section")?;
                    let Some(section) = section.map(|number| &mut sections[number]) else { continue };
                    let slot = match key.as_str() {
                        "path" => &mut section.path,
                        "url" => &mut section.url,
                        "update" => &mut section.update,
                        _ => continue,
                    };
                    *slot = Some(value.ok_or("a key has no value")?);
                }
                _ => return Err("a line is neither a section, a key nor a comment"),
            }
        }
    }

    /// Reads the rest of `[WORD "NAME"]`; returns the name if the word is `submodule`.
    fn heading(&mut self) -> Result<Option<String>, &'static str> {
        const WRONG: &str = "a section has no valid name";
        let mut word = String::new();
        loop {
            match self.next().ok_or(WRONG)? {
                ']' if word.is_empty() => return Err(WRONG),
                // The old form `[submodule.NAME]` means a name in lower case.
                ']' => return Ok(word.strip_prefix("submodule.").filter(|name| !name.is_empty()).map(str::to_owned)),
                c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') => word.push(c.to_ascii_lowercase()),
                ' ' | '\t' => break,
                _ => return Err(WRONG),
            }
        }
        while self.rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        if self.next() != Some('"') {
            return Err(WRONG);
        }
        let mut name = String::new();
        loop {
            match self.next().ok_or(WRONG)? {
                '"' => break,
                '\n' | '\0' => return Err(WRONG),
                '\\' => name.push(self.next().filter(|c| *c != '\n').ok_or(WRONG)?),
                c => name.push(c),
            }
        }
        if self.next() != Some(']') {
            return Err(WRONG);
        }
        Ok((word == "submodule").then_some(name))
    }

    fn key(&mut self, first: char) -> String {
        let mut key = String::from(first.to_ascii_lowercase());
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '-') {
            key.push(c.to_ascii_lowercase());
        }
        key
    }

    /// Reads up to the end of the line; none if there is no `=`.
    fn value(&mut self) -> Result<Option<String>, &'static str> {
        while self.rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        match self.next() {
            None | Some('\n') => return Ok(None),
            Some('=') => {}
            Some(_) => return Err("a key is not followed by '='"),
        }
        let (mut value, mut blanks, mut quoted) = (String::new(), String::new(), false);
        let mut begun = false;
        loop {
            let c = match self.next() {
                None | Some('\n') if quoted => return Err("a value has no closing quote"),
                None | Some('\n') => return Ok(Some(value)),
                Some(c) => c,
            };
            if c.is_whitespace() && !quoted {
                // Blanks count between words only.
                if begun {
                    blanks.push(c);
                }
                continue;
            }
            if matches!(c, '#' | ';') && !quoted {
                while self.next().is_some_and(|c| c != '\n') {}
                return Ok(Some(value));
            }
            let c = match c {
                '"' => {
                    quoted = !quoted;
                    begun = true;
                    value.push_str(&std::mem::take(&mut blanks));
                    continue;
                }
                '\\' => match self.next() {
                    Some('\n') => continue,
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('b') => '\u{8}',
                    Some(c @ ('"' | '\\')) => c,
                    _ => return Err("a value has an unknown escape"),
                },
                c => c,
            };
            begun = true;
            value.push_str(&std::mem::take(&mut blanks));
            value.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Section {
        let mut sections = parse(text.as_bytes()).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(sections.len(), 1, "{sections:?}");
        sections.remove(0)
    }

    #[test]
    fn sections_are_read_as_git_reads_them() {
        let section = one(
            "\u{feff}# about\n[submodule \"a b\"]\r\n\tpath = lib/a ; x\n\tURL = \"../a b.git\" # y\n\tbranch = .\n",
        );
        assert_eq!((section.name.as_str(), section.path.as_deref()), ("a b", Some("lib/a")));
        assert_eq!((section.url.as_deref(), section.update), (Some("../a b.git"), None));
        let section = one("[submodule \"q\\\"\\\\\"] path=x\nurl=a\\\nb\nurl = c\\\"d  e \nupdate = !rm\n");
        assert_eq!((section.name.as_str(), section.url.as_deref()), ("q\"\\", Some("c\"d  e")));
        assert_eq!(section.update.as_deref(), Some("!rm"));
        assert_eq!(one("[submodule.Old]\npath = \"p \"\n").name, "old");
        assert_eq!(one("[submodule \"x\"]\npath = p \"q r\"\n").path.as_deref(), Some("p q r"));
        // Two sections of one name are one; the last value counts.
        let section = one("[submodule \"x\"]\npath = 1\n[core]\npath = 9\n[submodule \"x\"]\npath = 2\nurl = u\n");
        assert_eq!((section.path.as_deref(), section.url.as_deref()), (Some("2"), Some("u")));
    }

    #[test]
    fn nothing_else_is_followed_or_read() {
        let text = "[include]\n\tpath = /etc/passwd\n[includeIf \"gitdir:/\"]\n\tpath = x\n[submodule]\n\tpath = y\n";
        assert_eq!(parse(text.as_bytes()), Ok(Vec::new()));
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn other_texts_are_refused_with_their_line() {
        for (text, line) in [
            ("path = x\n", 1),
            ("\n[submodule \"x\n\"]\n", 2),
            ("[submodule \"x\"\npath = y\n", 1),
            ("[]\n", 1),
            ("[sub module]\n", 1),
            ("[submodule \"x\"]\npath\n", 2),
            ("[submodule \"x\"]\npath x\n", 2),
            ("[submodule \"x\"]\npath = \"x\n", 2),
            ("[submodule \"x\"]\npath = \\x\n", 2),
            ("[submodule \"x\"]\n= x\n", 2),
            ("[submodule \"x", 1),
        ] {
            let why = parse(text.as_bytes()).expect_err(text);
            assert!(why.starts_with(&format!("line {line}: ")), "{text:?}: {why}");
        }
        assert!(parse(b"\xff").is_err());
        assert!(parse(&vec![b'\n'; MAX_BYTES + 1]).is_err());
    }
}
