//! The packages of all deb sources together, for one architecture.
//!
//! Only names, versions and places are in memory; a stanza is read again when its package is looked at. So
//! a closure over tens of thousands of packages needs a few megabytes.

use std::collections::HashMap;
use std::fs::File;

use super::closure::{Need, Root, Universe};
use super::debian::{Relation, compare, dependencies};
use super::{Asked, Text, Where};
use crate::deb822::{Stanza, Stanzas};
use crate::error::{Error, Result};
use crate::state::Found;
use crate::upstream::packages::Entry;

/// A package that provides a name, and the version of it.
type Provided = (u32, Option<Box<str>>);

struct Package<'a> {
    place: Where,
    text: Text<'a>,
    length: u32,
    name: u32,
    version: Box<str>,
}

/// Packages that one architecture can use.
pub(crate) struct Packages<'a> {
    arch: &'a str,
    recommends: bool,
    files: Vec<File>,
    packages: Vec<Package<'a>>,
    names: HashMap<Box<str>, u32>,
    named: Vec<Vec<u32>>,
    provided: HashMap<Box<str>, Vec<Provided>>,
}

impl<'a> Packages<'a> {
    /// An empty universe.
    pub(crate) fn new(arch: &'a str, recommends: bool) -> Self {
        Self {
            arch,
            recommends,
            files: Vec::new(),
            packages: Vec::new(),
            names: HashMap::new(),
            named: Vec::new(),
            provided: HashMap::new(),
        }
    }

    /// Adds an unpacked `Packages` file.
    ///
    /// # Errors
    /// [`Error::Rejected`] naming `what`; [`Error::Read`].
    pub(crate) fn add_index(&mut self, source: u16, index: u16, file: File, what: &str) -> Result<()> {
        let number = u32::try_from(self.files.len()).expect("few indices");
        let mut stanzas = Stanzas::new(&file);
        let rejected = |message: String| Error::rejected(what, message);
        while let Some(stanza) = stanzas.next().map_err(|error| rejected(error.to_string()))? {
            let entry = Entry::parse(&stanza).map_err(rejected)?;
            let place = Where { source, index, offset: stanza.offset };
            let length = u32::try_from(stanza.text.len()).expect("a stanza is small");
            self.add(place, Text::File(number), length, entry.name, entry.version, entry.arch, entry.provides);
        }
        self.files.push(file);
        Ok(())
    }

