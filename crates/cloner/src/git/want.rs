//! What a manifest's `ref` asks for, and what it is among the refs of a remote.

use git2::{Oid, Repository};

use crate::fault::{Cause, Fault};
use crate::nearest::nearest;

/// Longest name of a ref.
const MAX_REF: usize = 1024;

/// What the manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// The remote's HEAD.
    Head,
    /// A branch, a tag, or a full ref name.
    Name(String),
    /// A full commit id.
    Commit(Oid),
}

/// A ref as a remote lists it.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) oid: Oid,
    pub(crate) symref: Option<String>,
}

/// What a [`Want`] is at a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The commit, or for a remote that does not say it the tag object.
    pub(crate) oid: Oid,
    /// The ref that leads to it; none if only the id is known.
    pub(crate) refname: Option<String>,
    /// The tag object that led to it, if it is wanted too.
    pub(crate) tag: Option<Oid>,
    /// The branch to stand on in a clone.
    pub(crate) branch: Option<String>,
}

impl Target {
    /// Whether `repository` has all that was asked for.
    pub(crate) fn is_in(&self, repository: &Repository) -> bool {
        let has = |oid| repository.find_object(oid, None).is_ok();
        has(self.oid) && self.tag.is_none_or(has)
    }
}

impl Want {
    /// Judges the manifest's `ref`.
    pub(crate) fn parse(reference: Option<&str>) -> Result<Self, Fault> {
        let Some(text) = reference else { return Ok(Self::Head) };
        if text == "HEAD" {
            return Ok(Self::Head);
        }
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex && text.len() == 40 {
            let oid = Oid::from_str(text).map_err(|err| Fault::git(Cause::Ref, text, &err))?;
            return Ok(Self::Commit(oid));
        }
        if hex && text.len() == 64 {
            return Err(Fault::new(
                Cause::Ref,
                format!("'{text}' is a SHA-256 id; such repositories are not supported"),
            ));
        }
        if text.len() > MAX_REF {
            return Err(Fault::new(Cause::Ref, format!("a ref of more than {MAX_REF} bytes")));
        }
        let full = if text.starts_with("refs/") { text.to_owned() } else { format!("refs/heads/{text}") };
        if text.starts_with('-') || text.contains(char::is_control) || !git2::Reference::is_valid_name(&full) {
            return Err(Fault::new(Cause::Ref, format!("'{}' is not a valid ref", text.escape_debug())));
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// Finds this in the refs of a remote.
    pub(crate) fn find(&self, heads: &[Head]) -> Result<Target, Fault> {
        let by_name = |name: &str| heads.iter().find(|head| head.name == name);
        // A tag object's commit is listed beside it.
        let peeled = |head: &Head| by_name(&format!("{}^{{}}", head.name)).map_or(head.oid, |peeled| peeled.oid);
        let target = |head: &Head| Target {
            oid: peeled(head),
            refname: Some(head.name.clone()),
            tag: None,
            branch: head.name.strip_prefix("refs/heads/").map(str::to_owned),
        };
        match self {
            Self::Head => {
                let head = by_name("HEAD").ok_or_else(|| {
                    Fault::new(Cause::Ref, "the repository has no HEAD (is it empty?)").hint("name a branch as ref")
                })?;
                let branch = head.symref.as_ref().and_then(|name| name.strip_prefix("refs/heads/"));
                Ok(Target { branch: branch.map(str::to_owned), ..target(head) })
            }
            Self::Commit(oid) => {
                let tip = heads.iter().find(|head| head.oid == *oid && head.name.starts_with("refs/"));
                let refname = tip.map(|head| head.name.strip_suffix("^{}").unwrap_or(&head.name).to_owned());
                Ok(Target { oid: *oid, refname, tag: None, branch: None })
            }
            Self::Name(name) if name.starts_with("refs/") => {
                by_name(name).map(target).ok_or_else(|| missing(name, heads))
            }
            Self::Name(name) => {
                let branch = by_name(&format!("refs/heads/{name}")).map(target);
                let tag = by_name(&format!("refs/tags/{name}")).map(target);
                match (branch, tag) {
                    (Some(branch), Some(tag)) if branch.oid != tag.oid => Err(Fault::new(
                        Cause::Ref,
                        format!("'{name}' is both a branch and a tag, at different commits"),
                    )
                    .hint(format!("write refs/heads/{name} or refs/tags/{name}"))),
                    (Some(target), _) | (None, Some(target)) => Ok(target),
                    (None, None) => Err(missing(name, heads)),
                }
            }
        }
    }
}

fn missing(name: &str, heads: &[Head]) -> Fault {
    let fault = Fault::new(Cause::Ref, format!("the repository has no branch or tag '{name}'"));
    if name.len() >= 7 && name.len() < 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return fault.hint("a commit is named by all 40 digits of its id");
    }
    let known = heads
        .iter()
        .filter(|head| !head.name.ends_with("^{}"))
        .filter_map(|head| head.name.strip_prefix("refs/heads/").or_else(|| head.name.strip_prefix("refs/tags/")));
    match nearest(name, known) {
        Some(near) => fault.hint(format!("did you mean '{near}'?")),
        None => fault,
    }
}

impl Want {
    /// Returns what the names of the refs begin with that can answer this.
    pub(super) fn prefixes(&self) -> Vec<String> {
        match self {
            Self::Head => vec!["HEAD".to_owned()],
            Self::Commit(_) => Vec::new(),
            Self::Name(name) if name.starts_with("refs/") => vec![name.clone()],
            Self::Name(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, digit: u8) -> Head {
        Head { name: name.to_owned(), oid: oid(digit), symref: None }
    }

    fn oid(digit: u8) -> Oid {
        Oid::from_str(&format!("{digit:x}").repeat(40)).expect("hex")
    }

    #[test]
    fn refs_are_judged() {
        assert_eq!(Want::parse(None).expect("valid"), Want::Head);
        assert_eq!(Want::parse(Some(&"A".repeat(40))).expect("valid"), Want::Commit(oid(10)));
        for text in ["stable/2026.1", "v1.0", "refs/changes/1/2", "1.10", "#5", "a b"] {
            assert_eq!(Want::parse(Some(text)).is_ok(), text != "a b", "{text}");
        }
        for text in
            ["", "-x", "--upload-pack=x", "a..b", "a\nb", "x.lock", "a@{1}", "a~1", "a^", "a:b", "/a", &"a".repeat(64)]
        {
            assert!(Want::parse(Some(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_found_exactly() {
        let mut heads = vec![
            Head { symref: Some("refs/heads/main".to_owned()), ..head("HEAD", 1) },
            head("refs/heads/main", 1),
            head("refs/heads/both", 2),
            head("refs/tags/both", 3),
            head("refs/heads/feature/main2", 4),
            head("refs/tags/v1", 5),
            head("refs/tags/v1^{}", 6),
        ];
        let find = |text: Option<&str>| Want::parse(text).expect("valid").find(&heads);
        let target = find(None).expect("found");
        assert_eq!((target.oid, target.branch.as_deref()), (oid(1), Some("main")));
        let tag = find(Some("v1")).expect("found");
        assert_eq!((tag.oid, tag.refname.as_deref(), tag.branch), (oid(6), Some("refs/tags/v1"), None));
        assert_eq!(find(Some("both")).expect_err("two").cause, Cause::Ref);
        assert_eq!(find(Some("refs/tags/both")).expect("full").oid, oid(3));
        assert!(find(Some("main2")).is_err());
        assert_eq!(find(Some("v2")).expect_err("none").hint.as_deref(), Some("did you mean 'v1'?"));
        let pin = find(Some(&"6".repeat(40))).expect("a tip");
        assert_eq!(pin.refname.as_deref(), Some("refs/tags/v1"));
        assert_eq!(find(Some(&"9".repeat(40))).expect("no tip").refname, None);
        heads.remove(0);
        assert!(Want::Head.find(&heads).is_err());
    }
}
