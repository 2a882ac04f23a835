//! The manifest: which repositories, from where, at which ref, to which place.
//!
//! A manifest is a tree of mappings in YAML or JSON. Scalars are inherited down the tree and the
//! nearest definition wins. A mapping without sub-mappings for which `source` is set, by itself or
//! by inheritance, is a repository; one with sub-mappings is a group. `%{var}` stands for the
//! variable's value as the repository sees it, `%{name}` for the repository's own key; expansion
//! goes on until no token is left. `submodules: false` places a tree without its submodules.
//!
//! What always holds: a scalar means what is written (`1.10` and `yes` are texts); nothing is
//! guessed (an undefined variable, a cycle, a list, a duplicate key are errors with file, line and
//! column); work is bounded whatever the input (bytes, depth, aliases, length of a value).
//!
//! Values are not judged here: [`crate::source`] and [`crate::dest`] do that, for each repository
//! alone, so that one hostile entry does not stop the others.

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use toolkit::yaml::{self, Mark, Node, Value};

use crate::nearest::nearest;

/// Largest manifest that is read.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Longest value that expansion may produce.
const MAX_VALUE: usize = 4096;
/// The keys that have a meaning of their own in a repository.
const KNOWN: [&str; 4] = ["source", "ref", "dest", "submodules"];

/// A parsed manifest, before expansion.
#[derive(Debug, Clone)]
pub struct Manifest {
    file: String,
    root: Group,
}

/// One repository of a manifest, with all variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// The key under which the manifest lists it.
    pub name: String,
    /// Keys from the top to the repository, joined by `::`.
    pub path: String,
    /// Where it comes from, as written.
    pub source: String,
    /// The branch, tag or commit; none means the remote's HEAD.
    pub reference: Option<String>,
    /// Where it goes, as written.
    pub dest: String,
    /// Whether a tree with submodules is refused (they cannot be placed yet) rather than placed
    /// with an empty directory for each.
    pub submodules: bool,
    /// Position of the repository in the manifest, `file:line:column`.
    pub at: String,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The manifest's path.
        file: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The content is wrong at a known place.
    #[error("{at}: {message}")]
    At {
        /// `file:line:column`, or the override that is at fault.
        at: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// An override names something that the manifest does not have.
    #[error("override '{given}': {message}")]
    Override {
        /// The override as typed, without its value.
        given: String,
        /// What is wrong with it.
        message: String,
        /// The nearest thing that would work.
        hint: Option<String>,
    },
}

#[derive(Debug, Clone)]
struct Group {
    at: Place,
    scalars: Vec<(String, Scalar)>,
    groups: Vec<(String, Group)>,
}

#[derive(Debug, Clone)]
struct Scalar {
    text: String,
    at: Place,
    /// A plain scalar's text stands in the file as it is, so an offset in it is a column.
    plain: bool,
}

/// Where something was written.
#[derive(Debug, Clone)]
enum Place {
    File { line: usize, column: usize },
    Override(String),
}

