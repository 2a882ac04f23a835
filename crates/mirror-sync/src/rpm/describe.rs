//! Describing one package: its elements of `primary`, `filelists` and `other`.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use super::header::{Header, Rpm};
use super::version::Evr;
use super::xml::escape;
use crate::digest::Digest;

/// What is known of a package file.
#[derive(Debug)]
pub(crate) struct Described {
    /// Name.
    pub(crate) name: String,
    /// Version as people write it.
    pub(crate) version: String,
    /// Architecture.
    pub(crate) arch: String,
    /// When it was built.
    pub(crate) built: u64,
    /// Path in a repository.
    pub(crate) path: String,
    /// Its elements of `primary`, `filelists` and `other`.
    pub(crate) elements: [String; 3],
}

const BASENAMES: u32 = 1117;
/// Newest entries of the change log that are published, as createrepo does.
const CHANGES: usize = 10;

/// Describes a package.
///
/// # Errors
/// What its header lacks.
pub(crate) fn describe(rpm: &Rpm, size: u64, sha256: &Digest) -> std::result::Result<Described, String> {
    let header = &rpm.header;
    let word = |tag, what: &str| -> std::result::Result<String, String> {
        let text = header.text(tag).ok_or_else(|| format!("no {what} in the header"))?;
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"+.-_~^".contains(&byte);
        if text.is_empty() || text.len() > 200 || text.starts_with(['.', '-']) || !text.bytes().all(fine) {
            return Err(format!("bad {what} {text:?}"));
        }
        Ok(text)
    };
    let (name, version, release) = (word(1000, "name")?, word(1001, "version")?, word(1002, "release")?);
    let source = header.number(1106).is_some() || header.text(1044).is_none();
    let arch = if source { "src".to_owned() } else { word(1022, "architecture")? };
    let epoch = header.number(1003).unwrap_or(0);
    let epoch = u32::try_from(epoch).map_err(|_| "bad epoch".to_owned())?;
    let evr = Evr { epoch, version: version.clone(), release: Some(release.clone()) };
    let built = header.number(1006).unwrap_or(0);
    let path = format!("Packages/{}/{name}-{version}-{release}.{arch}.rpm", name[..1].to_ascii_lowercase());
    let files = files(header);
    let head = |quoted: &str| {
        format!(
            "<package pkgid=\"{sha256}\" name=\"{quoted}\" arch=\"{arch}\">\n  <version epoch=\"{epoch}\" ver=\"{version}\" rel=\"{release}\"/>\n"
        )
    };
    let mut primary = format!(
        "<package type=\"rpm\">\n  <name>{name}</name>\n  <arch>{arch}</arch>\n  <version epoch=\"{epoch}\" \
         ver=\"{version}\" rel=\"{release}\"/>\n  <checksum type=\"sha256\" pkgid=\"YES\">{sha256}</checksum>\n"
    );
    let element = |primary: &mut String, name: &str, tag: u32| {
        let _ = write!(primary, "  <{name}>");
        escape(&header.text(tag).unwrap_or_default(), primary);
        let _ = writeln!(primary, "</{name}>");
    };
    for (name, tag) in [("summary", 1004), ("description", 1005), ("packager", 1015), ("url", 1020)] {
        element(&mut primary, name, tag);
    }
    let installed = header.number(5009).or_else(|| header.number(1009)).unwrap_or(0);
    let _ = write!(
        primary,
        "  <time file=\"{built}\" build=\"{built}\"/>\n  <size package=\"{size}\" installed=\"{installed}\" archive=\"{}\"/>\n  \
         <location href=\"{path}\"/>\n  <format>\n",
        rpm.archive
    );
    for (name, tag) in [("license", 1014), ("vendor", 1011), ("group", 1016), ("buildhost", 1007), ("sourcerpm", 1044)]
    {
        primary.push_str("  ");
        element(&mut primary, &format!("rpm:{name}"), tag);
    }
    let _ = writeln!(primary, "    <rpm:header-range start=\"{}\" end=\"{}\"/>", rpm.range.0, rpm.range.1);
    let provided = entries(header, [1047, 1112, 1113]);
    for (name, tags) in [
        ("provides", [1047, 1112, 1113]),
        ("requires", [1049, 1048, 1050]),
        ("conflicts", [1054, 1053, 1055]),
        ("obsoletes", [1090, 1114, 1115]),
        ("suggests", [5049, 5051, 5050]),
        ("enhances", [5055, 5057, 5056]),
        ("recommends", [5046, 5048, 5047]),
        ("supplements", [5052, 5054, 5053]),
    ] {
        let mut list = entries(header, tags);
        if name == "requires" {
            // What rpm itself must be able to do, and what the package brings itself, is of no use to a solver.
            let own: BTreeSet<&str> =
                files.iter().filter(|file| is_primary(&file.path)).map(|file| file.path.as_str()).collect();
            list.retain(|entry| {
                let known = |other: &Entry| {
                    other.name == entry.name && other.flags & 15 == entry.flags & 15 && other.version == entry.version
                };
                !entry.name.starts_with("rpmlib(") && !own.contains(entry.name.as_str()) && !provided.iter().any(known)
            });
        }
        write_entries(&mut primary, name, &list);
    }
    let mut filelists = head(&name);
    for file in &files {
        let mut line = format!("<file{}>", file.kind);
        escape(&file.path, &mut line);
        line.push_str("</file>\n");
        let _ = write!(filelists, "  {line}");
        if is_primary(&file.path) {
            let _ = write!(primary, "    {line}");
        }
    }
    primary.push_str("  </format>\n</package>\n");
    filelists.push_str("</package>\n");
    let mut other = head(&name);
    let (times, authors, texts) = (header.numbers(1080), header.texts(1081), header.texts(1082));
    let mut changes: Vec<_> = times.iter().zip(&authors).zip(&texts).take(CHANGES).collect();
    changes.reverse();
    for ((time, author), text) in changes {
        other.push_str("  <changelog author=\"");
        escape(author, &mut other);
        let _ = write!(other, "\" date=\"{time}\">");
        escape(text, &mut other);
        other.push_str("</changelog>\n");
    }
    other.push_str("</package>\n");
    Ok(Described { name, version: evr.to_string(), arch, built, path, elements: [primary, filelists, other] })
}

