//! A repository's signature policy, checked before its tree is placed.
//!
//! `signed: commit` wants the commit itself signed, `signed: tag` wants the ref to be an annotated tag
//! that is signed, bears the name that was asked for and leads to the commit: an old signed tag under
//! a new name proves nothing. `signers` names the file of the keys that count.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use git2::{ObjectType, Oid, Repository};

use crate::fault::{Cause, Fault};
use crate::git::{Head, Target};
use crate::manifest::{Repo, Signed};
use crate::signers::Signers;

/// What one repository asks for.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) signed: Signed,
    signers: Arc<Signers>,
}

/// The files of signers, each read once a run.
#[derive(Debug, Default)]
pub(crate) struct Files(Mutex<HashMap<PathBuf, Result<Arc<Signers>, String>>>);

impl Files {
    /// Returns the policy of `repo`; paths are relative to `base`.
    pub(crate) fn policy(&self, repo: &Repo, base: &Path) -> Result<Option<Policy>, Fault> {
        let Some(signed) = repo.signed else { return Ok(None) };
        let path = base.join(repo.signers.as_deref().unwrap_or_default());
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = files.entry(path).or_insert_with_key(|path| Signers::load(path).map(Arc::new));
        let signers = loaded.clone().map_err(|why| Fault::new(Cause::Signature, why))?;
        Ok(Some(Policy { signed, signers }))
    }
}

impl Policy {
    /// Whether a tree that was placed on the word of this key still may be there.
    pub(crate) fn fits(&self, checked: Option<&str>) -> bool {
        let prefix = format!("{} ", self.signed.word());
        checked.and_then(|checked| checked.strip_prefix(&prefix)).is_some_and(|print| self.signers.has(print))
    }

    /// Names the tag object that `target` was found by, if the policy is about tags.
    pub(crate) fn tag(&self, reference: Option<&str>, heads: &[Head], target: &Target) -> Option<Oid> {
        let name = tag_name(reference).filter(|_| self.signed == Signed::Tag)?;
        let full = format!("refs/tags/{name}");
        let peeled = heads.iter().find(|head| head.name == format!("{full}^{{}}"))?;
        let head = heads.iter().find(|head| head.name == full)?;
        (peeled.oid == target.oid || head.oid == target.oid).then_some(head.oid)
    }

    /// Checks the commit or the tag; returns what a record says about it.
    pub(crate) fn check(
        &self,
        repository: &Repository,
        reference: Option<&str>,
        target: &Target,
    ) -> Result<String, Fault> {
        let verified = match self.signed {
            Signed::Commit => self.commit(repository, target.oid),
            Signed::Tag => self.annotated(repository, reference, target),
        };
        let print = verified.map_err(|why| {
            Fault::new(Cause::Signature, why)
                .hint("nothing was placed; `signed` and `signers` in the manifest say what is wanted")
        })?;
        Ok(format!("{} {print}", self.signed.word()))
    }

    fn commit(&self, repository: &Repository, oid: Oid) -> Result<String, String> {
        let unread = |err: git2::Error| format!("commit {oid}: {}", err.message());
        let odb = repository.odb().map_err(unread)?;
        let object = odb.read(oid).map_err(unread)?;
        let (signature, data) = split(object.data()).ok_or_else(|| format!("commit {oid} is not signed"))?;
        let signature =
            std::str::from_utf8(&signature).map_err(|_| format!("commit {oid} has a signature that is no text"))?;
        let time = repository.find_commit(oid).map(|commit| commit.time().seconds()).unwrap_or_default();
        self.signers
            .verify(signature, &data, u64::try_from(time).unwrap_or_default())
            .map_err(|why| format!("commit {oid}: {why}"))
    }

    fn annotated(&self, repository: &Repository, reference: Option<&str>, target: &Target) -> Result<String, String> {
        let name = tag_name(reference).ok_or("the ref is no tag, so no tag can be signed")?;
        let oid = target.tag.ok_or_else(|| format!("'{name}' is not an annotated tag of the commit"))?;
        let fail = |why: String| format!("tag '{name}': {why}");
        let odb = repository.odb().map_err(|err| fail(err.message().to_owned()))?;
        let object = odb.read(oid).map_err(|err| fail(err.message().to_owned()))?;
        if object.kind() != ObjectType::Tag {
            return Err(fail("it is not annotated, so it cannot be signed".to_owned()));
        }
        let data = object.data();
        let tag = repository.find_tag(oid).map_err(|err| fail(err.message().to_owned()))?;
        if tag.name_bytes() != name.as_bytes() {
            return Err(fail(format!(
                "it is signed as '{}'",
                String::from_utf8_lossy(tag.name_bytes()).escape_debug()
            )));
        }
        if tag.target_id() != target.oid {
            return Err(fail(format!("it leads to {}, not to {}", tag.target_id(), target.oid)));
        }
        let begin = [&b"\n-----BEGIN PGP SIGNATURE-----"[..], b"\n-----BEGIN SSH SIGNATURE-----"]
            .iter()
            .filter_map(|mark| data.windows(mark.len()).rposition(|window| window == *mark))
            .max()
            .ok_or_else(|| fail("it is not signed".to_owned()))?;
        let (signed, signature) = data.split_at(begin + 1);
        let signature = std::str::from_utf8(signature).map_err(|_| fail("its signature is no text".to_owned()))?;
        let time = tag.tagger().map(|tagger| tagger.when().seconds()).unwrap_or_default();
        self.signers.verify(signature, signed, u64::try_from(time).unwrap_or_default()).map_err(fail)
    }
}

/// Takes a commit apart into its signature and what that was made over: all the rest of it.
///
/// libgit2's own function for it takes the object for a text that ends with a zero byte, which not every object in
/// memory does: what happens to lie behind it then counts as signed.
fn split(commit: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let line_end = |from: usize| commit[from..].iter().position(|byte| *byte == b'\n').map(|end| from + end + 1);
    let mut at = 0;
    loop {
        let mut end = line_end(at)?;
        let line = &commit[at..end];
        if line == b"\n" {
            return None;
        }
        if let Some(first) = line.strip_prefix(b"gpgsig ") {
            let mut signature = first.to_vec();
            while commit.get(end) == Some(&b' ') {
                let next = line_end(end)?;
                signature.extend_from_slice(&commit[end + 1..next]);
                end = next;
            }
            return Some((signature, [&commit[..at], &commit[end..]].concat()));
        }
        at = end;
    }
}

/// The name of the tag that a ref asks for, if it can be one.
fn tag_name(reference: Option<&str>) -> Option<&str> {
    let reference = reference?;
    match reference.strip_prefix("refs/tags/") {
        Some(name) => Some(name),
        None => (!reference.starts_with("refs/")).then_some(reference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_over_all_the_rest() {
        let commit = b"tree 1\nauthor a\ngpgsig -----BEGIN\n \n abc\n -----END\nmergetag object 2\n gpgsig no\n\nwords\ngpgsig neither\n";
        let (signature, signed) = split(commit).expect("signed");
        assert_eq!(signature, b"-----BEGIN\n\nabc\n-----END\n");
        assert_eq!(signed, b"tree 1\nauthor a\nmergetag object 2\n gpgsig no\n\nwords\ngpgsig neither\n");
        for unsigned in [&b"tree 1\n\ngpgsig x\n"[..], b"tree 1\ngpgsig x", b"tree 1\ngpgsig x\n y", b"tree 1\n", b""] {
            assert!(split(unsigned).is_none(), "{}", String::from_utf8_lossy(unsigned));
        }
    }
}
