//! YAML (and so JSON) read into a small tree that keeps what typed readers lose: where each value
//! stands, and whether a scalar was plain or quoted.
//!
//! Input is bounded before it is read and while aliases are expanded, so that no document of a
//! megabyte costs more than a few times its size. Merge keys (`<<`) and the meaning of plain scalars are
//! left to the caller, because readers differ in them. Duplicate keys are kept; [`Node::duplicate`] finds them.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle};

/// What a document may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of input.
    pub bytes: usize,
    /// Levels of nesting.
    pub depth: usize,
    /// Nodes after aliases are expanded.
    pub nodes: usize,
    /// Bytes of scalars after aliases are expanded.
    pub text: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 1 << 20, depth: 128, nodes: 500_000, text: 8 << 20 }
    }
}

/// A place in the input; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it begins.
    pub mark: Mark,
    /// An explicit tag, such as `!!str` or `!ruby/sym`, with its handle written out.
    pub tag: Option<String>,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A scalar.
    Scalar {
        /// The text, with quotes and escapes resolved.
        text: String,
        /// Whether it was written without quotes, which lets it be a number, a boolean or null.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// Pairs in the order of the document.
    Mapping(Vec<(Node, Node)>),
}

/// Input that is no YAML, or more than is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{mark}: {message}")]
pub struct Error {
    /// Where.
    pub mark: Mark,
    /// What.
    pub message: String,
}

impl Error {
    /// Makes an error at a place.
    pub fn new(mark: Mark, message: impl Into<String>) -> Error {
        Error { mark, message: message.into() }
    }
}

