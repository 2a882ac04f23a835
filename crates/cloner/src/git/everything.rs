//! All branches and tags with their history: what a clone needs.

use git2::{Oid, Repository};

use super::commits::fetch_into;
use super::{EVERYTHING, Head, Remote, Target, old, unique};
use crate::fault::{Cause, Fault};
use crate::http::Session;
use crate::v2::Ask;

/// Fetches all branches and tags into `clone` and sets its refs, as `git clone` does. What `clone`
/// has already is not sent again.
pub(crate) fn fetch_all(
    from: Remote<'_>,
    clone: &Repository,
    heads: &[Head],
    target: &Target,
    haves: &[Oid],
) -> Result<(), Fault> {
    match from {
        Remote::Session(session) if !session.is_old() => fetch_missing(session, clone, heads, target, haves)?,
        Remote::Program(program) => {
            let mut specs = EVERYTHING.map(str::to_owned).to_vec();
            if clone.find_object(target.oid, None).is_err() && !is_everywhere(target) {
                let from = target.refname.clone().unwrap_or_else(|| target.oid.to_string());
                specs.push(format!("+{from}:refs/cloner/want"));
            }
            program.fetch(clone, &specs, false)?;
        }
        Remote::Nothing => {}
        _ => old::fetch_all(from, clone, target)?,
    }
    for head in heads {
        let name = match head.name.strip_prefix("refs/heads/") {
            Some(branch) => format!("refs/remotes/origin/{branch}"),
            None if head.name.starts_with("refs/tags/") && !head.name.ends_with("^{}") => head.name.clone(),
            None => continue,
        };
        // A remote may list what it does not send; such a ref is left out rather than broken.
        if clone.find_object(head.oid, None).is_ok() {
            clone
                .reference(&name, head.oid, true, "cloner")
                .map_err(|err| Fault::git(Cause::Ref, &format!("cannot create {name}"), &err))?;
        }
    }
    Ok(())
}

fn fetch_missing(
    session: &Session,
    clone: &Repository,
    heads: &[Head],
    target: &Target,
    haves: &[Oid],
) -> Result<(), Fault> {
    let listed = heads.iter().filter(|head| head.name.starts_with("refs/") && !head.name.ends_with("^{}"));
    let tips = unique(listed.map(|head| head.oid).chain([target.oid]));
    let wants: Vec<Oid> = tips.into_iter().filter(|oid| clone.find_object(*oid, None).is_err()).collect();
    if wants.is_empty() {
        return Ok(());
    }
    let all = fetch_into(session, clone, &Ask { wants: &wants, haves, shallow: false });
    match all {
        // It may not give away what is no tip; the caller will see that it is missing.
        Err(fault) if fault.in_answer && target.refname.is_none() && wants.len() > 1 => {
            let wants: Vec<Oid> = wants.into_iter().filter(|oid| *oid != target.oid).collect();
            fetch_into(session, clone, &Ask { wants: &wants, haves, shallow: false })
        }
        all => all,
    }
}

/// Whether the target's ref is among those that every clone has.
pub(super) fn is_everywhere(target: &Target) -> bool {
    let everywhere =
        |name: &String| name.starts_with("refs/heads/") || name.starts_with("refs/tags/") || name == "HEAD";
    target.refname.as_ref().is_some_and(everywhere)
}