impl Manifest {
    /// Reads and parses `path`.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let file = path.display().to_string();
        let read = |source| ManifestError::Read { file: file.clone(), source };
        let mut bytes = Vec::new();
        std::fs::File::open(path).map_err(read)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
        Self::parse(&file, &bytes)
    }

    /// Parses `bytes`; `file` is the name used in messages.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_BYTES {
            return Err(ManifestError::At {
                at: format!("{file}:1:1"),
                message: format!("larger than {} KiB", MAX_BYTES / 1024),
                hint: None,
            });
        }
        let json = without_json_tabs(bytes);
        let limits = yaml::Limits { bytes: MAX_BYTES, depth: 64, nodes: 100_000, text: 4 * MAX_BYTES };
        let document = yaml::parse(json.as_deref().unwrap_or(bytes), &limits)
            .map_err(|err| Place::from(&err.mark).error(file, err.message, None))?;
        let start = Place::File { line: 1, column: 1 };
        let root = match document {
            None => Group::empty(start),
            Some(node) => match &node.value {
                Value::Mapping(_) => Group::from_node(file, &node)?,
                Value::Scalar { .. } if node.is_null() => Group::empty(start),
                other => {
                    return Err(Place::from(&node.mark).error(
                        file,
                        format!("the manifest must be a mapping of names to repositories, not {}", kind(other)),
                        None,
                    ));
                }
            },
        };
        Ok(Self { file: file.to_owned(), root })
    }

    /// Applies `GROUP::REPO::KEY=VALUE`; `given` is the path as typed, for messages.
    ///
    /// The path must exist: a value of its own, one that is inherited there, or one of `source`,
    /// `ref`, `dest` and `submodules`.
    pub fn set(&mut self, given: &str, path: &str, value: &str) -> Result<(), ManifestError> {
        let fail =
            |message: String, hint: Option<String>| ManifestError::Override { given: given.to_owned(), message, hint };
        let mut inherited: Vec<String> = KNOWN.iter().map(|&key| key.to_owned()).collect();
        let mut steps: Vec<&str> = path.split("::").collect();
        let key = steps.pop().unwrap_or_default();
        let all = self.paths();
        let suggest =
            || nearest(path, all.iter().map(String::as_str)).map(|near| format!("the nearest known one is --{near}"));
        let mut group = &mut self.root;
        for step in steps {
            inherited.extend(group.scalars.iter().map(|(name, _)| name.clone()));
            let Some(index) = group.groups.iter().position(|(name, _)| name == step) else {
                return Err(fail(format!("the manifest has no '{step}' there"), suggest()));
            };
            group = &mut group.groups[index].1;
        }
        if group.groups.iter().any(|(name, _)| name == key) {
            return Err(fail(
                "names a group or repository, not a value".to_owned(),
                Some(format!("name a value in it, as in --{path}::ref")),
            ));
        }
        let scalar = Scalar { text: value.to_owned(), at: Place::Override(given.to_owned()), plain: false };
        if let Some((_, old)) = group.scalars.iter_mut().find(|(name, _)| name == key) {
            *old = scalar;
        } else if inherited.iter().any(|name| name == key) {
            group.scalars.push((key.to_owned(), scalar));
        } else {
            return Err(fail(format!("the manifest has no '{key}' there"), suggest()));
        }
        Ok(())
    }

    /// Returns every repository, in the order of the manifest.
    pub fn repos(&self) -> Result<Vec<Repo>, ManifestError> {
        let mut found = Vec::new();
        self.walk(&mut vec![&self.root], &mut Vec::new(), &mut found)?;
        Ok(found)
    }

    fn walk<'a>(
        &'a self,
        scope: &mut Vec<&'a Group>,
        path: &mut Vec<&'a str>,
        found: &mut Vec<Repo>,
    ) -> Result<(), ManifestError> {
        let group = *scope.last().expect("the walk starts with the root in scope");
        if group.groups.is_empty() {
            let has_source = scope.iter().any(|group| group.scalar("source").is_some());
            match path.last() {
                Some(name) if has_source => found.push(self.repo(scope, name, path)?),
                None if has_source => {
                    return Err(group.at.error(
                        &self.file,
                        "no repository has a name".to_owned(),
                        Some("put source, ref and dest below a name, as in `keystone: {source: …}`".to_owned()),
                    ));
                }
                // Only variables and no source: nothing to bring. But who writes a place for a
                // repository meant to have one.
                _ => {
                    let meant = group.scalars.iter().find(|(key, _)| key == "ref" || key == "dest");
                    if let Some((key, scalar)) = meant.filter(|_| !path.is_empty()) {
                        return Err(scalar.at.error(
                            &self.file,
                            format!("'{}' has {key} but no source", path.join("::")),
                            Some("set source here or in a group above".to_owned()),
                        ));
                    }
                }
            }
            return Ok(());
        }
        for (name, child) in &group.groups {
            scope.push(child);
            path.push(name);
            self.walk(scope, path, found)?;
            path.pop();
            scope.pop();
        }
        Ok(())
    }

    fn repo(&self, scope: &[&Group], name: &str, path: &[&str]) -> Result<Repo, ManifestError> {
        let group = scope.last().expect("a repository is in its own scope");
        let mut expander = Expander { file: &self.file, name, scope, done: HashMap::new(), open: Vec::new() };
        let source = expander.value("source")?.unwrap_or_default();
        let reference = expander.value("ref")?;
        let dest = expander.value("dest")?.ok_or_else(|| {
            group.at.error(
                &self.file,
                format!("'{}' has no dest", path.join("::")),
                Some("set dest here, or once above as in `dest: modules/%{name}`".to_owned()),
            )
        })?;
        let submodules = match expander.value("submodules")?.as_deref() {
            None | Some("true") => true,
            Some("false") => false,
            Some(other) => {
                let message = format!("submodules of '{}' is '{other}', not true or false", path.join("::"));
                return Err(group.at.error(&self.file, message, None));
            }
        };
        Ok(Repo {
            submodules,
            name: name.to_owned(),
            path: path.join("::"),
            source,
            reference,
            dest,
            at: group.at.show(&self.file),
        })
    }

    /// Every path that an override may name.
    fn paths(&self) -> Vec<String> {
        fn collect(group: &Group, prefix: &str, out: &mut Vec<String>) {
            out.extend(group.scalars.iter().map(|(key, _)| format!("{prefix}{key}")));
            if !prefix.is_empty() {
                out.extend(KNOWN.iter().filter(|key| group.scalar(key).is_none()).map(|key| format!("{prefix}{key}")));
            }
            for (name, child) in &group.groups {
                collect(child, &format!("{prefix}{name}::"), out);
            }
        }
        let mut out = Vec::new();
        collect(&self.root, "", &mut out);
        out
    }
}

