//! Finds the files of a level: joined paths and shell patterns.

use std::path::{Path, PathBuf};

/// The most files one pattern may name.
const MOST: usize = 10_000;

/// Returns the files (not directories) that match an absolute pattern, in sorted order.
///
/// Known: `*`, `?`, `[a-z]`, `{a,b}` and `**` for any number of directories. Names that begin with
/// a dot match only a pattern that begins with one.
pub(crate) fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for pattern in braces(&pattern.to_string_lossy(), 0) {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let start = if pattern.starts_with('/') { PathBuf::from("/") } else { PathBuf::from(".") };
        walk(&start, &parts, &mut found);
    }
    found
}

fn walk(base: &Path, parts: &[&str], found: &mut Vec<PathBuf>) {
    if found.len() >= MOST {
        return;
    }
    let Some((part, rest)) = parts.split_first() else {
        if base.is_file() {
            found.push(base.to_owned());
        }
        return;
    };
    if *part == "**" {
        walk(base, rest, found);
        for name in names(base) {
            let path = base.join(&name);
            // Links are not followed, so that no loop can be walked.
            if !name.starts_with('.') && path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                walk(&path, parts, found);
            }
        }
        return;
    }
    if !part.contains(['*', '?', '[', '\\']) {
        walk(&base.join(part), rest, found);
        return;
    }
    let pattern: Vec<char> = part.chars().collect();
    for name in names(base) {
        if name.starts_with('.') && !part.starts_with('.') {
            continue;
        }
        if matches(&pattern, &name.chars().collect::<Vec<_>>()) {
            walk(&base.join(&name), rest, found);
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Expands the first `{a,b}` and then the rest.
fn braces(pattern: &str, depth: usize) -> Vec<String> {
    let Some(open) = pattern.find('{').filter(|_| depth < 8) else {
        return vec![pattern.to_owned()];
    };
    let mut level = 0;
    let mut cuts = vec![open];
    for (at, c) in pattern[open..].char_indices() {
        match c {
            '{' => level += 1,
            '}' => {
                level -= 1;
                if level == 0 {
                    cuts.push(open + at);
                    break;
                }
            }
            ',' if level == 1 => cuts.push(open + at),
            _ => {}
        }
    }
    if level != 0 {
        return vec![pattern.to_owned()];
    }
    let close = cuts[cuts.len() - 1];
    cuts.windows(2)
        .flat_map(|cut| {
            let middle = &pattern[cut[0] + 1..cut[1]];
            braces(&format!("{}{middle}{}", &pattern[..open], &pattern[close + 1..]), depth + 1)
        })
        .collect()
}

/// Matches one name; the backtracking is bounded by the last `*` only.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => class(&pattern[p..], name[n]),
            Some('\\') => (pattern.get(p + 1) == Some(&name[n])).then_some(2),
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((star_p, star_n))) => {
                p = star_p + 1;
                n = star_n + 1;
                star = Some((star_p, n));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Matches a `[...]`; returns its length when `c` is in it.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('^' | '!'));
    let start = if negated { 2 } else { 1 };
    let end = (start + 1..pattern.len()).find(|at| pattern[*at] == ']')?;
    let set = &pattern[start..end];
    let mut inside = false;
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == '-' {
            inside |= set[at] <= c && c <= set[at + 2];
            at += 3;
        } else {
            inside |= set[at] == c;
            at += 1;
        }
    }
    (inside != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        let yes = |p: &str, n: &str| matches(&p.chars().collect::<Vec<_>>(), &n.chars().collect::<Vec<_>>());
        assert!(yes("*.yaml", "a.yaml") && !yes("*.yaml", "a.json"));
        assert!(yes("a[b-d]?*", "acxyz") && !yes("a[!b-d]*", "ac"));
        assert!(yes("*a*b*", "xxaxxbxx") && !yes("*a*b", "xxaxxbx"));
    }

    #[test]
    fn walks_sorted_and_skips_hidden() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["x/b.yaml", "x/a.yaml", "x/.h.yaml", "x/y/c.yaml", "x/d.json"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            std::fs::write(path, "").expect("write");
        }
        let found = |pattern: &str| -> Vec<String> {
            glob(&dir.path().join(pattern))
                .iter()
                .map(|p| p.strip_prefix(dir.path()).expect("below").display().to_string())
                .collect()
        };
        assert_eq!(found("x/*.yaml"), ["x/a.yaml", "x/b.yaml"]);
        assert_eq!(found("**/*.yaml"), ["x/a.yaml", "x/b.yaml", "x/y/c.yaml"]);
        assert_eq!(found("x/{d,a}.{json,yaml}"), ["x/d.json", "x/a.yaml"]);
    }
}
