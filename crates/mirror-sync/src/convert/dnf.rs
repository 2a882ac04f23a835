//! dnf's files: sections of `KEY=VALUE`, values going on in indented lines.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Entry, Found, Settings, keyring_of};

struct Section<'a> {
    line: usize,
    id: &'a str,
    values: BTreeMap<&'a str, String>,
}

/// Reads a `*.repo`.
pub(super) fn read(text: &str, settings: &Settings<'_>) -> Found {
    let mut found = Vec::new();
    let mut sections: Vec<Section<'_>> = Vec::new();
    let mut last = None;
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: &str| (number + 1, Err(why.to_owned()));
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            continue;
        }
        if let Some(id) = plain.strip_prefix('[') {
            match id.split_once(']') {
                Some((id, _)) => sections.push(Section { line: number + 1, id, values: BTreeMap::new() }),
                None => found.push(wrong("its [ has no ]")),
            }
            last = None;
            continue;
        }
        let Some(section) = sections.last_mut() else {
            found.push(wrong("it stands before the first section"));
            continue;
        };
        if let (true, Some(key)) = (line.starts_with([' ', '\t']), last) {
            let value: &mut String = section.values.entry(key).or_default();
            value.push(' ');
            value.push_str(plain);
        } else if let Some((key, value)) = plain.split_once('=') {
            let key = key.trim_end();
            section.values.insert(key, value.trim_start().to_owned());
            last = Some(key);
        } else {
            found.push(wrong("it is no KEY=VALUE"));
        }
    }
    // The settings of dnf itself, where somebody keeps both in one file.
    let repositories = sections.iter().filter(|section| section.id != "main");
    found.extend(repositories.map(|section| (section.line, entry(section, settings))));
    found.sort_by_key(|(line, _)| *line);
    found
}

fn entry(section: &Section<'_>, settings: &Settings<'_>) -> Result<Entry, String> {
    let value = |key: &str| section.values.get(key).map(String::as_str).unwrap_or_default();
    let (id, off) = (section.id, ["0", "no", "false"]);
    if off.contains(&value("enabled").to_ascii_lowercase().as_str()) {
        return Err(format!("{id} is switched off (enabled)"));
    }
    let machine = match settings.architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "ppc64el" => "ppc64le",
        other => other,
    };
    let expand = |text: &str| {
        let mut text = text.to_owned();
        for (name, value) in [("basearch", Some(machine)), ("arch", Some(machine)), ("releasever", settings.releasever)]
        {
            if let Some(value) = value {
                text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
            }
        }
        match text.find('$') {
            None => Ok(text),
            Some(at) => {
                let end = text[at..].find('/').map_or(text.len(), |end| at + end);
                let hint = if text[at..].contains("releasever") { "; next: --releasever" } else { "" };
                Err(format!("{id} names {}, which is not known here{hint}", &text[at..end]))
            }
        }
    };
    let words = |key: &str| -> Vec<String> {
        value(key).split([' ', '\t', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let mut addresses = words("baseurl").iter().map(|url| expand(url)).collect::<Result<Vec<_>, _>>()?.into_iter();
    let Some(url) = addresses.next() else {
        return Err(format!(
            "{id} has no baseurl; next: name one of the servers that its mirrorlist or metalink lists"
        ));
    };
    let trimmed = |url: String| url.trim_end_matches('/').to_owned();
    Ok(Entry {
        name: id.to_owned(),
        format: "rpm",
        url: trimmed(url),
        mirrors: addresses.map(trimmed).collect(),
        suites: Vec::new(),
        components: Vec::new(),
        architectures: vec![machine.to_owned(), "noarch".to_owned()],
        keyring: keyring(&words("gpgkey"), id, &expand, settings)?,
        fingerprints: Vec::new(),
    })
}

/// Returns the file with its keys. Those that would have to be fetched are for the operator to look at first.
fn keyring(
    keys: &[String],
    id: &str,
    expand: &impl Fn(&str) -> Result<String, String>,
    settings: &Settings<'_>,
) -> Result<PathBuf, String> {
    match keys {
        [one] if one.starts_with("file:///") => Ok(PathBuf::from(&expand(one)?["file://".len()..])),
        _ if settings.keyring.is_some() => keyring_of(settings),
        [] => keyring_of(settings).map_err(|why| format!("{id}: {why}")),
        [_] => Err(format!("{id} has its keys at an address; next: fetch them, look at them, and say --keyring FILE")),
        _ => Err(format!("{id} names several files with keys; next: --keyring FILE with all of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections() {
        let text = "before=1\n[main]\ngpgcheck=1\n# words\n[base]\nname=Base $releasever\nbaseurl=http://h/$releasever/$basearch/os/\n  \
            http://i/${releasever}/os/\ngpgkey=file:///k-$releasever\nenabled=1\n[off]\nbaseurl=http://h\nenabled = 0\n\
            [list]\nmirrorlist=http://h/list\ngpgkey=file:///k\n[far]\nbaseurl=http://h\ngpgkey=https://h/key\nwords\n[odd]\nbaseurl=http://h/$stream/x\n";
        let shown = |settings: &Settings<'_>| -> Vec<String> {
            let show = |(line, entry): (usize, Result<Entry, String>)| match entry {
                Ok(entry) => {
                    let (name, arches) = (&entry.name, entry.architectures.join(","));
                    format!(
                        "{line} {name} {} {} {arches} {}",
                        entry.url,
                        entry.mirrors.join(","),
                        entry.keyring.display()
                    )
                }
                Err(why) => format!("{line} {why}"),
            };
            read(text, settings).into_iter().map(show).collect()
        };
        let settings = Settings { architecture: "amd64", keyring: None, releasever: Some("9") };
        let found = shown(&settings);
        let lines: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(
            lines,
            [
                "1 it stands before the first section",
                "5 base http://h/9/x86_64/os http://i/9/os x86_64,noarch /k-9",
                "11 off is switched off (enabled)",
                "14 list has no baseurl; next: name one of the servers that its mirrorlist or metalink lists",
                "17 far has its keys at an address; next: fetch them, look at them, and say --keyring FILE",
                "20 it is no KEY=VALUE",
                "21 odd names $stream, which is not known here",
            ]
        );
        let unknown = shown(&Settings { releasever: None, ..settings });
        assert_eq!(unknown[1], "5 base names $releasever, which is not known here; next: --releasever");
    }
}
