//! From files to one tree: YAML or JSON, and what `extends:` names below it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toolkit::files;
use toolkit::yaml::{self, Mark, Node, Value};

use super::group::{Group, Place};
use super::{MAX_BYTES, ManifestError, foreign};

/// Most files that one manifest may be made of.
const MAX_FILES: usize = 64;
/// The key that names the manifests which this one is laid on.
const EXTENDS: &str = "extends";

/// Reads a manifest and all that it extends.
pub(super) struct Reader {
    /// The files that are being read, as the disk has them, to see a cycle.
    open: Vec<PathBuf>,
    files: usize,
    bytes: usize,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), files: 0, bytes: 0 }
    }

    /// Reads the file at `path`, named so in messages.
    pub(super) fn load(&mut self, path: &Path) -> Result<Group, ManifestError> {
        let file: Arc<str> = path.display().to_string().into();
        let bytes = files::read_given(path, MAX_BYTES as u64).map_err(|source| match source.kind() {
            ErrorKind::FileTooLarge => too_large(&file, "larger"),
            _ => ManifestError::Read { file: file.to_string(), source },
        })?;
        // A manifest that comes from a pipe has no path that could be named again.
        self.open.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        self.parse(&file, &bytes)
    }

    /// Reads `bytes`, which came from `file`.
    pub(super) fn parse(&mut self, file: &Arc<str>, bytes: &[u8]) -> Result<Group, ManifestError> {
        let start = Place::of(file, &Mark { line: 1, column: 1 });
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            let what = if self.files == 0 { "larger" } else { "with what it extends larger" };
            return Err(too_large(file, what));
        }
        if foreign::is_puppetfile(file) {
            let text = std::str::from_utf8(bytes).map_err(|_| start.error("not valid UTF-8".to_owned(), None))?;
            return foreign::puppetfile(file, text);
        }
        let json = without_json_tabs(bytes);
        let limits = yaml::Limits { bytes: MAX_BYTES, depth: 64, nodes: 100_000, text: 4 * MAX_BYTES };
        let document = yaml::parse(json.as_deref().unwrap_or(bytes), &limits)
            .map_err(|err| Place::of(file, &err.mark).error(err.message, None))?;
        match document {
            None => Ok(Group::empty(start)),
            Some(node) => match &node.value {
                Value::Mapping(_) if foreign::is_repos(file) => foreign::repos(file, &node),
                Value::Mapping(pairs) => {
                    let extends = pairs.iter().find(|(key, _)| key.as_str() == Some(EXTENDS));
                    // A repository may have that name too; then it is a mapping.
                    match extends.map(|(_, value)| value).filter(|value| !matches!(value.value, Value::Mapping(_))) {
                        Some(below) => self.extended(file, &node, below),
                        None => Group::from_node(file, &node, None),
                    }
                }
                Value::Scalar { .. } if node.is_null() => Ok(Group::empty(start)),
                other => {
                    let message =
                        format!("the manifest must be a mapping of names to repositories, not {}", kind(other));
                    Err(Place::of(file, &node.mark).error(message, None))
                }
            },
        }
    }

    fn extended(&mut self, file: &Arc<str>, node: &Node, below: &Node) -> Result<Group, ManifestError> {
        let mut group = Group::empty(Place::of(file, &node.mark));
        let paths = below.as_sequence().unwrap_or(std::slice::from_ref(below));
        for path in paths {
            let at = Place::of(file, &path.mark);
            let text = path.as_str().filter(|text| !text.is_empty() && !path.is_null()).ok_or_else(|| {
                at.error(format!("'{EXTENDS}' takes the path of a manifest, or a list of paths"), None)
            })?;
            group.overlay(self.below(file, text, &at)?)?;
        }
        group.overlay(Group::from_node(file, node, Some(EXTENDS))?)?;
        Ok(group)
    }

    /// Reads the manifest that `file` extends at `at`; its path is relative to that of `file`.
    fn below(&mut self, file: &Arc<str>, text: &str, at: &Place) -> Result<Group, ManifestError> {
        let path = Path::new(&**file).parent().unwrap_or(Path::new("")).join(text);
        let fail = |err: &std::io::Error| at.error(format!("cannot read {}: {err}", path.display()), None);
        let real = path.canonicalize().map_err(|err| fail(&err))?;
        if let Some(start) = self.open.iter().position(|open| *open == real) {
            let cycle: Vec<String> =
                self.open[start..].iter().chain([&real]).map(|path| path.display().to_string()).collect();
            return Err(at.error(format!("the manifest extends itself: {}", cycle.join(" -> ")), None));
        }
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(at.error(format!("extends more than {MAX_FILES} files"), None));
        }
        let bytes = files::read_bounded(&real, MAX_BYTES as u64).map_err(|err| fail(&err))?;
        self.open.push(real);
        let group = self.parse(&path.display().to_string().into(), &bytes)?;
        self.open.pop();
        Ok(group)
    }
}

fn too_large(file: &Arc<str>, what: &str) -> ManifestError {
    Place::of(file, &Mark { line: 1, column: 1 }).error(format!("{what} than {} KiB", MAX_BYTES / 1024), None)
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
