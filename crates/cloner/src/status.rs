//! `--status` and `--verify`: what is placed, and whether it is still what was placed.

use std::path::PathBuf;

use crate::dest;
use crate::fault::{Cause, Fault};
use crate::git::Want;
use crate::manifest::Repo;
use crate::place::{self, Site};
use crate::record::Occupied;
use crate::report::{Line, State};
use crate::tree::Depth;

/// Looks at one place, without the network.
pub(crate) fn look(site: &Site, repo: &Repo, dest: &Result<PathBuf, Fault>, depth: Depth) -> Line {
    let dest = match dest {
        Ok(dest) => dest,
        Err(fault) => return Line::failed(repo, None, fault.clone()),
    };
    if let Err(why) = dest::check_path(&site.root, dest) {
        return Line::failed(repo, None, Fault::new(Cause::LocalChanges, why));
    }
    match site.records.look(&site.root, dest, depth) {
        Err(err) => Line::failed(repo, None, Fault::disk(&site.root.join(dest), &err)),
        Ok(Occupied::No) => Line::new(repo, State::Absent, None, None),
        Ok(Occupied::Foreign) => Line::new(repo, State::Foreign, None, None),
        Ok(Occupied::Changed(record, changes)) => {
            Line::new(repo, State::Changed, Some(record.sha), None).message(place::summary(&changes))
        }
        Ok(Occupied::Clean(record)) => {
            let pinned = match Want::parse(repo.reference.as_deref()) {
                Ok(Want::Commit(oid)) => record.sha == oid.to_string(),
                _ => record.reference == repo.reference,
            };
            let old = Some(record.sha.clone());
            if pinned && !record.fits_submodules(repo.submodules) {
                let how = if record.left_out { "without" } else { "with" };
                Line::new(repo, State::Outdated, old, None).message(format!("placed {how} its submodules"))
            } else if pinned {
                Line::new(repo, State::Clean, Some(record.sha.clone()), Some(record.sha))
            } else {
                let was = record.reference.as_deref().unwrap_or("HEAD").to_owned();
                Line::new(repo, State::Outdated, old, None).message(format!("placed for ref {was}"))
            }
        }
    }
}
