//! The known word closest to one that is not known, for "did you mean" hints.

/// Returns the candidate nearest to `word`, if one is near enough to be a likely slip.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        // Words without anything in common are as far apart as they are long.
        .filter(|(distance, candidate)| *distance <= limit && *distance < word.len().max(candidate.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insert, delete, replace, swap neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    // Far apart in length is far apart; this also bounds the table for hostile input.
    if a.len().abs_diff(b.len()) > 64 || a.len() > 512 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_a_stranger_is_not() {
        assert_eq!(nearest("desdir", ["destdir", "source", "ref"]), Some("destdir"));
        assert_eq!(nearest("fer", ["source", "ref"]), Some("ref"));
        assert_eq!(nearest("keystnoe", ["nova", "keystone"]), Some("keystone"));
        assert_eq!(nearest("zzzzzz", ["nova", "keystone"]), None);
        assert_eq!(nearest("zz", ["a"]), None);
    }
}
