//! YAML read by libyaml's own scanner and parser, translated to Rust.
//!
//! Ruby's Psych, and so Puppet, reads YAML with libyaml. It is of YAML 1.1, and in what it takes and refuses (a colon
//! at the beginning of a scalar in brackets, tabs, characters that end lines) it is like no other parser: who wants
//! to read what Puppet reads, and nothing else, has to use it. This module is the one place that touches its
//! pointers; it hands over owned nodes, with anchors resolved and limits kept.

use std::collections::HashMap;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use toolkit::yaml::{Builder, Error, Limits, Mark, Node};

/// Far more than anybody writes.
const MOST_DIRECTIVES: usize = 1000;

/// Reads the first document and looks at nothing after it, as Ruby does; an input without one is `None`.
///
/// # Errors
/// Input that is too large, no UTF-8, not YAML, or goes beyond the limits.
pub(crate) fn parse_first(input: &[u8], limits: &Limits) -> Result<Option<Node>, Error> {
    if input.len() > limits.bytes {
        return Err(Error::new(Mark::default(), format!("larger than {} bytes", limits.bytes)));
    }
    if let Err(error) = std::str::from_utf8(input) {
        let line = input[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        return Err(Error::new(Mark { line, column: 1 }, "not valid UTF-8"));
    }
    // libyaml compares each of them with all before it.
    let directives = input.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"%TAG")).count();
    if directives > MOST_DIRECTIVES {
        return Err(Error::new(Mark { line: 1, column: 1 }, format!("more than {MOST_DIRECTIVES} tag directives")));
    }
    let mut parser = Parser::new(input);
    let mut tree = Builder::new(limits);
    let mut anchors = Anchors::default();
    loop {
        let (event, mark) = parser.next()?;
        match event {
            Event::Scalar { text, plain, node } => {
                tree.scalar(text, plain, node.tag, anchors.define(node.anchor), mark)?;
            }
            Event::Sequence(node) => tree.sequence(node.tag, anchors.define(node.anchor), mark)?,
            Event::Mapping(node) => tree.mapping(node.tag, anchors.define(node.anchor), mark)?,
            Event::End => tree.end()?,
            Event::Alias(name) => match anchors.names.get(&name) {
                Some(anchor) if tree.would_merge_itself(*anchor) => {
                    tree.mapping(None, 0, mark)?;
                    tree.end()?;
                }
                Some(anchor) => tree.alias(*anchor, mark)?,
                None => return Err(Error::new(mark, format!("unknown alias {name}"))),
            },
            Event::Other => {}
            Event::DocumentEnd | Event::StreamEnd => return Ok(tree.finish()),
        }
    }
}

/// Numbers of anchors; a name that is given again is another anchor from there on.
#[derive(Default)]
struct Anchors {
    names: HashMap<String, usize>,
    last: usize,
}

impl Anchors {
    fn define(&mut self, name: Option<String>) -> usize {
        let Some(name) = name else { return 0 };
        self.last += 1;
        self.names.insert(name, self.last);
        self.last
    }
}

struct Described {
    tag: Option<String>,
    anchor: Option<String>,
}

enum Event {
    Scalar { text: String, plain: bool, node: Described },
    Sequence(Described),
    Mapping(Described),
    End,
    Alias(String),
    DocumentEnd,
    StreamEnd,
    Other,
}

/// libyaml's parser of one input, which it borrows. What is behind the pointer does not move: its parts point at it.
struct Parser<'i> {
    state: NonNull<MaybeUninit<unsafe_libyaml::yaml_parser_t>>,
    _input: PhantomData<&'i [u8]>,
}

