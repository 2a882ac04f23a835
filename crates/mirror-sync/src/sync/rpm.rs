//! The rpm side of synchronising upstreams.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::packages::{Format, Picked, Sum, Union};
use crate::config::{RpmSource, Source};
use crate::error::{Error, Result};
use crate::manifest::{self, Published};
use crate::pieces::Last;
use crate::rpm::elements::Elements;
use crate::rpm::metadata::{Data, Index, repodata};
use crate::rpm::package::Package;
use crate::rpm::xml::{self, Event, Events};
use crate::select::Where;
use crate::select::rpm::Packages;
use crate::state::{Head, RpmState, State};
use crate::upstream::{Context, Offer, Plan, Remote, rpm};

/// RPM packages.
pub(super) struct Rpm;

impl Format for Rpm {
    type Source = RpmSource;
    type Read = rpm::Root;

    fn of(source: &Source) -> Option<&RpmSource> {
        match source {
            Source::Rpm(rpm) => Some(rpm),
            _ => None,
        }
    }

    fn probe(context: &Context<'_>, _source: &RpmSource, remote: &mut Remote, before: &[Head]) -> Result<Vec<Head>> {
        Ok(vec![rpm::root(context, remote, before, false)?.head])
    }

    fn read(
        context: &Context<'_>,
        _source: &RpmSource,
        remote: &mut Remote,
        before: &[Head],
        whole: bool,
    ) -> Result<(Vec<Head>, Self::Read, Offer)> {
        let root = rpm::root(context, remote, before, true)?;
        let offer = rpm::offer(context, remote, &root, whole)?;
        Ok((vec![root.head.clone()], root, offer))
    }

    fn everything(context: &Context<'_>, source: &RpmSource, indices: &[Published]) -> Result<Option<Plan>> {
        rpm::everything(context, source, indices)
    }

    fn filtered(
        context: &Context<'_>,
        source: &RpmSource,
        number: u16,
        indices: &[Published],
    ) -> Result<BTreeSet<Where>> {
        let mut picked = BTreeSet::new();
        rpm::each(context, &indices[0], |offset, package, _| {
            if source.takes(&package.arch) {
                picked.insert(Where { source: number, index: 0, offset });
            }
            Ok(())
        })?;
        Ok(picked)
    }

    fn some(
        context: &Context<'_>,
        source: &RpmSource,
        read: &rpm::Root,
        indices: &[Published],
        picked: &BTreeSet<Where>,
    ) -> Result<(Plan, Vec<Published>)> {
        let offsets: HashSet<u64> = picked.iter().map(|place| place.offset).collect();
        let mut plan = Plan::default();
        let mut ids: HashSet<String> = HashSet::new();
        let last = Last::load(context.store, &source.name);
        let mut primary = Index::new(context.store, &last, 0, picked.len())?;
        rpm::each(context, &indices[0], |offset, package, text| {
            if offsets.contains(&offset) {
                plan.add_rpm(package);
                ids.insert(package.pkgid.clone().into_owned());
                primary.add(text, text)?;
                primary.add(b"\n", b"\n")?;
            }
            Ok(())
        })?;
        let (primary, pieces) = primary.finish(context.store)?;
        let (mut data, mut pieces) = (vec![primary], vec![pieces]);
        for (number, kind) in rpm::INDICES.iter().enumerate().skip(1) {
            let path = format!("repodata/{kind}.xml");
            let Some(published) = indices.iter().find(|index| read.has(kind) && index.path == path) else { continue };
            let mut index = Index::new(context.store, &last, number, ids.len())?;
            let rejected = |why: String| Error::rejected(&published.path, why);
            let mut elements = xml::Packages::new(rpm::open(context, published)?);
            while let Some(element) = elements.next().map_err(|error| rejected(error.to_string()))? {
                if ids.contains(pkgid(element.text).map_err(rejected)?) {
                    index.add(element.text, element.text)?;
                    index.add(b"\n", b"\n")?;
                }
            }
            let (index, of) = index.finish(context.store)?;
            data.push(index);
            pieces.push(of);
        }
        if context.dry.is_none() {
            Last::save(context.store, &source.name, pieces)?;
        }
        for file in indices {
            if let Some(kind) = read.kind(&file.path) {
                data.push(Data { kind: kind.to_owned(), file: file.clone(), open: None });
            }
        }
        let files = repodata(context.store, read.head.date, data)?;
        Ok((plan.finish()?, files))
    }

    fn part(source: &RpmSource, plan: Plan, files: Vec<Published>, keyring: Option<String>) -> manifest::Source {
        manifest::Source::Rpm(manifest::Rpm {
            name: source.name.clone(),
            architectures: source.architectures.clone(),
            packages: plan.packages,
            files,
            keyring,
        })
    }

