//! The deb side of synchronising upstreams.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::packages::{Format, Picked, Sum, Union};
use crate::config::{DebSource, Source};
use crate::deb822::Stanzas;
use crate::error::{Error, Result};
use crate::manifest::{self, Published};
use crate::repository;
use crate::select::Where;
use crate::select::deb::Packages;
use crate::state::{Head, State};
use crate::upstream::packages::Entry;
use crate::upstream::{Context, Offer, Plan, Remote, deb};

/// Debian packages.
pub(super) struct Deb;

impl Format for Deb {
    type Source = DebSource;
    type Read = Vec<deb::Suite>;

    fn of(source: &Source) -> Option<&DebSource> {
        match source {
            Source::Deb(deb) => Some(deb),
            _ => None,
        }
    }

    fn probe(context: &Context<'_>, source: &DebSource, remote: &mut Remote, before: &[Head]) -> Result<Vec<Head>> {
        let suites = deb::suites(context, source, remote, before, false)?;
        Ok(suites.into_iter().map(|suite| suite.head).collect())
    }

    fn read(
        context: &Context<'_>,
        source: &DebSource,
        remote: &mut Remote,
        before: &[Head],
        whole: bool,
    ) -> Result<(Vec<Head>, Self::Read, Offer)> {
        let suites = deb::suites(context, source, remote, before, true)?;
        let offer = deb::offer(context, source, remote, &suites, whole)?;
        Ok((suites.iter().map(|suite| suite.head.clone()).collect(), suites, offer))
    }

    fn everything(context: &Context<'_>, _source: &DebSource, indices: &[Published]) -> Result<Option<Plan>> {
        // Indices are those of the architectures that are configured, so nothing in them is left out.
        deb::everything(context, indices).map(Some)
    }

    fn filtered(
        _context: &Context<'_>,
        _source: &DebSource,
        _number: u16,
        _indices: &[Published],
    ) -> Result<BTreeSet<Where>> {
        Ok(BTreeSet::new())
    }

    fn some(
        context: &Context<'_>,
        source: &DebSource,
        read: &Self::Read,
        indices: &[Published],
        picked: &BTreeSet<Where>,
    ) -> Result<(Plan, Vec<Published>)> {
        let mut plan = Plan::default();
        let mut texts = Texts::new();
        for (number, index) in indices.iter().enumerate() {
            let path = context.store.blob(&index.sha256);
            let file = File::open(&path).map_err(Error::read(&path))?;
            for place in picked.iter().filter(|place| usize::from(place.index) == number) {
                let text = stanza(&file, place.offset).map_err(Error::read(&path))?;
                let stanza = crate::deb822::Stanza { offset: place.offset, text: &text };
                let entry = Entry::parse(&stanza).map_err(|why| Error::rejected(&index.path, why))?;
                plan.add(&entry);
                add(&mut texts, source, &index.path, &entry, &text);
            }
        }
        let mut files = Vec::new();
        for suite in read {
            let release = suite.release.as_ref().ok_or_else(|| Error::Bug("a suite was not read".into()))?;
            let mut head = String::new();
            for (name, value) in &release.kept {
                head.push_str(&format!("{name}: {value}\n"));
            }
            head.push_str(&repository::parts(source));
            let mut packed = Vec::new();
            for component in &source.components {
                for arch in &source.architectures {
                    let path = format!("{component}/binary-{arch}/Packages");
                    let stanzas = texts.remove(&(suite.name.clone(), path.clone())).unwrap_or_default();
                    packed.extend(repository::pack(context.store, &path, stanzas.into_values().flatten().collect())?);
                }
            }
            files.extend(repository::suite_files(context.store, &suite.name, &head, &packed)?);
        }
        Ok((plan.finish()?, files))
    }

    fn part(source: &DebSource, plan: Plan, files: Vec<Published>, keyring: Option<String>) -> manifest::Source {
        manifest::Source::Deb(manifest::Deb {
            name: source.name.clone(),
            suites: source.suites.clone(),
            components: source.components.clone(),
            architectures: source.architectures.clone(),
            packages: plan.packages,
            files,
            keyring,
        })
    }

    fn pick(context: &Context<'_>, union: &Union<'_, DebSource>) -> Result<Picked> {
        let architectures: BTreeSet<&String> =
            union.sources.iter().flat_map(|(source, _)| &source.architectures).collect();
        let mut sum = Sum::default();
        for arch in &architectures {
            let mut packages = Packages::new(arch, union.recommends);
            for (number, (source, indices)) in union.sources.iter().enumerate() {
                let number = u16::try_from(number).map_err(|_| Error::Bug("too many sources".into()))?;
                if let Some(State::Deb(state)) = &union.directories[usize::from(number)] {
                    packages.add_found(number, &state.packages);
                }
                if !source.architectures.contains(arch) {
                    continue;
                }
                for (index, published) in indices.iter().enumerate() {
                    let mine = [format!("/binary-{arch}/"), "/binary-all/".into()];
                    if mine.iter().any(|part| published.path.contains(part.as_str())) {
                        let index = u16::try_from(index).map_err(|_| Error::Bug("too many indices".into()))?;
                        let path = context.store.blob(&published.sha256);
                        let file = File::open(&path).map_err(Error::read(&path))?;
                        packages.add_index(number, index, file, &published.path)?;
                    }
                }
            }
            union.close(&packages, Packages::root, Packages::place, &mut sum)?;
        }
        Ok(sum.picked(union))
    }
}

/// Stanzas by suite and index, in the order of package and version.
type Texts = BTreeMap<(String, String), BTreeMap<(String, String, String), Vec<u8>>>;

fn add(texts: &mut Texts, source: &DebSource, index: &str, entry: &Entry<'_>, text: &[u8]) {
    // `dists/SUITE/COMPONENT/binary-ARCH/Packages`
    let mut parts = index.split('/').skip(1);
    let (Some(suite), Some(component), Some(binary)) = (parts.next(), parts.next(), parts.next()) else { return };
    let mut stanza = text.trim_ascii_end().to_vec();
    stanza.extend_from_slice(b"\n\n");
    let key = (entry.name.to_owned(), entry.version.to_owned(), entry.path.clone());
    for arch in &source.architectures {
        let for_all = entry.arch == "all" && binary == "binary-all";
        if for_all || binary.strip_prefix("binary-") == Some(arch) {
            let path = format!("{component}/binary-{arch}/Packages");
            texts.entry((suite.to_owned(), path)).or_default().insert(key.clone(), stanza.clone());
        }
    }
}

/// Reads one stanza again.
fn stanza(file: &File, offset: u64) -> std::io::Result<Vec<u8>> {
    struct At<'a>(&'a File, u64);
    impl std::io::Read for At<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read_at(buffer, self.1)?;
            self.1 += count as u64;
            Ok(count)
        }
    }
    let mut stanzas = Stanzas::few(At(file, offset));
    Ok(stanzas.next()?.map(|stanza| stanza.text.to_vec()).unwrap_or_default())
}