/// Expands the variables of one repository; each at most once.
struct Expander<'a> {
    file: &'a str,
    name: &'a str,
    /// Root first, the repository's own mapping last.
    scope: &'a [&'a Group],
    done: HashMap<&'a str, String>,
    /// Variables being expanded, to see a cycle.
    open: Vec<&'a str>,
}

impl<'a> Expander<'a> {
    fn value(&mut self, key: &str) -> Result<Option<String>, ManifestError> {
        if let Some(done) = self.done.get(key) {
            return Ok(Some(done.clone()));
        }
        let scope = self.scope;
        let Some((key, scalar)) = scope.iter().rev().find_map(|group| group.entry(key)) else {
            return Ok(None);
        };
        if self.open.contains(&key) {
            let cycle: Vec<&str> = self.open.iter().skip_while(|open| **open != key).copied().chain([key]).collect();
            return Err(scalar.at.error(
                self.file,
                format!("variable '{key}' needs itself: {}", cycle.join(" -> ")),
                None,
            ));
        }
        self.open.push(key);
        let text = self.expand(scalar)?;
        self.open.pop();
        self.done.insert(key, text.clone());
        Ok(Some(text))
    }

    fn expand(&mut self, scalar: &Scalar) -> Result<String, ManifestError> {
        let mut out = String::new();
        let mut rest = scalar.text.as_str();
        while let Some(start) = rest.find("%{") {
            out.push_str(&rest[..start]);
            let offset = scalar.text.len() - rest.len() + start;
            let fail = |message: String, hint| Err(scalar.at_offset(offset).error(self.file, message, hint));
            let Some(end) = rest[start..].find('}') else {
                return fail("'%{' without '}'".to_owned(), None);
            };
            let variable = rest[start + 2..start + end].trim();
            rest = &rest[start + end + 1..];
            if variable == "name" {
                out.push_str(self.name);
            } else if let Some(value) = self.value(variable)? {
                out.push_str(&value);
            } else {
                let scope = self.scope;
                let known = scope.iter().flat_map(|group| group.scalars.iter().map(|(key, _)| key.as_str()));
                let hint = nearest(variable, known.chain(["name"])).map(|near| format!("did you mean %{{{near}}}?"));
                return fail(format!("variable '{variable}' is not defined"), hint);
            }
            if out.len() > MAX_VALUE {
                return fail(format!("expands to more than {MAX_VALUE} bytes"), None);
            }
        }
        out.push_str(rest);
        if out.len() > MAX_VALUE {
            return Err(scalar.at.error(self.file, format!("a value of more than {MAX_VALUE} bytes"), None));
        }
        Ok(out)
    }
}

