//! Dependency closure: everything that could be needed, and proof that nothing is open.
//!
//! No solver chooses: every alternative of a dependency and every package that provides it is taken, so
//! the answer is the same on any host and in any order, and a client's own solver finds its choice in it. A package whose
//! needs cannot be met is left out when there is another way, and refused by name when there is none.

use std::collections::BTreeMap;

use crate::error::Result;

/// Packages and what they need. Packages are numbers.
pub(crate) trait Universe {
    /// Returns what a package needs, each need with the packages that meet it.
    ///
    /// # Errors
    /// The index cannot be read.
    fn needs(&self, package: u32) -> Result<Vec<Need>>;

    /// Returns name and version.
    fn describe(&self, package: u32) -> String;
}

/// One need of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// As it is written.
    pub(crate) text: String,
    /// Packages that meet it.
    pub(crate) met_by: Vec<u32>,
    /// Whether the package works without.
    pub(crate) optional: bool,
}

/// A name to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// What is asked for and by whom.
    pub(crate) text: String,
    /// Packages that are meant.
    pub(crate) met_by: Vec<u32>,
}

/// A closure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// Packages, sorted.
    pub(crate) packages: Vec<u32>,
    /// What is open, one line each.
    pub(crate) open: Vec<String>,
    /// Numbers of the names that no package has.
    pub(crate) absent: Vec<usize>,
}

/// Returns the closure.
///
/// # Errors
/// An index cannot be read.
pub(crate) fn close(universe: &impl Universe, roots: &[Root]) -> Result<Closed> {
    // Everything that can be reached, with its needs.
    let mut reached: BTreeMap<u32, Vec<Need>> = BTreeMap::new();
    let mut open: Vec<u32> = roots.iter().flat_map(|root| root.met_by.iter().copied()).collect();
    while let Some(package) = open.pop() {
        if reached.contains_key(&package) {
            continue;
        }
        let mut needs = universe.needs(package)?;
        for need in &mut needs {
            open.extend(need.met_by.iter().filter(|other| !reached.contains_key(other)));
            // The words are only for what is open.
            if !need.met_by.is_empty() {
                need.text = String::new();
            }
        }
        needs.retain(|need| !(need.optional && need.met_by.is_empty()));
        reached.insert(package, needs);
    }
    // What cannot work, until nothing more follows from it.
    let mut broken: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    loop {
        let before = broken.len();
        for (package, needs) in &reached {
            if !broken.contains_key(package)
                && let Some(need) = needs
                    .iter()
                    .find(|need| !need.optional && need.met_by.iter().all(|other| broken.contains_key(other)))
            {
                broken.insert(*package, need.met_by.clone());
            }
        }
        if broken.len() == before {
            break;
        }
    }
    let mut closed = Closed::default();
    for (index, root) in roots.iter().enumerate() {
        if root.met_by.is_empty() {
            closed.absent.push(index);
        } else if root.met_by.iter().all(|package| broken.contains_key(package)) {
            closed.open.push(explain(universe, root, &reached, &broken));
        }
    }
    closed.open.sort_unstable();
    closed.open.dedup();
    // Without the broken ones some of the rest is not needed any more.
    let mut taken: BTreeMap<u32, ()> = BTreeMap::new();
    let mut open: Vec<u32> = roots.iter().flat_map(|root| root.met_by.iter().copied()).collect();
    while let Some(package) = open.pop() {
        if broken.contains_key(&package) || taken.insert(package, ()).is_some() {
            continue;
        }
        open.extend(reached[&package].iter().flat_map(|need| need.met_by.iter().copied()));
    }
    closed.packages = taken.into_keys().collect();
    Ok(closed)
}

/// Follows the first way to what is missing.
fn explain(
    universe: &impl Universe,
    root: &Root,
    reached: &BTreeMap<u32, Vec<Need>>,
    broken: &BTreeMap<u32, Vec<u32>>,
) -> String {
    let mut text = root.text.clone();
    let mut package = root.met_by[0];
    for _ in 0..20 {
        text.push_str(&format!(": {}", universe.describe(package)));
        match broken.get(&package).and_then(|next| next.first()) {
            Some(next) if *next != package => package = *next,
            _ => break,
        }
    }
    let missing: Vec<&str> = reached[&package]
        .iter()
        .filter(|need| need.met_by.is_empty() && !need.optional)
        .map(|need| need.text.as_str())
        .collect();
    format!("{text} needs {}, which no source has", missing.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs by package: `(text, met by, optional)`.
    struct Made(Vec<Vec<(&'static str, Vec<u32>, bool)>>);

    impl Universe for Made {
        fn needs(&self, package: u32) -> Result<Vec<Need>> {
            let needs = &self.0[package as usize];
            Ok(needs
                .iter()
                .map(|(text, met_by, optional)| Need {
                    text: (*text).into(),
                    met_by: met_by.clone(),
                    optional: *optional,
                })
                .collect())
        }

        fn describe(&self, package: u32) -> String {
            format!("p{package}")
        }
    }

    fn closed(universe: &Made, roots: &[(&str, Vec<u32>)]) -> Closed {
        let roots: Vec<Root> =
            roots.iter().map(|(text, met_by)| Root { text: (*text).into(), met_by: met_by.clone() }).collect();
        close(universe, &roots).expect("readable")
    }

    #[test]
    fn all_alternatives_are_taken_and_cycles_end() {
        let universe = Made(vec![
            vec![("b | c", vec![1, 2], false)],
            vec![("a", vec![0], false)],
            vec![("d", vec![3], true)],
            vec![],
            vec![],
        ]);
        assert_eq!(closed(&universe, &[("a", vec![0])]).packages, [0, 1, 2, 3]);
    }

    #[test]
    fn what_cannot_work_is_left_out_when_there_is_another_way_and_named_when_there_is_none() {
        let universe = Made(vec![
            vec![("b | c", vec![1, 2], false)],
            vec![("x", vec![], false)],
            vec![],
            vec![("b", vec![1], false), ("e", vec![4], false)],
            vec![],
        ]);
        assert_eq!(closed(&universe, &[("a", vec![0])]).packages, [0, 2]);
        let closed = closed(&universe, &[("role web", vec![3]), ("ghost", vec![])]);
        assert_eq!(closed.open, ["role web: p3: p1 needs x, which no source has"]);
        assert_eq!(closed.absent, [1]);
    }
}