impl<'i> Parser<'i> {
    fn new(input: &'i [u8]) -> Parser<'i> {
        let state = NonNull::from(Box::leak(Box::new(MaybeUninit::<unsafe_libyaml::yaml_parser_t>::uninit())));
        let parser = state.as_ptr().cast::<unsafe_libyaml::yaml_parser_t>();
        // SAFETY: `parser` points at memory of its type, which `yaml_parser_initialize` fills whole; `input` lives as
        // long as the value that is returned, and is only read.
        unsafe {
            assert!(
                unsafe_libyaml::yaml_parser_initialize(parser).ok,
                "libyaml ends the process when it gets no memory"
            );
            unsafe_libyaml::yaml_parser_set_encoding(parser, unsafe_libyaml::YAML_UTF8_ENCODING);
            unsafe_libyaml::yaml_parser_set_input_string(parser, input.as_ptr(), input.len() as u64);
        }
        Parser { state, _input: PhantomData }
    }

    fn next(&mut self) -> Result<(Event, Mark), Error> {
        let parser = self.state.as_ptr().cast::<unsafe_libyaml::yaml_parser_t>();
        let mut event = MaybeUninit::<unsafe_libyaml::yaml_event_t>::uninit();
        // SAFETY: `new` has initialised the parser. `yaml_parser_parse` fills the event whole; where it fails there is
        // nothing in it that would have to be freed.
        if !unsafe { unsafe_libyaml::yaml_parser_parse(parser, event.as_mut_ptr()).ok } {
            // SAFETY: the parser is initialised, and nothing else refers to it.
            return Err(unsafe { failure(&*parser) });
        }
        // SAFETY: `yaml_parser_parse` has filled it.
        let event = unsafe { &mut *event.as_mut_ptr() };
        let mark = mark(event.start_mark);
        // SAFETY: the event is what its type says, and its texts live until it is deleted, which is once and last.
        let taken = unsafe {
            let taken = take(event);
            unsafe_libyaml::yaml_event_delete(event);
            taken
        };
        Ok((taken, mark))
    }
}

impl Drop for Parser<'_> {
    fn drop(&mut self) {
        // SAFETY: `new` has initialised it and made it of a box; nothing uses it after this.
        unsafe {
            unsafe_libyaml::yaml_parser_delete(self.state.as_ptr().cast());
            drop(Box::from_raw(self.state.as_ptr()));
        }
    }
}

/// Copies what an event says.
///
/// # Safety
/// The event must come from `yaml_parser_parse`.
unsafe fn take(event: &unsafe_libyaml::yaml_event_t) -> Event {
    let described = |anchor: *const u8, tag: *const u8| {
        // SAFETY: an event's anchor and tag are null or texts that end with a zero byte.
        unsafe { Described { tag: text(tag).map(short), anchor: text(anchor) } }
    };
    match event.type_ {
        unsafe_libyaml::YAML_SCALAR_EVENT => {
            // SAFETY: the type says which part of the union is filled; the value has `length` bytes.
            let (scalar, bytes) = unsafe {
                let scalar = &event.data.scalar;
                let length = usize::try_from(scalar.length).expect("a length in memory");
                (scalar, std::slice::from_raw_parts(scalar.value.cast_const(), length))
            };
            Event::Scalar {
                // Escapes such as \xff are characters, not bytes: it is always UTF-8.
                text: String::from_utf8_lossy(bytes).into_owned(),
                plain: scalar.style == unsafe_libyaml::YAML_PLAIN_SCALAR_STYLE,
                node: described(scalar.anchor, scalar.tag),
            }
        }
        unsafe_libyaml::YAML_SEQUENCE_START_EVENT => {
            // SAFETY: the type says which part of the union is filled.
            let start = unsafe { &event.data.sequence_start };
            Event::Sequence(described(start.anchor, start.tag))
        }
        unsafe_libyaml::YAML_MAPPING_START_EVENT => {
            // SAFETY: the type says which part of the union is filled.
            let start = unsafe { &event.data.mapping_start };
            Event::Mapping(described(start.anchor, start.tag))
        }
        unsafe_libyaml::YAML_SEQUENCE_END_EVENT | unsafe_libyaml::YAML_MAPPING_END_EVENT => Event::End,
        // SAFETY: the type says which part of the union is filled; its anchor is a text that ends with a zero byte.
        unsafe_libyaml::YAML_ALIAS_EVENT => Event::Alias(unsafe { text(event.data.alias.anchor) }.unwrap_or_default()),
        unsafe_libyaml::YAML_DOCUMENT_END_EVENT => Event::DocumentEnd,
        // Also where there is nothing any more.
        unsafe_libyaml::YAML_STREAM_END_EVENT | unsafe_libyaml::YAML_NO_EVENT => Event::StreamEnd,
        _ => Event::Other,
    }
}

/// Copies a text that ends with a zero byte.
///
/// # Safety
/// `text` must be null or point at such a text.
unsafe fn text(text: *const u8) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller says so.
    let text = unsafe { CStr::from_ptr(text.cast()) };
    Some(text.to_string_lossy().into_owned())
}

