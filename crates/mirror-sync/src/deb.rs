//! Reading a binary Debian package: its control stanza, and proof that the file is whole.
//!
//! A `.deb` is an `ar` archive of `debian-binary`, `control.tar[.gz|.xz|.zst]` and `data.tar…`. Everything in
//! it is hostile: sizes, names and the unpacked length of the control archive are bounded, and the
//! stanza is checked line by line, because it is copied into the index that clients trust.
//! The payload is not unpacked; that it is all there follows from the archive's sizes.

use std::io::{self, Read, Seek, SeekFrom};

use crate::packing::Packing;

/// Largest unpacked control archive.
const MAX_CONTROL_TAR: u64 = 64 << 20;
/// Largest control file.
const MAX_CONTROL: u64 = 1 << 20;

/// What is read from a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    /// `Package`.
    pub(crate) package: String,
    /// `Version`.
    pub(crate) version: String,
    /// `Architecture`.
    pub(crate) architecture: String,
    /// `Section`, where there is one.
    pub(crate) section: Option<String>,
    /// When the package was built, in seconds since the epoch.
    pub(crate) built: u64,
    /// The stanza without the fields that an index adds, each line ended.
    pub(crate) stanza: String,
}

/// Reads a package.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn read(mut file: impl Read + Seek) -> Result<Control, String> {
    let length = file.seek(SeekFrom::End(0)).map_err(|error| error.to_string())?;
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    let mut magic = [0; 8];
    fill(&mut file, &mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err("not a Debian package (no ar archive)".into());
    }
    let version = Member::next(&mut file, 8, length)?.ok_or("truncated: nothing in it")?;
    if version.name != "debian-binary" {
        return Err(format!("not a Debian package (first member is {:?})", version.name));
    }
    let mut text = vec![0; usize::try_from(version.size.min(16)).expect("at most 16")];
    fill(&mut file, &mut text)?;
    if !text.starts_with(b"2.") {
        return Err("unknown package format version".into());
    }
    let mut position = version.end();
    let mut control = None;
    let mut has_data = false;
    while let Some(member) = Member::next(&mut file, position, length)? {
        position = member.end();
        if let Some(packing) = member.name.strip_prefix("control.tar") {
            if control.is_some() || has_data {
                return Err("control archive out of place".into());
            }
            let bytes = (&mut file).take(member.size);
            control = Some(control_file(packing, bytes)?);
        } else if member.name.starts_with("data.tar") {
            if control.is_none() || has_data {
                return Err("data archive out of place".into());
            }
            has_data = true;
        }
    }
    if !has_data {
        return Err("truncated: no data archive".into());
    }
    parse(&control.expect("data comes after control"), version.modified)
}

struct Member {
    name: String,
    modified: u64,
    start: u64,
    size: u64,
}

impl Member {
    /// Reads the header at `position`; `None` at the end of the archive.
    fn next(file: &mut (impl Read + Seek), position: u64, length: u64) -> Result<Option<Self>, String> {
        if position >= length {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(position)).map_err(|error| error.to_string())?;
        let mut header = [0; 60];
        fill(file, &mut header)?;
        if &header[58..] != b"`\n" {
            return Err("damaged: no archive member where one should be".into());
        }
        let text = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&header[range]).map(str::trim_end).map_err(|_| "damaged: archive header is no text")
        };
        let name = text(0..16)?.trim_end_matches('/').to_owned();
        let number = |range| -> Result<u64, String> {
            let digits = text(range)?;
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                digits.parse().map_err(|_| "damaged: bad number in an archive header".into())
            } else {
                Err("damaged: bad number in an archive header".into())
            }
        };
        let (modified, size) = (number(16..28)?, number(48..58)?);
        let start = position + 60;
        if size > length - start {
            return Err(format!("truncated: {name} should have {size} bytes, {} are there", length - start));
        }
        Ok(Some(Self { name, modified, start, size }))
    }

    fn end(&self) -> u64 {
        self.start + self.size + self.size % 2
    }
}

fn fill(file: &mut impl Read, buffer: &mut [u8]) -> Result<(), String> {
    file.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "truncated".to_owned(),
        _ => error.to_string(),
    })
}

fn control_file(packing: &str, bytes: impl Read) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("control archive: {error}");
    let packing =
        Packing::of_suffix(packing).ok_or_else(|| format!("control archive: unknown compression {packing:?}"))?;
    find_control(packing.reader(bytes).map_err(failed)?)
}

fn find_control(unpacked: impl Read) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("control archive: {error}");
    let mut archive = tar::Archive::new(unpacked.take(MAX_CONTROL_TAR));
    for entry in archive.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path_bytes();
        if matches!(path.as_ref(), b"control" | b"./control") {
            if !entry.header().entry_type().is_file() {
                return Err("control archive: control is not a file".into());
            }
            return crate::files::read_to_limit(entry, MAX_CONTROL).map_err(failed);
        }
    }
    Err("control archive: no control file in it".into())
}

/// Fields that an index adds; a package's own would contradict them.
const INDEX_FIELDS: [&str; 6] = ["filename", "size", "md5sum", "sha1", "sha256", "sha512"];

