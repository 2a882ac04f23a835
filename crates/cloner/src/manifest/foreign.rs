//! Manifests of other tools: r10k's and g10k's Puppetfile, and vcstool's `.repos`.
//!
//! A Puppetfile is a Ruby program; what is read here is the part of it that says where modules come
//! from, and nothing is run. What cannot be meant the same by cloner (a module of the Forge, a branch
//! that depends on an environment, another version control system) is an error with its place.

use std::sync::Arc;

use toolkit::yaml::{Mark, Node};

use super::ManifestError;
use super::group::{Group, Place, Scalar};

/// Where modules go that name no other place.
const MODULES: &str = "modules";
/// What a git module may say, beside where it is.
const REFS: [&str; 4] = ["ref", "tag", "branch", "commit"];

/// Whether `file` is one of r10k by its name.
pub(super) fn is_puppetfile(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    name == "Puppetfile" || name.starts_with("Puppetfile.")
}

/// Whether `file` is one of vcstool by its name.
pub(super) fn is_repos(file: &str) -> bool {
    file.ends_with(".repos")
}

/// Reads a document of vcstool.
pub(super) fn repos(file: &Arc<str>, document: &Node) -> Result<Group, ManifestError> {
    let place = |node: &Node| Place::of(file, &node.mark);
    let wrong = |node: &Node, message: &str| place(node).error(message.to_owned(), None);
    let mut group = Group::empty(place(document));
    let list = document.get("repositories").ok_or_else(|| wrong(document, "there is no 'repositories' in it"))?;
    if let Some((other, _)) =
        document.as_mapping().unwrap_or_default().iter().find(|(key, _)| key.as_str() != Some("repositories"))
    {
        return Err(wrong(other, "only 'repositories' is understood here"));
    }
    if let Some(key) = list.duplicate() {
        return Err(wrong(key, "this repository stands here a second time"));
    }
    for (key, value) in list.as_mapping().ok_or_else(|| wrong(list, "'repositories' must be a mapping"))? {
        let path = key.as_str().ok_or_else(|| wrong(key, "a key must be a text"))?;
        let mut repo = Group::empty(place(key));
        let fields = value.as_mapping().ok_or_else(|| wrong(value, "a repository must be a mapping"))?;
        for (name, field) in fields {
            let text = field.as_str().ok_or_else(|| wrong(field, "must be a text"))?;
            let scalar = Scalar { text: text.to_owned(), at: place(field), plain: false };
            match name.as_str() {
                Some("type") if text == "git" => {}
                Some("type") => return Err(wrong(field, "only repositories of the type git can be brought")),
                Some("url") => repo.scalars.set("source".to_owned(), scalar),
                Some("version") => repo.scalars.set("ref".to_owned(), scalar),
                _ => return Err(wrong(name, "only type, url and version are understood here")),
            }
        }
        if repo.scalars.get("source").is_none() {
            return Err(wrong(key, "this repository has no url"));
        }
        repo.scalars.set("dest".to_owned(), Scalar { text: path.to_owned(), at: place(key), plain: false });
        group.groups.set(path.to_owned(), repo);
    }
    Ok(group)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A bare word: a statement.
    Word(String),
    Text(String),
    /// `:name`, or `name:` before a value.
    Symbol(String),
    Arrow,
    Comma,
    End,
}

/// Reads a Puppetfile.
pub(super) fn puppetfile(file: &Arc<str>, text: &str) -> Result<Group, ManifestError> {
    let tokens = tokens(file, text)?;
    let mut group = Group::empty(Place::of(file, &Mark { line: 1, column: 1 }));
    let mut directory = MODULES.to_owned();
    for statement in tokens.split(|(token, _)| *token == Token::End).filter(|statement| !statement.is_empty()) {
        let (word, at) = &statement[0];
        let wrong = |message: &str| Err(at.error(message.to_owned(), None));
        match (word, &statement[1..]) {
            (Token::Word(word), [(Token::Text(_), _)]) if word == "forge" => {}
            (Token::Word(word), [(Token::Text(text), _)]) if word == "moduledir" => directory.clone_from(text),
            (Token::Word(word), [(Token::Text(name), _), rest @ ..]) if word == "mod" => {
                let repo = module(name, at, rest, &directory)?;
                if group.groups.get(name).is_some() {
                    return wrong(&format!("the module '{name}' stands here a second time"));
                }
                group.groups.set(name.clone(), repo);
            }
            (Token::Word(word), _) if word == "mod" || word == "forge" || word == "moduledir" => {
                return wrong(&format!("'{word}' takes a name in quotes"));
            }
            _ => return wrong("only mod, forge and moduledir are understood here"),
        }
    }
    Ok(group)
}