impl Group {
    fn empty(at: Place) -> Self {
        Self { at, scalars: Vec::new(), groups: Vec::new() }
    }

    fn scalar(&self, key: &str) -> Option<&Scalar> {
        self.entry(key).map(|(_, scalar)| scalar)
    }

    fn entry(&self, key: &str) -> Option<(&str, &Scalar)> {
        self.scalars.iter().find(|(name, _)| name == key).map(|(name, scalar)| (name.as_str(), scalar))
    }

    fn has(&self, key: &str) -> bool {
        self.scalar(key).is_some() || self.groups.iter().any(|(name, _)| name == key)
    }

    fn from_node(file: &str, node: &Node) -> Result<Self, ManifestError> {
        let mut group = Self::empty(Place::from(&node.mark));
        let Value::Mapping(pairs) = &node.value else {
            return Ok(group);
        };
        if let Some(key) = node.duplicate() {
            let name = key.as_str().unwrap_or_default();
            return Err(Place::from(&key.mark).error(file, format!("'{name}' stands here a second time"), None));
        }
        let mut merges = Vec::new();
        for (key, value) in pairs {
            let at = Place::from(&value.mark);
            let Value::Scalar { text: name, plain: plain_key } = &key.value else {
                return Err(Place::from(&key.mark).error(file, "a key must be a text".to_owned(), None));
            };
            if *plain_key && name == "<<" {
                match &value.value {
                    Value::Mapping(_) => merges.push(Self::from_node(file, value)?),
                    Value::Sequence(items) => {
                        for item in items {
                            if !matches!(item.value, Value::Mapping(_)) {
                                return Err(Place::from(&item.mark).error(
                                    file,
                                    "'<<' takes mappings".to_owned(),
                                    None,
                                ));
                            }
                            merges.push(Self::from_node(file, item)?);
                        }
                    }
                    Value::Scalar { .. } => return Err(at.error(file, "'<<' takes mappings".to_owned(), None)),
                }
                continue;
            }
            match &value.value {
                Value::Sequence(_) => {
                    return Err(at.error(
                        file,
                        format!("'{name}' is a list; a manifest has texts and mappings only"),
                        None,
                    ));
                }
                Value::Scalar { text, plain } => {
                    if value.is_null() {
                        return Err(Place::from(&key.mark).error(
                            file,
                            format!("'{name}' has no value"),
                            Some(format!("write `{name}: {{}}` for a repository that inherits all, `{name}: ''` for an empty text")),
                        ));
                    }
                    group.scalars.push((name.clone(), Scalar { text: text.clone(), at, plain: *plain }));
                }
                Value::Mapping(_) => {
                    let mut child = Self::from_node(file, value)?;
                    // A repository is found by its name, not by what follows it.
                    child.at = Place::from(&key.mark);
                    group.groups.push((name.clone(), child));
                }
            }
        }
        for merge in merges {
            for (name, scalar) in merge.scalars {
                if !group.has(&name) {
                    group.scalars.push((name, scalar));
                }
            }
            for (name, child) in merge.groups {
                if !group.has(&name) {
                    group.groups.push((name, child));
                }
            }
        }
        Ok(group)
    }
}

impl Scalar {
    fn at_offset(&self, offset: usize) -> Place {
        match &self.at {
            Place::File { line, column } if self.plain && !self.text[..offset].contains('\n') => {
                Place::File { line: *line, column: column + self.text[..offset].chars().count() }
            }
            at => at.clone(),
        }
    }
}

impl Place {
    fn show(&self, file: &str) -> String {
        match self {
            Self::File { line, column } => format!("{file}:{line}:{column}"),
            Self::Override(given) => format!("override '{given}'"),
        }
    }

    fn error(&self, file: &str, message: String, hint: Option<String>) -> ManifestError {
        match self {
            Self::File { .. } => ManifestError::At { at: self.show(file), message, hint },
            Self::Override(given) => ManifestError::Override { given: given.clone(), message, hint },
        }
    }
}

