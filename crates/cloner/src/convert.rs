//! `--convert`: the set that a manifest means, in the form of another tool.

use std::fmt::Write as _;

use crate::cli::Format;
use crate::lockfile::Lock;
use crate::manifest::Repo;
use crate::report::shown;

/// Writes `repos`, at the commits of `lock` if there is one. Names that the lock does not have are errors, as are
/// places that the form cannot say.
pub(crate) fn text(repos: &[Repo], lock: Option<&Lock>, format: Format) -> Result<String, String> {
    let mut out = String::from(match format {
        Format::Repos => "repositories:\n",
        Format::Manifest | Format::Puppetfile => "",
    });
    let mut open: Vec<&str> = Vec::new();
    for repo in repos {
        let locked =
            lock.map(|lock| lock.find(repo).ok_or_else(|| format!("the lock file has no entry of '{}'", repo.name)));
        let reference = match locked.transpose()? {
            Some((sha, _)) => Some(sha),
            None => repo.reference.as_deref(),
        };
        // Credentials are no part of what is passed on.
        let source = shown(&repo.source);
        let source = if repo.source.contains("://") { source } else { repo.source.clone() };
        // Writing to a string cannot fail.
        let _ = match format {
            Format::Manifest => manifest(&mut out, &mut open, repo, &source, reference),
            Format::Repos => {
                let version = reference.map(|text| format!("    version: {}\n", quoted(text))).unwrap_or_default();
                write!(out, "  {}:\n    type: git\n    url: {}\n{version}", quoted(&repo.dest), quoted(&source))
            }
            Format::Puppetfile => {
                let (parent, name) = repo.dest.rsplit_once('/').ok_or_else(|| {
                    format!(
                        "the place '{}' of '{}' has no directory above it, which a Puppetfile wants",
                        repo.dest, repo.name
                    )
                })?;
                let reference = reference.map(|text| format!("  :ref => {},\n", ruby(text))).unwrap_or_default();
                write!(
                    out,
                    "mod {},\n  :git => {},\n{reference}  :install_path => {}\n",
                    ruby(name),
                    ruby(&source),
                    ruby(parent)
                )
            }
        };
    }
    Ok(out)
}

/// Appends one repository in its groups; `open` are those that the text is in.
fn manifest<'a>(
    out: &mut String,
    open: &mut Vec<&'a str>,
    repo: &'a Repo,
    source: &str,
    reference: Option<&str>,
) -> std::fmt::Result {
    let mut groups: Vec<&str> = repo.path.split("::").collect();
    let name = groups.pop().unwrap_or(&repo.name);
    let same = open.iter().zip(&groups).take_while(|(a, b)| a == b).count();
    open.truncate(same);
    for group in &groups[same..] {
        writeln!(out, "{}{}:", "  ".repeat(open.len()), quoted(group))?;
        open.push(group);
    }
    let indent = "  ".repeat(open.len());
    writeln!(out, "{indent}{}:", quoted(name))?;
    let signed = repo.signed.map(|signed| signed.word());
    let submodules = (!repo.submodules).then_some("false");
    for (key, value) in [
        ("source", Some(source)),
        ("ref", reference),
        ("dest", Some(repo.dest.as_str())),
        ("submodules", submodules),
        ("signed", signed),
        ("signers", repo.signers.as_deref()),
    ] {
        if let Some(value) = value {
            writeln!(out, "{indent}  {key}: {}", quoted(value))?;
        }
    }
    Ok(())
}

/// A text in YAML: plain where that means itself, else in the quotes of JSON.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+".contains(c);
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if first && !word && text.chars().all(plain) && !text.ends_with(':') {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

fn ruby(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
