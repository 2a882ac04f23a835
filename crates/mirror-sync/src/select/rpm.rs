//! The packages of all rpm sources together.
//!
//! Only names, versions and places are in memory, and of files only those that some package requires.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use super::closure::{Need, Root, Universe};
use super::{Asked, Text, Where};
use crate::error::{Error, Result};
use crate::rpm::package::{Capability, Package};
use crate::rpm::version::Evr;
use crate::rpm::xml::Packages as Elements;

struct Known<'a> {
    place: Where,
    text: Text<'a>,
    length: u32,
    name: Box<str>,
    evr: Evr,
}

/// A package that provides a name, and the version of it where there is just one.
type Provided = (u32, Option<Evr>);

/// Packages of all sources.
pub(crate) struct Packages<'a> {
    recommends: bool,
    files: Vec<File>,
    packages: Vec<Known<'a>>,
    provided: HashMap<Box<str>, Vec<Provided>>,
    /// Files that are required, with the packages that have them.
    paths: HashMap<Box<str>, Vec<u32>>,
}

impl<'a> Packages<'a> {
    /// An empty universe.
    pub(crate) fn new(recommends: bool) -> Self {
        Self { recommends, files: Vec::new(), packages: Vec::new(), provided: HashMap::new(), paths: HashMap::new() }
    }