fn module(name: &str, at: &Place, rest: &[(Token, Place)], directory: &str) -> Result<Group, ManifestError> {
    let mut repo = Group::empty(at.clone());
    let mut parent = directory.to_owned();
    let wrong = |at: &Place, message: String| Err(at.error(message, None));
    let mut rest = rest;
    while let [(Token::Comma, _), more @ ..] = rest {
        let (key, at, value, more) = match more {
            [(Token::Symbol(key), at), (Token::Arrow, _), (value, _), more @ ..]
            | [(Token::Symbol(key), at), (value @ (Token::Text(_) | Token::Symbol(_)), _), more @ ..] => {
                (key, at, value, more)
            }
            [(Token::Text(_) | Token::Symbol(_), at), ..] => {
                return wrong(at, format!("'{name}' is a module of the Forge; only :git can be brought"));
            }
            _ => return wrong(at, format!("the settings of '{name}' are not `:key => 'value'`")),
        };
        let Token::Text(value) = value else {
            return wrong(
                at,
                format!("the :{key} of '{name}' is not a text, and nothing here could say what it means"),
            );
        };
        let scalar = Scalar { text: value.clone(), at: at.clone(), plain: false };
        match key.as_str() {
            "git" => repo.scalars.set("source".to_owned(), scalar),
            key if REFS.contains(&key) => {
                if repo.scalars.get("ref").is_some() {
                    return wrong(at, format!("'{name}' has more than one of :ref, :tag, :branch and :commit"));
                }
                repo.scalars.set("ref".to_owned(), scalar);
            }
            "install_path" => parent.clone_from(value),
            other => return wrong(at, format!("the :{other} of '{name}' is not understood here")),
        }
        rest = more;
    }
    if !rest.is_empty() {
        return wrong(&rest[0].1, format!("the settings of '{name}' are not `:key => 'value'`"));
    }
    if repo.scalars.get("source").is_none() {
        return wrong(at, format!("'{name}' is a module of the Forge; only :git can be brought"));
    }
    // The author's name is no part of the directory's.
    let short = name.rsplit(['/', '-']).next().unwrap_or(name);
    let dest = format!("{}/{short}", parent.trim_end_matches('/'));
    repo.scalars.set("dest".to_owned(), Scalar { text: dest, at: at.clone(), plain: false });
    Ok(repo)
}

fn tokens(file: &Arc<str>, text: &str) -> Result<Vec<(Token, Place)>, ManifestError> {
    let mut tokens: Vec<(Token, Place)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line;
        loop {
            let trimmed = rest.trim_start();
            let column = line[..line.len() - trimmed.len()].chars().count() + 1;
            let at = Place::of(file, &Mark { line: number + 1, column });
            if trimmed.is_empty() || trimmed.starts_with('#') {
                break;
            }
            let (token, after) = token(trimmed)
                .ok_or_else(|| at.error("not a name in quotes, a :symbol, `=>` or a comma".to_owned(), None))?;
            tokens.push((token, at));
            rest = after;
        }
        // A line that ends with a comma or an arrow goes on with the next one.
        if !matches!(tokens.last(), None | Some((Token::Comma | Token::Arrow | Token::End, _))) {
            tokens.push((Token::End, Place::of(file, &Mark { line: number + 1, column: line.chars().count() + 1 })));
        }
    }
    Ok(tokens)
}

/// Takes one token; what follows is returned too.
fn token(text: &str) -> Option<(Token, &str)> {
    let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let first = text.chars().next()?;
    match first {
        ',' => Some((Token::Comma, &text[1..])),
        '=' if text.starts_with("=>") => Some((Token::Arrow, &text[2..])),
        '\'' | '"' => {
            let mut value = String::new();
            let mut chars = text.char_indices().skip(1);
            while let Some((index, c)) = chars.next() {
                match c {
                    '\\' => value.push(chars.next().map(|(_, c)| c).filter(|c| *c == first || *c == '\\')?),
                    // Ruby would put a value in.
                    '#' if first == '"' && text[index + 1..].starts_with('{') => return None,
                    c if c == first => return Some((Token::Text(value), &text[index + 1..])),
                    c => value.push(c),
                }
            }
            None
        }
        ':' => {
            let end = word(&text[1..]);
            (end > 0).then(|| (Token::Symbol(text[1..=end].to_owned()), &text[end + 1..]))
        }
        c if c.is_ascii_alphabetic() => {
            let end = word(text);
            match text[end..].strip_prefix(':') {
                Some(after) => Some((Token::Symbol(text[..end].to_owned()), after)),
                None => Some((Token::Word(text[..end].to_owned()), &text[end..])),
            }
        }
        _ => None,
    }
}