    /// Adds packages of a directory.
    pub(crate) fn add_found(&mut self, source: u16, found: &'a [Found]) {
        for (offset, package) in found.iter().enumerate() {
            let stanza = Stanza { offset: 0, text: package.stanza.as_bytes() };
            let place = Where { source, index: 0, offset: offset as u64 };
            let (name, version, arch) = (&package.package, &package.version, &package.architecture);
            self.add(place, Text::Memory(package.stanza.as_bytes()), 0, name, version, arch, stanza.field("Provides"));
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one package")]
    fn add(
        &mut self,
        place: Where,
        text: Text<'a>,
        length: u32,
        name: &str,
        version: &str,
        arch: &str,
        provides: Option<&str>,
    ) {
        if arch != "all" && arch != self.arch {
            return;
        }
        let package = u32::try_from(self.packages.len()).expect("fewer packages than 2^32");
        let id = match self.names.get(name) {
            Some(id) => *id,
            None => {
                let id = u32::try_from(self.named.len()).expect("fewer names than 2^32");
                self.names.insert(name.into(), id);
                self.named.push(Vec::new());
                id
            }
        };
        self.named[id as usize].push(package);
        for relation in provides.into_iter().flat_map(dependencies).filter_map(Relation::parse) {
            let version = relation.version.map(|(_, version)| version.into());
            match self.provided.get_mut(relation.name) {
                Some(list) => list.push((package, version)),
                None => {
                    self.provided.insert(relation.name.into(), vec![(package, version)]);
                }
            }
        }
        self.packages.push(Package { place, text, length, name: id, version: version.into() });
    }

    /// Returns where a package is described.
    pub(crate) fn place(&self, package: u32) -> Where {
        self.packages[package as usize].place
    }

    /// Returns the packages that a name means: those called so, else those that provide it.
    pub(crate) fn root(&self, asked: &Asked) -> Root {
        let mut met_by: Vec<u32> =
            self.names.get(asked.name.as_str()).map_or_else(Vec::new, |id| self.named[*id as usize].clone());
        if let Some(version) = &asked.version {
            met_by.retain(|package| compare(&self.packages[*package as usize].version, version).is_eq());
        } else if met_by.is_empty()
            && let Some(provided) = self.provided.get(asked.name.as_str())
        {
            met_by.extend(provided.iter().map(|(package, _)| package));
        }
        Root { text: asked.to_string(), met_by }
    }

    fn meet(&self, relation: &Relation<'_>, met_by: &mut Vec<u32>) {
        if relation.arch.is_some_and(|arch| !matches!(arch, "any" | "native" | "all") && arch != self.arch) {
            return;
        }
        if let Some(id) = self.names.get(relation.name) {
            let named = self.named[*id as usize].iter();
            met_by.extend(named.filter(|package| relation.accepts(Some(&self.packages[**package as usize].version))));
        }
        if let Some(provided) = self.provided.get(relation.name) {
            let fitting = provided.iter().filter(|(_, version)| relation.accepts(version.as_deref()));
            met_by.extend(fitting.map(|(package, _)| package));
        }
    }

    fn text(&self, package: &Package<'a>) -> Result<Vec<u8>> {
        package.text.read(&self.files, package.place.offset, package.length)
    }
}

impl Universe for Packages<'_> {
    fn needs(&self, package: u32) -> Result<Vec<Need>> {
        let text = self.text(&self.packages[package as usize])?;
        let mut needs = Vec::new();
        for (field, value) in (Stanza { offset: 0, text: &text }).fields() {
            let optional = field.eq_ignore_ascii_case(b"Recommends") && self.recommends;
            if !(optional || field.eq_ignore_ascii_case(b"Depends") || field.eq_ignore_ascii_case(b"Pre-Depends")) {
                continue;
            }
            let Ok(value) = std::str::from_utf8(value) else { continue };
            for dependency in dependencies(value) {
                let mut met_by = Vec::new();
                for relation in Relation::alternatives(dependency) {
                    self.meet(&relation, &mut met_by);
                }
                met_by.sort_unstable();
                met_by.dedup();
                let text = dependency.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
                needs.push(Need { text, met_by, optional });
            }
        }
        Ok(needs)
    }

    fn describe(&self, package: u32) -> String {
        let package = &self.packages[package as usize];
        let name = self.names.iter().find(|(_, id)| **id == package.name).map_or("?", |(name, _)| name);
        format!("{name} {}", package.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::closure::close;
    use std::io::Write as _;

    const INDEX: &str = "\
Package: app
Depends: libx (>= 2) | libold, mail-agent, tool:any

Package: libx
Version: 1.0

Package: libx
Version: 2.1

Package: libold
Depends: gone

Package: postfix
Provides: mail-agent

Package: exim
Provides: mail-agent (= 4)

Package: tool
Recommends: extra

Package: extra

Package: strict
Depends: mail-agent (>= 5)

Package: other
Architecture: arm64
";

    fn universe(recommends: bool) -> Packages<'static> {
        let mut text = String::new();
        for (number, stanza) in INDEX.split("\n\n").enumerate() {
            let mut stanza = stanza.trim_end().to_owned();
            for (field, value) in [("Version", "1".to_owned()), ("Architecture", "amd64".to_owned())] {
                if !stanza.contains(&format!("{field}: ")) {
                    stanza.push_str(&format!("\n{field}: {value}"));
                }
            }
            let sha256 = "0".repeat(64);
            text.push_str(&format!("{stanza}\nFilename: pool/{number}\nSize: 1\nSHA256: {sha256}\n\n"));
        }
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("writable");
        std::io::Seek::rewind(&mut file).expect("seekable");
        let mut packages = Packages::new("amd64", recommends);
        packages.add_index(0, 0, file, "test").expect("parses");
        packages
    }

    fn closure(universe: &Packages<'_>, name: &str) -> std::result::Result<Vec<String>, Vec<String>> {
        let asked = Asked { name: name.into(), version: None, from: String::new() };
        let closed = close(universe, &[universe.root(&asked)]).expect("readable");
        let names = closed.packages.into_iter().map(|package| universe.describe(package)).collect();
        if closed.open.is_empty() && closed.absent.is_empty() { Ok(names) } else { Err(closed.open) }
    }

    #[test]
    fn versions_and_providers_count() {
        let all = closure(&universe(false), "app").expect("closed");
        assert_eq!(all, ["app 1", "libx 2.1", "postfix 1", "exim 1", "tool 1"], "libold cannot work");
        assert!(closure(&universe(true), "app").expect("closed").contains(&"extra 1".to_owned()));
        assert_eq!(closure(&universe(false), "mail-agent").expect("closed").len(), 2, "a virtual package");
        let open = closure(&universe(false), "strict").expect_err("open");
        assert_eq!(open, ["strict: strict 1 needs mail-agent (>= 5), which no source has"]);
        assert!(closure(&universe(false), "other").is_err(), "another architecture");
    }
}