    fn pick(context: &Context<'_>, union: &Union<'_, RpmSource>) -> Result<Picked> {
        let mut blobs = Vec::with_capacity(union.directories.len());
        for state in &union.directories {
            blobs.push(match state {
                Some(State::Rpm(state)) => Some((state, Elements::read(context.store, &state.elements)?)),
                _ => None,
            });
        }
        let mut directories: Vec<Option<Directory<'_>>> = Vec::with_capacity(blobs.len());
        for blob in &blobs {
            directories.push(match blob {
                Some((state, elements)) => Some((state, elements.split(state)?)),
                None => None,
            });
        }
        let mut packages = Packages::new(union.recommends);
        for (number, (source, indices)) in union.sources.iter().enumerate() {
            let number = u16::try_from(number).map_err(|_| Error::Bug("too many sources".into()))?;
            if let Some((_, elements)) = &directories[usize::from(number)] {
                for (offset, [primary, ..]) in elements.iter().enumerate() {
                    let place = Where { source: number, index: 0, offset: offset as u64 };
                    packages.add_element(place, primary)?;
                }
            }
            if let Some(index) = indices.first() {
                let file = rpm::open(context, index)?;
                packages.add_index(number, file, &index.path, |arch| source.takes(arch))?;
            }
        }
        let nobody = packages.find_files()?;
        if !nobody.is_empty() {
            owners(context, union, &directories, &nobody, &mut packages)?;
        }
        let mut sum = Sum::default();
        union.close(&packages, Packages::root, Packages::place, &mut sum)?;
        Ok(sum.picked(union))
    }
}

/// A directory's packages and the elements of each.
type Directory<'a> = (&'a RpmState, Vec<[&'a [u8]; 3]>);

/// Finds owners of files that only `filelists` names.
fn owners(
    context: &Context<'_>,
    union: &Union<'_, RpmSource>,
    directories: &[Option<Directory<'_>>],
    wanted: &HashSet<Box<str>>,
    packages: &mut Packages<'_>,
) -> Result<()> {
    for (number, (_, indices)) in union.sources.iter().enumerate() {
        let source = u16::try_from(number).map_err(|_| Error::Bug("too many sources".into()))?;
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let look = |text: &[u8], what: &str, found: &mut BTreeMap<String, Vec<String>>| -> Result<()> {
            let rejected = |why: String| Error::rejected(what, why);
            let mut events = Events::new(text).map_err(rejected)?;
            let mut paths = Vec::new();
            while let Some(event) = events.next().map_err(rejected)? {
                if let Event::Open { name: "file", empty: false, .. } = event {
                    let path = events.text().map_err(rejected)?;
                    if wanted.contains(&*path) {
                        paths.push(path.into_owned());
                    }
                }
            }
            if !paths.is_empty() {
                found.insert(pkgid(text).map_err(rejected)?.to_owned(), paths);
            }
            Ok(())
        };
        if let Some((state, elements)) = &directories[number] {
            for (package, [_, filelists, _]) in state.packages.iter().zip(elements) {
                look(filelists, &package.file, &mut found)?;
            }
            for (offset, package) in state.packages.iter().enumerate() {
                for path in found.get(package.sha256.as_str()).into_iter().flatten() {
                    packages.add_owner(Where { source, index: 0, offset: offset as u64 }, path);
                }
            }
        }
        let Some(lists) = indices.iter().find(|index| index.path == "repodata/filelists.xml") else { continue };
        let mut elements = xml::Packages::new(rpm::open(context, lists)?);
        let rejected = |error: std::io::Error| Error::rejected(&lists.path, error.to_string());
        while let Some(element) = elements.next().map_err(rejected)? {
            look(element.text, &lists.path, &mut found)?;
        }
        if !found.is_empty() {
            rpm::each(context, &indices[0], |offset, package: &Package<'_>, _| {
                for path in found.get(&*package.pkgid).into_iter().flatten() {
                    packages.add_owner(Where { source, index: 0, offset }, path);
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Returns the digest by which `filelists` and `other` call a package.
fn pkgid(text: &[u8]) -> std::result::Result<&str, String> {
    let end = text.iter().position(|byte| *byte == b'>').ok_or("a tag does not end")?;
    let tag = std::str::from_utf8(&text[..end]).map_err(|_| "it is not UTF-8")?;
    let (_, rest) = tag.split_once("pkgid=").ok_or("a package without a pkgid")?;
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\'')).ok_or("a package without a pkgid")?;
    rest[1..].split(quote).next().ok_or_else(|| "a package without a pkgid".to_owned())
}