fn parse(control: &[u8], built: u64) -> Result<Control, String> {
    let text = std::str::from_utf8(control).map_err(|_| "control file: not UTF-8".to_owned())?;
    let mut fields: Vec<(String, &str)> = Vec::new();
    let mut stanza = String::with_capacity(text.len());
    let mut keep = false;
    for line in text.trim_end_matches('\n').split('\n') {
        if line.contains(['\r', '\0']) {
            return Err("control file: carriage return or NUL in it".into());
        }
        if line.starts_with([' ', '\t']) {
            if fields.is_empty() || line.trim().is_empty() {
                return Err("control file: stray continuation line".into());
            }
        } else {
            let (name, value) = line.split_once(':').ok_or("control file: a line is no field")?;
            let graphic = |b: u8| b.is_ascii_graphic();
            if name.is_empty() || name.starts_with(['-', '#']) || !name.bytes().all(graphic) {
                return Err("control file: bad field name".into());
            }
            let lower = name.to_ascii_lowercase();
            if fields.iter().any(|(other, _)| *other == lower) {
                return Err(format!("control file: {name} is there twice"));
            }
            keep = !INDEX_FIELDS.contains(&lower.as_str());
            fields.push((lower, value.trim()));
        }
        if keep {
            stanza.push_str(line);
            stanza.push('\n');
        }
    }
    let field = |name: &str| fields.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
    let need = |name: &str, allowed: &[u8]| -> Result<String, String> {
        let value = field(name).ok_or_else(|| format!("control file: no {name} field"))?;
        let first = value.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && value.len() <= 200 && value.bytes().all(|b| b.is_ascii_alphanumeric() || allowed.contains(&b)) {
            Ok(value.to_owned())
        } else {
            Err(format!("control file: bad {name} {value:?}"))
        }
    };
    Ok(Control {
        package: need("package", b"+.-")?,
        version: need("version", b".+:~-")?,
        architecture: need("architecture", b"-")?,
        section: field("section").map(str::to_owned),
        built,
        stanza,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    /// Makes a package in memory; `packing` is the control archive's suffix.
    pub(crate) fn make(control: &str, packing: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(control.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, "./control", control.as_bytes()).expect("memory takes it");
        let tar = tar.into_inner().expect("memory takes it");
        let packed = match packing {
            "" => tar,
            ".gz" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            ".xz" => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(&tar).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            ".zst" => zstd::encode_all(&tar[..], 1).expect("memory takes it"),
            other => panic!("no packing {other}"),
        };
        let mut deb = b"!<arch>\n".to_vec();
        let control_name = format!("control.tar{packing}");
        for (name, content) in
            [("debian-binary", &b"2.0\n"[..]), (&control_name, &packed), ("data.tar", &[7u8; 333][..])]
        {
            writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 1_600_000_000, 0, 0, "100644", content.len())
                .expect("memory takes it");
            deb.extend_from_slice(content);
            if content.len() % 2 == 1 {
                deb.push(b'\n');
            }
        }
        deb
    }

    const CONTROL: &str = "Package: st-one\nVersion: 1:2.0-1\nArchitecture: amd64\nSection: admin\nSize: 3\nFilename: ../../x\n \
                           more\nDescription: one\n two\n .\n three\n";

    #[test]
    fn every_packing_gives_the_same_stanza() {
        for packing in ["", ".gz", ".xz", ".zst"] {
            let control = read(Cursor::new(make(CONTROL, packing))).expect("a package");
            assert_eq!((control.package.as_str(), control.version.as_str()), ("st-one", "1:2.0-1"));
            assert_eq!(control.built, 1_600_000_000);
            assert_eq!(
                control.stanza,
                "Package: st-one\nVersion: 1:2.0-1\nArchitecture: amd64\nSection: admin\n\
                 Description: one\n two\n .\n three\n"
            );
        }
    }

    #[test]
    fn a_package_cut_anywhere_is_refused() {
        let whole = make(CONTROL, ".xz");
        // The archive's last byte is padding.
        for length in 0..whole.len() - 1 {
            assert!(read(Cursor::new(&whole[..length])).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_control_file_cannot_smuggle_a_second_stanza() {
        for control in [
            "Package: a\nVersion: 1\nArchitecture: all\n\nPackage: b\nVersion: 1\nArchitecture: all\n",
            "Package: a\nVersion: 1\nArchitecture: all\n \nX: y\n",
            "Package: a\nVersion: 1\nArchitecture: all\nPackage: b\n",
            "Package: ../../a\nVersion: 1\nArchitecture: all\n",
            "Package: a\nVersion: 1/../..\nArchitecture: all\n",
            "Package: a\nVersion: 1\nArchitecture: a/b\n",
            "Package: a\nVersion: 1\n",
            " Package: a\n",
            "",
        ] {
            assert!(read(Cursor::new(make(control, ""))).is_err(), "{control:?}");
        }
    }

    #[test]
    fn an_unpacked_bomb_ends_at_the_limit() {
        let mut control = String::from("Package: a\nVersion: 1\nArchitecture: all\nDescription: x");
        control.push_str(&"y".repeat(2 << 20));
        assert!(read(Cursor::new(make(&control, ".xz"))).expect_err("refused").contains("larger"));
    }
}