impl From<&Mark> for Place {
    fn from(mark: &Mark) -> Self {
        Self::File { line: mark.line, column: mark.column }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Scalar { .. } => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
    }
}

/// JSON may be indented with tabs, YAML may not. In a JSON text tabs stand between tokens only, so
/// a space for each keeps meaning and columns. None when the text is not JSON or has no tab.
fn without_json_tabs(bytes: &[u8]) -> Option<Vec<u8>> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if *first != b'{' || !bytes.contains(&b'\t') {
        return None;
    }
    let (mut in_string, mut escaped) = (false, false);
    Some(
        bytes
            .iter()
            .map(|&byte| {
                if in_string {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_string = false,
                        _ => {}
                    }
                } else if byte == b'"' {
                    in_string = true;
                } else if byte == b'\t' {
                    return b' ';
                }
                byte
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repos(text: &str) -> Result<Vec<Repo>, String> {
        Manifest::parse("m.yaml", text.as_bytes()).and_then(|manifest| manifest.repos()).map_err(|err| err.to_string())
    }

    fn refusal(text: &str) -> String {
        repos(text).expect_err("refused")
    }

    const NESTED: &str = "destdir: modules
ref: stable/2026.1
os:
  source: https://opendev.org/openstack/puppet-%{name}.git
  dest: '%{destdir}/%{name}'
  keystone: {}
  nova: {ref: 1.10}
";

    #[test]
    fn scalars_are_inherited_as_written_and_the_nearest_wins() {
        let repos = repos(NESTED).expect("valid");
        assert_eq!(repos.len(), 2);
        assert_eq!(repos[0].source, "https://opendev.org/openstack/puppet-keystone.git");
        assert_eq!(repos[0].dest, "modules/keystone");
        assert_eq!(repos[0].reference.as_deref(), Some("stable/2026.1"));
        assert_eq!(repos[1].reference.as_deref(), Some("1.10"));
        assert_eq!(repos[1].path, "os::nova");
        assert_eq!(repos[1].at, "m.yaml:7:3");
    }

    #[test]
    fn expansion_goes_to_a_fixed_point_in_the_scope_of_the_repository() {
        let repos = repos("a: '%{b}/x'\nb: '%{c}'\nc: top\ng:\n  c: '%{name}'\n  r: {source: s, dest: '%{a}'}\n")
            .expect("valid");
        assert_eq!(repos[0].dest, "r/x");
    }

    #[test]
    fn errors_name_file_line_and_column() {
        assert_eq!(refusal("r:\n  source: s\n  dest: x/%{desdir}\n"), "m.yaml:3:11: variable 'desdir' is not defined");
        assert_eq!(
            refusal("r:\n  source: s\n  dest: '%{a}'\n  a: '%{b}'\n  b: '%{a}'\n"),
            "m.yaml:4:6: variable 'a' needs itself: a -> b -> a"
        );
        assert_eq!(
            refusal("r: {source: s, dest: 'x/%{dest}'}"),
            "m.yaml:1:22: variable 'dest' needs itself: dest -> dest"
        );
        assert_eq!(refusal("r: {source: s}"), "m.yaml:1:1: 'r' has no dest");
        assert_eq!(
            refusal("r: {source: [s], dest: d}"),
            "m.yaml:1:13: 'source' is a list; a manifest has texts and mappings only"
        );
        assert_eq!(refusal("a: 1\na: 2\n"), "m.yaml:2:1: 'a' stands here a second time");
        assert_eq!(refusal("- a\n"), "m.yaml:1:1: the manifest must be a mapping of names to repositories, not a list");
        assert_eq!(refusal("r: {source: s, dest: 'a%{'}"), "m.yaml:1:22: '%{' without '}'");
        assert_eq!(refusal("r:\n"), "m.yaml:1:1: 'r' has no value");
        assert!(refusal("r: {source: s, dest: d\n").starts_with("m.yaml:"));
        assert_eq!(refusal("source: s\ndest: d\n"), "m.yaml:1:1: no repository has a name");
        assert_eq!(refusal("r: {ref: x, dest: d}"), "m.yaml:1:10: 'r' has ref but no source");
    }

    #[test]
    fn an_undefined_variable_comes_with_a_suggestion() {
        let err = Manifest::parse("m", b"destdir: x\nr: {source: s, dest: '%{desdir}/r'}").and_then(|m| m.repos());
        let Err(ManifestError::At { hint, .. }) = err else { panic!("refused with a place") };
        assert_eq!(hint.as_deref(), Some("did you mean %{destdir}?"));
    }

    #[test]
    fn json_is_read_too_with_tabs() {
        let text = "{\n\t\"g\": {\n\t\t\"dest\": \"m/%{name}\",\n\t\t\"r\": {\"source\": \"s\", \"ref\": 2.0}\n\t}\n}";
        let repos = repos(text).expect("valid");
        assert_eq!((repos[0].dest.as_str(), repos[0].reference.as_deref()), ("m/r", Some("2.0")));
    }

    #[test]
    fn empty_manifests_have_no_repository() {
        for text in ["", "# nothing\n", "{}", "~", "vars: {a: b}"] {
            assert_eq!(repos(text), Ok(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn merge_keys_and_aliases_work_and_bombs_do_not() {
        let merged = repos("x: &x {source: s, dest: 'd/%{name}'}\ny: {<<: *x, ref: v1}\n").expect("valid");
        assert_eq!((merged[1].source.as_str(), merged[1].reference.as_deref()), ("s", Some("v1")));
        let mut bomb = String::from("a0: &a0 {x: y}\n");
        for level in 1..30 {
            let parts: Vec<String> = (0..9).map(|part| format!("k{part}: *a{}", level - 1)).collect();
            bomb.push_str(&format!("a{level}: &a{level} {{{}}}\n", parts.join(", ")));
        }
        assert!(refusal(&bomb).contains("too large"));
        let mut doubling = String::from("v0: xxxxxxxx\n");
        for level in 1..40 {
            doubling.push_str(&format!("v{level}: '%{{v{0}}}%{{v{0}}}'\n", level - 1));
        }
        doubling.push_str("r: {source: s, dest: '%{v39}'}\n");
        assert!(refusal(&doubling).contains("expands to more than"));
        assert!(refusal(&"[".repeat(100_000)).contains("nested"));
        let big = format!("a: {}", "x".repeat(MAX_BYTES));
        assert!(refusal(&big).contains("larger than 1024 KiB"));
    }

    #[test]
    fn overrides_change_what_is_there_and_nothing_else() {
        let mut manifest = Manifest::parse("m", NESTED.as_bytes()).expect("valid");
        manifest.set("--destdir", "destdir", "elsewhere").expect("known");
        manifest.set("--os::nova::ref", "os::nova::ref", "master").expect("known");
        manifest.set("--os::keystone::ref", "os::keystone::ref", "a=b").expect("inherited");
        let repos = manifest.repos().expect("valid");
        assert_eq!(repos[0].dest, "elsewhere/keystone");
        assert_eq!(repos[0].reference.as_deref(), Some("a=b"));
        assert_eq!(repos[1].reference.as_deref(), Some("master"));
        for (path, near) in [
            ("os::nvoa::ref", Some("the nearest known one is --os::nova::ref")),
            ("destdri", Some("the nearest known one is --destdir")),
            ("os::nova::ref::deep", None),
            ("zzzzzzzzzzzzz", None),
        ] {
            let Err(ManifestError::Override { hint, .. }) = manifest.set(path, path, "x") else {
                panic!("{path} must be refused")
            };
            assert!(near.is_none() || hint.as_deref() == near, "{path}: {hint:?}");
        }
        assert!(manifest.set("--os::nova", "os::nova", "x").is_err());
        let repos_after = manifest.repos().expect("valid");
        assert_eq!(repos, repos_after);
    }

    #[test]
    fn an_error_in_an_overridden_value_blames_the_override() {
        let mut manifest = Manifest::parse("m", NESTED.as_bytes()).expect("valid");
        manifest.set("--destdir", "destdir", "%{nowhere}").expect("known");
        let text = manifest.repos().expect_err("undefined").to_string();
        assert_eq!(text, "override '--destdir': variable 'nowhere' is not defined");
    }
}
