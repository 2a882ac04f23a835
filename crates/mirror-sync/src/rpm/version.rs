//! Versions of RPM packages, compared as rpm does.

use std::cmp::Ordering;

/// Epoch, version and release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evr {
    /// Epoch; none is 0.
    pub(crate) epoch: u32,
    /// Version.
    pub(crate) version: String,
    /// Release; absent in many dependencies.
    pub(crate) release: Option<String>,
}

impl Evr {
    /// Parses `EPOCH:VERSION-RELEASE`.
    pub(crate) fn parse(text: &str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, text),
        };
        let (version, release) = match rest.rsplit_once('-') {
            Some((version, release)) => (version, Some(release.to_owned())),
            None => (rest, None),
        };
        Self { epoch, version: version.to_owned(), release }
    }

    /// Compares; a release counts only where both have one.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let releases = match (&self.release, &other.release) {
            (Some(a), Some(b)) => compare(a, b),
            _ => Ordering::Equal,
        };
        self.epoch.cmp(&other.epoch).then_with(|| compare(&self.version, &other.version)).then(releases)
    }
}

impl std::fmt::Display for Evr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.epoch != 0 {
            write!(f, "{}:", self.epoch)?;
        }
        f.write_str(&self.version)?;
        match &self.release {
            Some(release) => write!(f, "-{release}"),
            None => Ok(()),
        }
    }
}

/// Compares segments of digits and of letters; `~` is before everything, `^` after the end but before the rest.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let separator = |byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'~' | b'^'));
        let skip = |text: &[u8]| text.iter().take_while(|byte| separator(byte)).count();
        a = &a[skip(a)..];
        b = &b[skip(b)..];
        for (mark, absent) in [(b'~', Ordering::Less), (b'^', Ordering::Greater)] {
            let (in_a, in_b) = (a.first() == Some(&mark), b.first() == Some(&mark));
            match (in_a, in_b) {
                (true, true) => break,
                // A caret is after the end of the other, but before whatever else comes there.
                (true, false) => return if mark == b'^' && !b.is_empty() { Ordering::Less } else { absent },
                (false, true) => {
                    return if mark == b'^' && !a.is_empty() { Ordering::Greater } else { absent.reverse() };
                }
                (false, false) => {}
            }
        }
        if matches!(a.first(), Some(b'~' | b'^')) {
            a = &a[1..];
            b = &b[1..];
            continue;
        }
        let (Some(first_a), Some(first_b)) = (a.first(), b.first()) else { return a.len().cmp(&b.len()) };
        let digits = first_a.is_ascii_digit();
        if digits != first_b.is_ascii_digit() {
            return if digits { Ordering::Greater } else { Ordering::Less };
        }
        let same = |byte: &u8| if digits { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
        let take = |text: &[u8]| text.iter().take_while(|byte| same(byte)).count();
        let (part_a, rest_a) = a.split_at(take(a));
        let (part_b, rest_b) = b.split_at(take(b));
        let order = if digits {
            let bare = |text: &[u8]| text.iter().take_while(|byte| **byte == b'0').count();
            let (part_a, part_b) = (&part_a[bare(part_a)..], &part_b[bare(part_b)..]);
            part_a.len().cmp(&part_b.len()).then_with(|| part_a.cmp(part_b))
        } else {
            part_a.cmp(part_b)
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_rpm_orders_them() {
        let order = ["1.0~rc1", "1.0~rc1^git1", "1.0", "1.0^git1~pre", "1.0^git1", "1.0a", "1.0.1", "1.1", "1.10", "2"];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(compare("1_0", "1.0"), Ordering::Equal);
        assert_eq!(compare("1.010", "1.10"), Ordering::Equal);
        assert_eq!(Evr::parse("1:2-3").compare(&Evr::parse("2-4")), Ordering::Greater);
        assert_eq!(Evr::parse("2-3").compare(&Evr::parse("2")), Ordering::Equal);
        assert_eq!(Evr::parse("0:2.0-1.el9").to_string(), "2.0-1.el9");
    }
}