struct File {
    path: String,
    /// The attribute that tells what it is.
    kind: &'static str,
}

fn files(header: &Header) -> Vec<File> {
    let (names, directories, indexes) = (header.texts(BASENAMES), header.texts(1118), header.numbers(1116));
    let (modes, flags) = (header.numbers(1030), header.numbers(1037));
    let mut files = Vec::with_capacity(names.len());
    for (number, name) in names.iter().enumerate() {
        let directory = indexes.get(number).and_then(|index| directories.get(usize::try_from(*index).ok()?));
        let Some(directory) = directory else { continue };
        let is_dir = modes.get(number).is_some_and(|mode| mode & 0o170_000 == 0o040_000);
        let is_ghost = flags.get(number).is_some_and(|flags| flags & 64 != 0);
        let kind = if is_dir {
            " type=\"dir\""
        } else if is_ghost {
            " type=\"ghost\""
        } else {
            ""
        };
        files.push(File { path: format!("{directory}{name}"), kind });
    }
    files
}

/// Files that are named in `primary`, because dependencies often name them.
fn is_primary(path: &str) -> bool {
    path.starts_with("/etc/") || path.contains("bin/") || path == "/usr/lib/sendmail"
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    name: String,
    flags: u64,
    version: String,
}

/// Returns dependencies from tags of names, flags and versions, each once, as they are in the header.
fn entries(header: &Header, [names, flags, versions]: [u32; 3]) -> Vec<Entry> {
    const MISSING_OK: u64 = 1 << 19;
    const PRE: u64 = 1 << 6 | 1 << 9 | 1 << 10;
    let (names, flags, versions) = (header.texts(names), header.numbers(flags), header.texts(versions));
    let mut entries: Vec<Entry> = Vec::new();
    let mut seen = HashMap::new();
    for (number, name) in names.into_iter().enumerate() {
        let bits = flags.get(number).copied().unwrap_or(0);
        let version = versions.get(number).cloned().unwrap_or_default();
        if bits & MISSING_OK != 0 {
            continue;
        }
        let bits = bits & 15 | if bits & PRE != 0 { PRE } else { 0 };
        match seen.get(&(name.clone(), bits & 15, version.clone())) {
            // One that is needed before counts more.
            Some(index) => {
                let entry: &mut Entry = &mut entries[*index];
                entry.flags |= bits;
            }
            None => {
                seen.insert((name.clone(), bits & 15, version.clone()), entries.len());
                entries.push(Entry { name, flags: bits, version });
            }
        }
    }
    entries
}

fn write_entries(into: &mut String, name: &str, entries: &[Entry]) {
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(into, "    <rpm:{name}>");
    for entry in entries {
        into.push_str("      <rpm:entry name=\"");
        escape(&entry.name, into);
        into.push('"');
        let flag = match entry.flags & 15 {
            2 => "LT",
            4 => "GT",
            8 => "EQ",
            10 => "LE",
            12 => "GE",
            _ => "",
        };
        if !flag.is_empty() && !entry.version.is_empty() {
            let evr = Evr::parse(&entry.version);
            let _ = write!(into, " flags=\"{flag}\" epoch=\"{}\" ver=\"", evr.epoch);
            escape(&evr.version, into);
            into.push('"');
            if let Some(release) = &evr.release {
                into.push_str(" rel=\"");
                escape(release, into);
                into.push('"');
            }
        }
        if name == "requires" && entry.flags > 15 {
            into.push_str(" pre=\"1\"");
        }
        into.push_str("/>\n");
    }
    let _ = writeln!(into, "    </rpm:{name}>");
}
