//! `check`: says what the configuration means, and whether everything that it names can be used.

use std::fmt::Write as _;

use toolkit::Io;

use crate::closed::Demands;
use crate::config::{Config, Origin, Select, Source};
use crate::error::{Error, Result};
use crate::select::catalog;
use crate::sign::{Keyring, SigningKey};

/// Explains the configuration on stdout.
///
/// # Errors
/// [`Error::Config`], [`Error::Key`] or [`Error::Denied`] for the first thing that cannot be used.
pub(crate) fn run(config: &Config, io: &mut Io) -> Result<()> {
    let mut text = String::new();
    if let Ok(root) = config.root() {
        let _ = writeln!(text, "root {}", root.display());
    }
    if let Ok(path) = config.signing_key() {
        let _ = writeln!(text, "signs with {}", SigningKey::load(path)?.fingerprint());
    }
    for source in &config.sources {
        describe(source, &mut text)?;
    }
    if let Some(closed) = &config.closed {
        for (client, paths) in [("apt", &closed.deb), ("dnf", &closed.rpm)] {
            for path in paths {
                let _ = writeln!(text, "a snapshot is refused unless {client} can install {} from it", path.display());
            }
        }
        Demands::read(config)?;
    }
    if let Ok(node) = config.node() {
        let _ = writeln!(text, "node follows channel {} of {}", node.channel, node.mirror);
    }
    io.out(text).map_err(Error::Output)
}

fn describe(source: &Source, text: &mut String) -> Result<()> {
    let _ = write!(text, "source {}: ", source.name());
    match source {
        Source::Deb(deb) => {
            let _ = write!(
                text,
                "deb, suites {}, components {}, architectures {}",
                deb.suites.join(" "),
                deb.components.join(" "),
                deb.architectures.join(" ")
            );
        }
        Source::Rpm(rpm) if rpm.architectures.is_empty() => text.push_str("rpm, all architectures"),
        Source::Rpm(rpm) => {
            let _ = write!(text, "rpm, architectures {}", rpm.architectures.join(" "));
        }
        Source::Files(files) => {
            let _ = write!(text, "{} files by digest", files.files.len());
        }
        Source::Git(git) => {
            let _ = write!(text, "git, the repositories of {}", git.manifest.display());
        }
    }
    text.push('\n');
    match source.origin() {
        None => {}
        Some(Origin::Dir(dir)) => {
            let _ = writeln!(text, "  everything in {}, with an index that the site signs", dir.display());
        }
        Some(Origin::Upstream(upstream)) => {
            for (number, url) in
                std::iter::once(upstream.url).chain(upstream.mirrors.iter().map(String::as_str)).enumerate()
            {
                let word = if number == 0 { "from" } else { "else from" };
                let _ = writeln!(text, "  {word} {}", toolkit::redact::url(url));
            }
            let (keyring, _) = Keyring::restricted(upstream.keyring, upstream.fingerprints)?;
            for (fingerprint, user) in keyring.described() {
                let _ = writeln!(text, "  signed by {fingerprint} {}", toolkit::exit::one_line(&user));
            }
            match upstream.select {
                Select::Full => text.push_str("  everything, with the upstream's own index\n"),
                Select::Closure(closure) => {
                    let follows = if closure.recommends { ", recommendations too" } else { "" };
                    let _ = writeln!(text, "  what these need{follows}, with an index that the site signs:");
                    for name in &closure.closure {
                        let _ = writeln!(text, "    {name}");
                    }
                    for path in &closure.packages {
                        for asked in catalog::read(path)? {
                            let _ = writeln!(text, "    {asked}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
