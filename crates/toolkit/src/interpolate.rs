//! The `%{…}` syntax that manifests and Hiera share. Only the syntax: what a token means is the caller's.

/// A piece of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Text that stands for itself.
    Literal(&'a str),
    /// The text between `%{` and `}`, as written.
    Token {
        /// What is between the braces.
        text: &'a str,
        /// Where the `%` stands, in bytes from the start.
        offset: usize,
    },
}

/// A template whose last token is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`%{{` at byte {offset} is not closed by `}}`")]
pub struct Unclosed {
    /// Where the `%` stands, in bytes from the start.
    pub offset: usize,
}

/// Splits a template into literals and tokens; quotes inside a token protect a `}`.
///
/// # Errors
/// A `%{` without its `}`.
pub fn segments(template: &str) -> Result<Vec<Segment<'_>>, Unclosed> {
    let mut segments = Vec::new();
    let mut position = 0;
    while let Some(found) = template[position..].find("%{") {
        let offset = position + found;
        if offset > position {
            segments.push(Segment::Literal(&template[position..offset]));
        }
        let start = offset + 2;
        let length = token_length(&template[start..]).ok_or(Unclosed { offset })?;
        segments.push(Segment::Token { text: &template[start..start + length], offset });
        position = start + length + 1;
    }
    if position < template.len() {
        segments.push(Segment::Literal(&template[position..]));
    }
    Ok(segments)
}

fn token_length(text: &str) -> Option<usize> {
    let mut quote = None;
    for (index, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'}') => return Some(index),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
    }
    // A stray quote protects nothing: the first brace closes.
    text.find('}')
}

/// Whether a template has tokens at all.
#[must_use]
pub fn has_tokens(template: &str) -> bool {
    template.contains("%{")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_tokens_alternate() {
        assert_eq!(
            segments("a%{b}c%{ d }"),
            Ok(vec![
                Segment::Literal("a"),
                Segment::Token { text: "b", offset: 1 },
                Segment::Literal("c"),
                Segment::Token { text: " d ", offset: 6 },
            ])
        );
        assert_eq!(segments(""), Ok(vec![]));
        assert_eq!(segments("100%"), Ok(vec![Segment::Literal("100%")]));
    }

    #[test]
    fn quotes_protect_a_brace() {
        assert_eq!(segments("%{literal('}')}"), Ok(vec![Segment::Token { text: "literal('}')", offset: 0 }]));
        assert_eq!(segments("%{it's}"), Ok(vec![Segment::Token { text: "it's", offset: 0 }]));
    }

    #[test]
    fn an_open_token_is_named() {
        assert_eq!(segments("ab%{c"), Err(Unclosed { offset: 2 }));
    }
}
