//! `import` and `export`: data files to Consul's key-value store and back.
//!
//! Both sides are read into a [`Side`]: values by level and key. A level is a data file without its ending, and the
//! folder of the same name below the prefix: `common.yaml` and `hiera/common/`. What differs is then said, written,
//! or both. Nothing is written before everything has been read and found to be sound, and nothing is removed unless
//! that is asked for. `files` knows data files, `store` the key-value store.
//!
//! A value is written in the level's format such that reading it there gives the same value; what has no such form is
//! refused by name before anything is written. Consul takes 64 writes or 512 KiB at once: a larger import is several
//! transactions, and says so. Each write expects the key as it was read, so that a change made meanwhile ends the
//! import instead of being lost.

mod files;
mod store;

use std::collections::BTreeMap;

use toolkit::{Io, exit};

use crate::cli::Transfer;
use crate::consul::{Access, Format, Layout};
use crate::error::Error;
use crate::value::Value;

/// Values by level and key. The level of a single file has no name.
type Side = BTreeMap<(String, String), Value>;

/// How values are kept in Consul.
struct Form {
    /// Ends with a slash.
    prefix: String,
    format: Format,
    layout: Layout,
}

impl Form {
    fn of(args: &Transfer) -> Result<Form, Error> {
        let mut prefix = args.prefix.clone();
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        if prefix.split('/').rev().skip(1).any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::Argument(format!("--prefix '{}' cannot be a folder of Consul", args.prefix)));
        }
        let layout = match (&args.document, args.folders) {
            (Some(name), _) if !is_part(name) => {
                return Err(Error::Argument(format!("--document '{name}' cannot be the name of a key")));
            }
            (Some(name), _) => Layout::Document(name.clone()),
            (None, true) => Layout::Folders,
            (None, false) => Layout::Keys,
        };
        Ok(Form { prefix, format: args.format, layout })
    }

    /// Returns the folder of a level.
    fn folder(&self, level: &str) -> String {
        if level.is_empty() { self.prefix.clone() } else { format!("{}{level}/", self.prefix) }
    }
}

/// Tells whether this can be a part of a key between slashes, and of a path.
fn is_part(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '\0'])
}

/// One difference: what is there, and what shall be.
struct Difference<'a> {
    level: &'a str,
    key: &'a str,
    before: Option<&'a Value>,
    after: Option<&'a Value>,
}

/// Compares what is there with what shall be; what only is there comes last.
fn compare<'a>(before: &'a Side, after: &'a Side) -> Vec<Difference<'a>> {
    let mut all = Vec::new();
    for ((level, key), value) in after {
        let old = before.get(&(level.clone(), key.clone()));
        // As text too, so that the order of a hash counts.
        if old.is_none_or(|old| old != value || old.inspect() != value.inspect()) {
            all.push(Difference { level, key, before: old, after: Some(value) });
        }
    }
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    all.extend(gone.map(|((level, key), value)| Difference { level, key, before: Some(value), after: None }));
    all
}

/// Says what differs, with its values.
fn show(differences: &[Difference], form: &Form, delete: bool, io: &mut Io) -> Result<(), Error> {
    let text = |value: Option<&Value>| {
        value.map(|value| value.to_json().unwrap_or_else(|| value.inspect())).unwrap_or_default()
    };
    for difference in differences {
        let name = exit::one_line(&format!("{}{}", form.folder(difference.level), difference.key));
        let (before, after) = (text(difference.before), text(difference.after));
        let line = match (difference.before, difference.after) {
            (None, _) => format!("+ {name}: {after}\n"),
            (Some(_), Some(_)) => format!("~ {name}: {before} -> {after}\n"),
            (Some(_), None) if delete => format!("- {name}: {before}\n"),
            (Some(_), None) => format!("  {name}: {before} (kept: --delete removes it)\n"),
        };
        io.out(line).map_err(Error::Write)?;
    }
    Ok(())
}

/// Says what was or would be done: the numbers, and in how many steps.
fn summary(differences: &[Difference], delete: bool, dry: bool, how: &str, io: &mut Io) {
    let count = |wanted: &dyn Fn(&Difference) -> bool| differences.iter().filter(|d| wanted(d)).count();
    let added = count(&|d| d.before.is_none());
    let changed = count(&|d| d.before.is_some() && d.after.is_some());
    let gone = count(&|d| d.after.is_none());
    let (verb, gone) = match (dry, delete) {
        (true, true) => ("would be ", format!("{gone} would be removed")),
        (false, true) => ("", format!("{gone} removed")),
        (dry, false) => (if dry { "would be " } else { "" }, format!("{gone} more are kept")),
    };
    io.note(format!("{added} values {verb}added, {changed} {verb}changed, {gone}{how}"));
}

/// Returns what a run without a write ends with.
fn verdict(differences: &[Difference], delete: bool) -> u8 {
    let differs = differences.iter().any(|d| d.after.is_some() || delete);
    if differs { exit::NO } else { exit::OK }
}

/// Runs `import`.
pub(crate) fn import(args: &Transfer, access: &Access, io: &mut Io) -> Result<u8, Error> {
    let form = Form::of(args)?;
    let files = files::Files::open(&args.path, &form)?;
    if !files.exists() {
        return Err(Error::Read {
            path: args.path.clone(),
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such file or directory"),
        });
    }
    let wanted = files.read()?;
    for ((level, key), value) in &wanted {
        if value.is_encrypted() {
            io.warn(format!("{}{key} is encrypted by eyaml: looking it up will be refused", form.folder(level)));
        }
    }
    let store = store::Store::open(access, &form)?;
    let there = store.read(files.is_single())?;
    let differences = compare(&there.side, &wanted);
    if args.diff {
        show(&differences, &form, args.delete, io)?;
    }
    let steps = store.plan(&there, &differences, args.delete)?;
    let how = match steps.len() {
        0 | 1 => String::new(),
        n => format!(", in {n} transactions: who reads meanwhile may see some of them without the others"),
    };
    if args.dry_run {
        summary(&differences, args.delete, true, &how, io);
        return Ok(verdict(&differences, args.delete));
    }
    store.apply(&steps)?;
    summary(&differences, args.delete, false, &how, io);
    Ok(exit::OK)
}

/// Runs `export`.
pub(crate) fn export(args: &Transfer, access: &Access, io: &mut Io) -> Result<u8, Error> {
    let form = Form::of(args)?;
    let files = files::Files::open(&args.path, &form)?;
    let store = store::Store::open(access, &form)?;
    let wanted = store.read(files.is_single())?.side;
    let there = if files.exists() { files.read()? } else { Side::new() };
    let differences = compare(&there, &wanted);
    if args.diff {
        show(&differences, &form, args.delete, io)?;
    }
    let changes = files.plan(&there, &wanted, args.delete)?;
    if args.dry_run {
        summary(&differences, args.delete, true, "", io);
        return Ok(verdict(&differences, args.delete));
    }
    files.apply(&changes)?;
    summary(&differences, args.delete, false, &format!(", in {} files", changes.len()), io);
    Ok(exit::OK)
}