    /// Adds an unpacked `primary`.
    ///
    /// # Errors
    /// [`Error::Rejected`] naming `what`.
    pub(crate) fn add_index(
        &mut self,
        source: u16,
        file: File,
        what: &str,
        takes: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let number = u32::try_from(self.files.len()).expect("few indices");
        let rejected = |message: String| Error::rejected(what, message);
        let mut elements = Elements::new(&file);
        while let Some(element) = elements.next().map_err(|error| rejected(error.to_string()))? {
            let package = Package::parse(element.text).map_err(rejected)?;
            if takes(&package.arch) {
                let place = Where { source, index: 0, offset: element.offset };
                let length = u32::try_from(element.text.len()).expect("an element is small");
                self.add(place, Text::File(number), length, &package);
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Adds a package of a directory.
    ///
    /// # Errors
    /// [`Error::Bug`] when its element does not parse.
    pub(crate) fn add_element(&mut self, place: Where, element: &'a [u8]) -> Result<()> {
        let package = Package::parse(element).map_err(Error::Bug)?;
        self.add(place, Text::Memory(element), 0, &package);
        Ok(())
    }

    fn add(&mut self, place: Where, text: Text<'a>, length: u32, package: &Package<'_>) {
        let number = u32::try_from(self.packages.len()).expect("fewer packages than 2^32");
        for provided in &package.provides {
            // Ranges are rare, and then the name counts as provided in any version.
            let version = match &provided.version {
                Some((flag, evr)) if flag == "EQ" => Some(evr.clone()),
                _ => None,
            };
            match self.provided.get_mut(&*provided.name) {
                Some(list) => list.push((number, version)),
                None => {
                    self.provided.insert(Box::from(&*provided.name), vec![(number, version)]);
                }
            }
        }
        for required in package.requires.iter().chain(&package.recommends).filter(|entry| entry.name.starts_with('/')) {
            self.paths.entry(Box::from(&*required.name)).or_default();
        }
        let name = Box::from(&*package.name);
        self.packages.push(Known { place, text, length, name, evr: package.evr.clone() });
    }

    /// Finds who has the files that are required; called when everything was added. Returns the files that nobody
    /// has by `primary` alone.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub(crate) fn find_files(&mut self) -> Result<HashSet<Box<str>>> {
        for number in 0..self.packages.len() {
            let text = self.text(&self.packages[number])?;
            let Ok(package) = Package::parse(&text) else { continue };
            for path in &package.files {
                if let Some(owners) = self.paths.get_mut(&**path) {
                    owners.push(u32::try_from(number).expect("fewer packages than 2^32"));
                }
            }
        }
        let nobody = self.paths.iter().filter(|(path, owners)| owners.is_empty() && !self.provided.contains_key(*path));
        Ok(nobody.map(|(path, _)| path.clone()).collect())
    }

    /// Adds the owner of a file that `filelists` names.
    pub(crate) fn add_owner(&mut self, place: Where, path: &str) {
        if let Ok(number) = self.packages.binary_search_by_key(&place, |package| package.place)
            && let Some(owners) = self.paths.get_mut(path)
        {
            owners.push(u32::try_from(number).expect("fewer packages than 2^32"));
        }
    }

    /// Returns where a package is described.
    pub(crate) fn place(&self, package: u32) -> Where {
        self.packages[package as usize].place
    }

    /// Returns the packages that a name means: those called so, else those that provide it.
    pub(crate) fn root(&self, asked: &Asked) -> Root {
        let provided = self.provided.get(asked.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let called = |package: &&u32| *self.packages[**package as usize].name == *asked.name;
        let mut met_by: Vec<u32> = provided.iter().map(|(package, _)| *package).collect();
        if met_by.iter().any(|package| called(&package)) {
            met_by.retain(|package| called(&package));
        }
        if let Some(version) = &asked.version {
            let wanted = Evr::parse(version);
            met_by.retain(|package| self.packages[*package as usize].evr.compare(&wanted).is_eq());
        }
        met_by.sort_unstable();
        met_by.dedup();
        Root { text: asked.to_string(), met_by }
    }

    fn meet(&self, capability: &Capability<'_>, met_by: &mut Vec<u32>) {
        let accepts = |provided: &Option<Evr>| match (&capability.version, provided) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((flag, bound)), Some(provided)) => {
                let order = provided.compare(bound);
                match &**flag {
                    "LT" => order.is_lt(),
                    "LE" => order.is_le(),
                    "GE" => order.is_ge(),
                    "GT" => order.is_gt(),
                    _ => order.is_eq(),
                }
            }
        };
        if let Some(provided) = self.provided.get(&*capability.name) {
            met_by.extend(provided.iter().filter(|(_, version)| accepts(version)).map(|(package, _)| package));
        }
        if let Some(owners) = self.paths.get(&*capability.name) {
            met_by.extend(owners);
        }
    }

    /// Turns one entry into needs. Of an expression both sides are taken.
    fn need(&self, capability: &Capability<'_>, optional: bool, needs: &mut Vec<Need>) {
        let text = match &capability.version {
            Some((flag, evr)) => format!("{} {flag} {evr}", capability.name),
            None => capability.name.clone().into_owned(),
        };
        let Some(expression) = capability.name.strip_prefix('(') else {
            let mut met_by = Vec::new();
            self.meet(capability, &mut met_by);
            needs.push(finished(text, met_by, optional));
            return;
        };
        let (operands, operators) = operands(expression);
        let all = !operators.is_empty() && operators.iter().all(|operator| *operator == "and");
        let any = operators.iter().all(|operator| matches!(*operator, "or" | "with" | "without"));
        let mut together = Vec::new();
        for operand in &operands {
            let mut met_by = Vec::new();
            self.meet(operand, &mut met_by);
            if all {
                needs.push(finished(text.clone(), met_by, optional));
            } else {
                together.extend(met_by);
            }
        }
        if !all {
            // With a condition in it, it may not be needed at all.
            needs.push(finished(text, together, optional || !any));
        }
    }

    fn text(&self, package: &Known<'a>) -> Result<Vec<u8>> {
        package.text.read(&self.files, package.place.offset, package.length)
    }
}

fn finished(text: String, mut met_by: Vec<u32>, optional: bool) -> Need {
    met_by.sort_unstable();
    met_by.dedup();
    Need { text, met_by, optional }
}

/// Returns the names of an expression, with their versions, and the operators between them.
fn operands(expression: &str) -> (Vec<Capability<'_>>, Vec<&str>) {
    let (mut operands, mut operators) = (Vec::<Capability<'_>>::new(), Vec::new());
    let mut words = expression.split(|c: char| c.is_whitespace()).flat_map(split_parentheses).peekable();
    while let Some(word) = words.next() {
        match word {
            "(" | ")" => {}
            "and" | "or" | "if" | "unless" | "else" | "with" | "without" => operators.push(word),
            "<" | "<=" | "=" | ">=" | ">" => {
                let flag = match word {
                    "<" => "LT",
                    "<=" => "LE",
                    ">=" => "GE",
                    ">" => "GT",
                    _ => "EQ",
                };
                if let (Some(version), Some(operand)) = (words.next(), operands.last_mut()) {
                    operand.version = Some((flag.into(), Evr::parse(version)));
                }
            }
            name => operands.push(Capability { name: name.into(), version: None }),
        }
    }
    (operands, operators)
}

/// Takes the parentheses of grouping off a word; those of a name like `perl(Foo)` belong to it.
fn split_parentheses(word: &str) -> impl Iterator<Item = &str> {
    let inner = word.trim_start_matches('(');
    let opened = inner.matches('(').count();
    let mut inner = inner;
    while inner.ends_with(')') && inner.matches(')').count() > opened {
        inner = &inner[..inner.len() - 1];
    }
    std::iter::once(inner).filter(|word| !word.is_empty())
}

impl Universe for Packages<'_> {
    fn needs(&self, package: u32) -> Result<Vec<Need>> {
        let text = self.text(&self.packages[package as usize])?;
        let package = Package::parse(&text).map_err(|why| Error::rejected("the index", why))?;
        let mut needs = Vec::new();
        for required in package.requires.iter().filter(|required| !required.name.starts_with("rpmlib(")) {
            self.need(required, false, &mut needs);
        }
        if self.recommends {
            for recommended in &package.recommends {
                self.need(recommended, true, &mut needs);
            }
        }
        Ok(needs)
    }

    fn describe(&self, package: u32) -> String {
        let package = &self.packages[package as usize];
        format!("{} {}", package.name, package.evr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::closure::close;

    fn element(name: &str, provides: &[&str], requires: &[&str], file: &str) -> String {
        let entry = |text: &&str| match text.split_once('=') {
            Some((name, version)) if !name.starts_with('(') => {
                let flag = if name.ends_with('>') { "GE" } else { "EQ" };
                format!(
                    "<rpm:entry name=\"{}\" flags=\"{flag}\" epoch=\"0\" ver=\"{version}\"/>",
                    name.trim_end_matches('>')
                )
            }
            _ => format!("<rpm:entry name=\"{}\"/>", text.replace('>', "&gt;").replace('<', "&lt;")),
        };
        let own = format!("{name}=1");
        let provides: String = provides.iter().chain([&own.as_str()]).map(entry).collect();
        let requires: String = requires.iter().map(entry).collect();
        format!(
            "<package type=\"rpm\"><name>{name}</name><arch>noarch</arch><version epoch=\"0\" ver=\"1\" rel=\"1\"/>\
             <checksum type=\"sha256\">{}</checksum><size package=\"1\"/><location href=\"{name}.rpm\"/><format>\
             <rpm:provides>{provides}</rpm:provides><rpm:requires>{requires}</rpm:requires><file>{file}</file></format></package>",
            "0".repeat(64)
        )
    }

    #[test]
    fn capabilities_files_and_expressions_count() {
        let elements = [
            element("app", &[], &["lib>=2", "/usr/bin/tool", "(x or y)", "(plugin if desktop)", "rpmlib(X)"], "/a"),
            element("old", &["lib=1.9"], &[], "/b"),
            element("new", &["lib=2.1"], &["(perl(A::B) and config(new) >= 1)"], "/c"),
            element("tool", &[], &[], "/usr/bin/tool"),
            element("y", &["perl(A::B)", "config(new)=3"], &[], "/d"),
            element("plugin", &[], &[], "/e"),
            element("broken", &[], &["lib>=3", "/nowhere"], "/f"),
        ];
        let mut packages = Packages::new(false);
        for (number, element) in elements.iter().enumerate() {
            packages
                .add_element(Where { source: 0, index: 0, offset: number as u64 }, element.as_bytes())
                .expect("parses");
        }
        let nobody = packages.find_files().expect("readable");
        assert_eq!(nobody.len(), 1);
        let asked = |name: &str| Asked { name: name.into(), version: None, from: String::new() };
        let closed = close(&packages, &[packages.root(&asked("app"))]).expect("readable");
        let names: Vec<String> = closed.packages.iter().map(|package| packages.describe(*package)).collect();
        assert_eq!(names, ["app 1-1", "new 1-1", "tool 1-1", "y 1-1", "plugin 1-1"]);
        let closed = close(&packages, &[packages.root(&asked("broken"))]).expect("readable");
        assert_eq!(closed.open, ["broken: broken 1-1 needs lib GE 3 and /nowhere, which no source has"]);
        let pinned = Asked { version: Some("1-1".into()), ..asked("tool") };
        assert_eq!(packages.root(&pinned).met_by, [3]);
        assert!(packages.root(&Asked { version: Some("2".into()), ..asked("tool") }).met_by.is_empty());
    }

    #[test]
    fn expressions_are_taken_apart() {
        let (names, operators) = operands("(a >= 1 and perl(B)) if (c or d)) ");
        let names: Vec<&str> = names.iter().map(|name| &*name.name).collect();
        assert_eq!(names, ["a", "perl(B)", "c", "d"]);
        assert_eq!(operators, ["and", "if", "or"]);
    }
}