/// Writes the tags of YAML itself as they are written in data.
fn short(tag: String) -> String {
    match tag.strip_prefix("tag:yaml.org,2002:") {
        Some(name) => format!("!!{name}"),
        None => tag,
    }
}

/// Says what libyaml refuses, and where.
///
/// # Safety
/// The parser must be one that has failed.
unsafe fn failure(parser: &unsafe_libyaml::yaml_parser_t) -> Error {
    // SAFETY: the parts of an error are null or constant texts that end with a zero byte.
    let (problem, context) = unsafe { (text(parser.problem.cast()), text(parser.context.cast())) };
    let problem = problem.unwrap_or_else(|| "it cannot be read".to_owned());
    let (at, message) = match context {
        Some(context) => (parser.problem_mark, format!("{problem} {context}")),
        None => (parser.problem_mark, problem),
    };
    Error::new(mark(at), message)
}

fn mark(mark: unsafe_libyaml::yaml_mark_t) -> Mark {
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).saturating_add(1);
    Mark { line: count(mark.line), column: count(mark.column) }
}

#[cfg(test)]
mod tests {
    use toolkit::yaml::Value;

    use super::*;

    fn read(text: &str) -> Result<Option<Node>, Error> {
        parse_first(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn nodes_have_places_quotes_and_tags() {
        let root = read("a: 1.10\nb:\n  - '0755'\n  - !!str yes\n  - !x y\n").expect("valid").expect("a document");
        let a = root.get("a").expect("a");
        assert_eq!((a.as_str(), a.mark), (Some("1.10"), Mark { line: 1, column: 4 }));
        let items = root.get("b").and_then(Node::as_sequence).expect("a list");
        assert_eq!(items[0].value, Value::Scalar { text: "0755".into(), plain: false });
        assert_eq!((items[1].tag.as_deref(), items[2].tag.as_deref()), (Some("!!str"), Some("!x")));
    }

    #[test]
    fn only_the_first_document_is_read() {
        assert_eq!(read("- a\n---\nb: [\n").expect("valid").expect("one").as_sequence().map(<[Node]>::len), Some(1));
        assert_eq!((read(""), read("# c\n"), read("\u{feff}")), (Ok(None), Ok(None), Ok(None)));
        // A byte order mark takes a column, so that the next line ends what begins on its line.
        assert_eq!(read("\u{feff}a: 1\nb: 2\n").expect("valid").expect("one").as_mapping().map(<[_]>::len), Some(1));
        assert!(read("---\n").expect("valid").is_some_and(|node| node.is_null()));
    }

    #[test]
    fn a_mapping_merges_itself_and_holds_itself_nowhere_else() {
        for text in ["&x\n<<: *x\n", "&x\na: 1\n<<: *x\n", "a: &x {<<: *x}\n"] {
            assert!(read(text).is_ok(), "{text}");
        }
        for text in ["&x\na: *x\n", "&x\n!!str <<: *x\n", "&x\na: {<<: *x}\n", "&x\n? *x\n: 1\n"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_have_a_place_and_leave_nothing_behind() {
        for (text, line) in
            [("a: b\nc: [1,\n", 3), ("a: 'x\n", 2), ("a:\n\t- b\n", 2), ("a: *x\n", 1), ("a: {:b: 1}\n", 1)]
        {
            assert_eq!(read(text).expect_err(text).mark.line, line, "{text}");
        }
        assert_eq!(parse_first(b"a: b\nc: \xff\n", &Limits::default()).expect_err("bytes").mark.line, 2);
        // Every cut of a text that uses all kinds of events ends well.
        let whole = "%TAG !e! tag:e,1:\n--- !e!x\n&a k: [*a, \"\\u00e9\\n\", 'it''s', !!str x, {y: ~}]\n? - q\n: |+\n  z\n...\n";
        for end in (0..=whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            let _ = read(&whole[..end]);
        }
    }

    #[test]
    fn an_anchor_that_is_given_again_is_another() {
        let root = read("[&x 1, *x, &x 2, *x]").expect("valid").expect("a document");
        let texts: Vec<_> = root.as_sequence().expect("a list").iter().filter_map(Node::as_str).collect();
        assert_eq!(texts, ["1", "1", "2", "2"]);
        assert!(read("a: &x [*x]\n").is_err());
    }
}
