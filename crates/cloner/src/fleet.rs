//! The mirrors of a run, and what their refs index says.
//!
//! An index is asked for when the first repository needs it, with the `ETag` of the one that was
//! kept below `<root>/.cloner/index`; a mirror without one, or that cannot be reached, is used
//! repository by repository.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use git2::Oid;
use sha2::{Digest as _, Sha256};
use toolkit::files;
use ureq::http::{StatusCode, header};

use crate::fault::{Cause, Fault};
use crate::git::{self, Head, Shelf, Store};
use crate::http::{Client, Session};
use crate::refsindex::{self, Index, Pack, Refs};
use crate::source::{HttpUrl, Mirror};

/// Largest copy of an index that is kept, ETag included.
const MAX_KEPT: u64 = refsindex::MAX_BYTES + 4096;

/// One mirror.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) mirror: Mirror,
    index: OnceLock<Option<Index>>,
    /// Where a copy of the index is kept between runs; none where nothing may be written.
    kept: PathBuf,
    keep: bool,
}

/// What the index says about one repository.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) heads: Vec<Head>,
    pub(crate) packs: Vec<(Oid, Pack)>,
}

impl Known {
    /// Returns the published pack of a commit.
    pub(crate) fn pack(&self, commit: Oid) -> Option<&Pack> {
        self.packs.iter().find(|(oid, _)| *oid == commit).map(|(_, pack)| pack)
    }
}

impl Fleet {
    /// Prepares for a mirror; copies are kept below `state` if `keep` is set.
    pub(crate) fn new(mirror: Mirror, state: &Path, keep: bool) -> Self {
        let name = match &mirror {
            Mirror::Http(url) => toolkit::hex::encode(&Sha256::digest(url.base().as_bytes())[..16]),
            Mirror::Local(_) => String::new(),
        };
        Self { mirror, index: OnceLock::new(), kept: state.join("index").join(name), keep }
    }

    /// Returns what the index says about the repository at `place`; none if there is nothing to go by.
    pub(crate) fn find(&self, client: &Client, place: &str, deadline: Instant) -> Option<Known> {
        let Mirror::Http(url) = &self.mirror else { return None };
        let index = self.index.get_or_init(|| self.load(&client.session(url, deadline)).ok().flatten());
        let refs = index.as_ref()?.find(place).ok()??;
        let heads = heads(&refs)?;
        let id = |text: &str| Oid::from_str(text).ok();
        let packs = refs.packs.into_iter().filter_map(|(commit, pack)| Some((id(&commit)?, pack))).collect();
        Some(Known { heads, packs })
    }

    fn load(&self, session: &Session) -> Result<Option<Index>, Fault> {
        let kept = self.read_kept();
        let etag = kept.as_ref().map(|(etag, _)| etag.as_str());
        let response = session.get(refsindex::FILE, etag)?;
        match (response.status(), kept) {
            (StatusCode::NOT_MODIFIED, Some((_, index))) => Ok(Some(index)),
            (StatusCode::OK, _) => {
                let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok());
                let etag = etag.filter(|etag| etag.len() < 1024).map(str::to_owned);
                let read = files::read_to_limit(response.into_body().into_reader(), refsindex::MAX_BYTES);
                let text = read.and_then(files::text).map_err(|err| session.read_fault(&err))?;
                let index = Index::parse(text).map_err(|why| Fault::new(Cause::Network, why))?;
                if let Some(etag) = etag.filter(|_| self.keep) {
                    // Without the copy the next run asks for the whole index.
                    let _ = self.write_kept(&etag, index.text());
                }
                Ok(Some(index))
            }
            _ => Ok(None),
        }
    }

    /// Reads the kept copy: the ETag on a line of its own, then the index.
    fn read_kept(&self) -> Option<(String, Index)> {
        let mut text = files::text(files::read_bounded(&self.kept, MAX_KEPT).ok()?).ok()?;
        let index = text.split_off(text.find('\n')? + 1);
        Some((text.trim_end().to_owned(), Index::parse(index).ok()?))
    }

    fn write_kept(&self, etag: &str, index: &str) -> std::io::Result<()> {
        if let Some(directory) = self.kept.parent() {
            std::fs::create_dir_all(directory)?;
        }
        toolkit::atomic::write(&self.kept, format!("{etag}\n{index}").as_bytes(), 0o600).map(drop)
    }
}

/// Returns what an index that was given says about the repository at `place`; none if it says nothing.
///
/// # Errors
/// The line that is wrong.
pub(crate) fn given(index: &Index, place: &str) -> Result<Option<Known>, String> {
    let Some(refs) = index.find(place)? else { return Ok(None) };
    let heads = heads(&refs).ok_or("an id is none")?;
    Ok(Some(Known { heads, packs: Vec::new() }))
}

/// Reads an index that was given.
///
/// # Errors
/// Why it cannot be used.
pub(crate) fn read_given(path: &Path) -> Result<Index, String> {
    let text = files::read_given(path, refsindex::MAX_BYTES).and_then(files::text);
    Index::parse(text.map_err(|err| err.to_string())?)
}

/// Returns the list that a server would give; none if an id is none.
pub(crate) fn heads(refs: &Refs) -> Option<Vec<Head>> {
    let id = |text: &str| Oid::from_str(text).ok();
    let mut heads = Vec::new();
    if let Some(head) = &refs.head
        && let Some((target, _)) = refs.refs.get(head)
    {
        heads.push(Head { name: "HEAD".to_owned(), oid: id(target)?, symref: Some(head.clone()) });
    }
    for (name, (target, peeled)) in &refs.refs {
        heads.push(Head { name: name.clone(), oid: id(target)?, symref: None });
        if let Some(peeled) = peeled {
            heads.push(Head { name: format!("{name}^{{}}"), oid: id(peeled)?, symref: None });
        }
    }
    Some(heads)
}

/// Fetches a published pack of the mirror at `url`; none if the mirror no longer has it.
pub(crate) fn fetch_pack(
    client: &Client,
    url: &HttpUrl,
    pack: &Pack,
    deadline: Instant,
    shelf: &Shelf<'_>,
) -> Result<Option<Store>, Fault> {
    let session = client.session(url, deadline);
    let response = session.get(&refsindex::pack_path(&pack.digest), None)?;
    if response.status() != StatusCode::OK {
        return Ok(None);
    }
    let body = response.into_body().into_reader().take(pack.bytes.saturating_add(1));
    git::receive(&session, body, shelf).map(Some)
}