impl Node {
    /// Returns the text of a scalar.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Returns the pairs of a mapping.
    #[must_use]
    pub fn as_mapping(&self) -> Option<&[(Node, Node)]> {
        match &self.value {
            Value::Mapping(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// Returns the items of a sequence.
    #[must_use]
    pub fn as_sequence(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the value of a key of a mapping; the last one where the key stands more than once.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_mapping()?.iter().rev().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Whether this is an empty plain scalar, `~` or `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the first key of this mapping that stands there twice.
    #[must_use]
    pub fn duplicate(&self) -> Option<&Node> {
        let mut seen = HashSet::new();
        self.as_mapping()?.iter().map(|(key, _)| key).find(|key| key.as_str().is_some_and(|text| !seen.insert(text)))
    }
}

/// Reads the first document; an input without one is `None`.
///
/// # Errors
/// Input that is too large, no UTF-8, no YAML, has more than one document, or goes beyond the limits.
pub fn parse(input: &[u8], limits: &Limits) -> Result<Option<Node>, Error> {
    if input.len() > limits.bytes {
        return Err(Error::new(Mark::default(), format!("larger than {} bytes", limits.bytes)));
    }
    let text = std::str::from_utf8(input).map_err(|error| {
        let line = input[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::new(Mark { line, column: 1 }, "not valid UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    check_flow_depth(text, limits)?;
    run(text, limits)
}

/// Refuses input whose brackets alone nest too deep, before the parser (which recurses into nothing,
/// yet is slow on such input) sees it. Quoted brackets may be counted too: the bound is generous.
fn check_flow_depth(text: &str, limits: &Limits) -> Result<(), Error> {
    let mut depth = 0usize;
    let mut line = 1;
    for byte in text.bytes() {
        match byte {
            b'\n' => line += 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits.depth * 64 {
            return Err(Error::new(Mark { line, column: 1 }, format!("nested deeper than {} levels", limits.depth)));
        }
    }
    Ok(())
}

enum Frame {
    Sequence { node: Node, items: Vec<Node>, anchor: usize },
    Mapping { node: Node, pairs: Vec<(Node, Node)>, key: Option<Node>, anchor: usize },
}

/// Puts a tree together from the events of a parser, within limits. An anchor is a number that is used once; 0 is none.
pub struct Builder<'l> {
    limits: &'l Limits,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Node, Cost)>,
    nodes: usize,
    text: usize,
    root: Option<Node>,
}

#[derive(Clone, Copy)]
struct Cost {
    nodes: usize,
    text: usize,
    depth: usize,
}

fn run(text: &str, limits: &Limits) -> Result<Option<Node>, Error> {
    let mut tree = Builder::new(limits);
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let mark = Mark { line: error.marker().line(), column: error.marker().col() + 1 };
            Error::new(mark, error.info().to_owned())
        })?;
        let mark = Mark { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(Error::new(mark, "a second document begins here; one is expected"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| tag_text(&tag));
                tree.scalar(text.into_owned(), style == ScalarStyle::Plain, tag, anchor, mark)?;
            }
            Event::SequenceStart(anchor, tag) => tree.sequence(tag.map(|tag| tag_text(&tag)), anchor, mark)?,
            Event::MappingStart(anchor, tag) => tree.mapping(tag.map(|tag| tag_text(&tag)), anchor, mark)?,
            Event::SequenceEnd | Event::MappingEnd => tree.end()?,
            Event::Alias(anchor) => tree.alias(anchor, mark)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            // Comments, where the parser reports them.
            #[allow(unreachable_patterns)]
            _ => {}
        }
    }
    Ok(tree.finish())
}

impl<'l> Builder<'l> {
    /// Returns a builder of nothing yet.
    #[must_use]
    pub fn new(limits: &'l Limits) -> Builder<'l> {
        Builder { limits, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, text: 0, root: None }
    }

    /// Returns the tree, if there is one.
    #[must_use]
    pub fn finish(self) -> Option<Node> {
        self.root
    }

    /// Adds a scalar.
    ///
    /// # Errors
    /// It goes beyond the limits.
    pub fn scalar(
        &mut self,
        text: String,
        plain: bool,
        tag: Option<String>,
        anchor: usize,
        mark: Mark,
    ) -> Result<(), Error> {
        self.charge(Cost { nodes: 1, text: text.len(), depth: 0 }, mark)?;
        self.add(Node { value: Value::Scalar { text, plain }, mark, tag }, anchor)
    }

    /// Begins a sequence.
    ///
    /// # Errors
    /// It goes beyond the limits.
    pub fn sequence(&mut self, tag: Option<String>, anchor: usize, mark: Mark) -> Result<(), Error> {
        self.open(mark)?;
        let node = Node { value: Value::Sequence(Vec::new()), mark, tag };
        self.stack.push(Frame::Sequence { node, items: Vec::new(), anchor });
        Ok(())
    }

    /// Begins a mapping, whose keys and values follow in turn.
    ///
    /// # Errors
    /// It goes beyond the limits.
    pub fn mapping(&mut self, tag: Option<String>, anchor: usize, mark: Mark) -> Result<(), Error> {
        self.open(mark)?;
        let node = Node { value: Value::Mapping(Vec::new()), mark, tag };
        self.stack.push(Frame::Mapping { node, pairs: Vec::new(), key: None, anchor });
        Ok(())
    }

    /// Tells whether an alias of this anchor, were it next, would be the value of a merge key (`<<`) in the very mapping that
    /// the anchor names: readers that resolve merge keys then add nothing.
    pub fn would_merge_itself(&self, anchor: usize) -> bool {
        match self.stack.last() {
            Some(Frame::Mapping { key: Some(key), anchor: own, .. }) => {
                *own == anchor && anchor != 0 && key.as_str() == Some("<<") && key.tag.as_deref() != Some("!!str")
            }
            _ => false,
        }
    }

    /// Adds a copy of what an anchor names.
    ///
    /// # Errors
    /// It is not complete yet, or goes beyond the limits.
    pub fn alias(&mut self, anchor: usize, mark: Mark) -> Result<(), Error> {
        let Some(&(_, cost)) = self.anchors.get(&anchor) else {
            return Err(Error::new(mark, "the alias stands inside its own anchor"));
        };
        if self.stack.len() + cost.depth > self.limits.depth {
            return Err(self.too_deep(mark));
        }
        self.charge(cost, mark)?;
        let mut node = self.anchors[&anchor].0.clone();
        node.mark = mark;
        self.add(node, 0)
    }

    fn too_deep(&self, mark: Mark) -> Error {
        Error::new(mark, format!("nested deeper than {} levels", self.limits.depth))
    }

    fn open(&mut self, mark: Mark) -> Result<(), Error> {
        if self.stack.len() >= self.limits.depth {
            return Err(self.too_deep(mark));
        }
        self.charge(Cost { nodes: 1, text: 0, depth: 0 }, mark)
    }

    fn charge(&mut self, cost: Cost, mark: Mark) -> Result<(), Error> {
        self.nodes += cost.nodes;
        self.text += cost.text;
        if self.nodes > self.limits.nodes || self.text > self.limits.text {
            return Err(Error::new(mark, "the document becomes too large when its aliases are expanded"));
        }
        Ok(())
    }

    /// Ends the sequence or mapping that was begun last.
    ///
    /// # Errors
    /// It goes beyond the limits.
    pub fn end(&mut self) -> Result<(), Error> {
        match self.stack.pop() {
            Some(Frame::Sequence { mut node, items, anchor }) => {
                node.value = Value::Sequence(items);
                self.add(node, anchor)
            }
            Some(Frame::Mapping { mut node, pairs, anchor, .. }) => {
                node.value = Value::Mapping(pairs);
                self.add(node, anchor)
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Error> {
        if anchor != 0 {
            let cost = cost_of(&node);
            // The copy that the anchor keeps is memory too.
            self.charge(Cost { depth: 0, ..cost }, node.mark)?;
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::Sequence { items, .. }) => items.push(node),
            Some(Frame::Mapping { pairs, key, .. }) => match key.take() {
                None => *key = Some(node),
                Some(key) => pairs.push((key, node)),
            },
        }
        Ok(())
    }
}

fn cost_of(node: &Node) -> Cost {
    let add = |sum: Cost, child: &Node| {
        let cost = cost_of(child);
        Cost { nodes: sum.nodes + cost.nodes, text: sum.text + cost.text, depth: sum.depth.max(cost.depth + 1) }
    };
    let none = Cost { nodes: 1, text: 0, depth: 0 };
    match &node.value {
        Value::Scalar { text, .. } => Cost { nodes: 1, text: text.len(), depth: 0 },
        Value::Sequence(items) => items.iter().fold(none, add),
        Value::Mapping(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).fold(none, add),
    }
}

fn tag_text(tag: &saphyr_parser::Tag) -> String {
    if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { format!("{}{}", tag.handle, tag.suffix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Node>, Error> {
        super::parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn positions_and_quoting_are_kept() {
        let root = read("a: 1.10\nb:\n  - '0755'\n  - !!str yes\n").expect("valid").expect("a document");
        let a = root.get("a").expect("a");
        assert_eq!((a.as_str(), a.mark), (Some("1.10"), Mark { line: 1, column: 4 }));
        let items = root.get("b").and_then(Node::as_sequence).expect("list");
        assert_eq!(items[0].value, Value::Scalar { text: "0755".into(), plain: false });
        assert_eq!(items[1].tag.as_deref(), Some("!!str"));
    }

    #[test]
    fn empty_input_has_no_document() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("# only a comment\n"), Ok(None));
    }

    #[test]
    fn errors_have_a_place() {
        assert_eq!(read("a: b\nc: [1,\n").expect_err("open list").mark.line, 3);
        assert_eq!(parse(b"a: b\nc: \xff\n", &Limits::default()).expect_err("bad bytes").mark.line, 2);
        assert!(read("a: 1\n---\nb: 2\n").expect_err("two documents").message.contains("second document"));
    }

    #[test]
    fn duplicate_keys_are_found_and_the_last_one_counts() {
        let root = read("a: 1\nb: 2\na: 3\n").expect("valid").expect("a document");
        assert_eq!(root.duplicate().map(|key| key.mark.line), Some(3));
        assert_eq!(root.get("a").and_then(Node::as_str), Some("3"));
    }

    #[test]
    fn aliases_are_expanded_within_the_limits() {
        let root = read("a: &x [1, 2]\nb: *x\n").expect("valid").expect("a document");
        assert_eq!(root.get("b").and_then(Node::as_sequence).map(<[Node]>::len), Some(2));
        let mut bomb = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let previous = level - 1;
            let alias = format!("*l{previous}, ").repeat(10);
            bomb.push_str(&format!("l{level}: &l{level} [{}]\n", alias.trim_end_matches(", ")));
        }
        assert!(read(&bomb).expect_err("a bomb").message.contains("aliases"));
        let large = format!("a: &x {}\nb: [{}]\n", "y".repeat(900_000), "*x, ".repeat(3000));
        assert!(read(&large).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&format!("{}{}", "[".repeat(129), "]".repeat(129))).is_err());
        assert!(read(&format!("{}{}", "[".repeat(128), "]".repeat(128))).is_ok());
        assert!(read(&"- ".repeat(50_000)).is_err());
    }

    #[test]
    fn an_alias_inside_its_anchor_is_refused() {
        assert!(read("a: &x [*x]\n").is_err());
    }
}
