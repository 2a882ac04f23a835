//! Relations and versions of Debian packages (Policy 5.6.12 and 7.1).

use std::cmp::Ordering;

/// One alternative of a dependency, or one provided name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    /// Package or virtual package.
    pub(crate) name: &'a str,
    /// `any`, `native` or an architecture.
    pub(crate) arch: Option<&'a str>,
    /// Operator and version.
    pub(crate) version: Option<(Operator, &'a str)>,
}

/// How versions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Operator {
    /// Whether `version` is as `bound` demands.
    pub(crate) fn holds(self, order: Ordering) -> bool {
        match self {
            Operator::Earlier => order.is_lt(),
            Operator::EarlierOrEqual => order.is_le(),
            Operator::Equal => order.is_eq(),
            Operator::LaterOrEqual => order.is_ge(),
            Operator::Later => order.is_gt(),
        }
    }
}

impl<'a> Relation<'a> {
    /// Parses one alternative; `None` for what is none.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|c: char| c.is_whitespace() || "([<".contains(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let (name, arch) = match name.split_once(':') {
            Some((name, arch)) => (name, Some(arch)),
            None => (name, None),
        };
        if name.is_empty() {
            return None;
        }
        let version = match rest.trim_start().strip_prefix('(') {
            None => None,
            Some(inner) => {
                let inner = inner.split_once(')')?.0.trim();
                let split = inner.find(|c: char| !"<>=".contains(c))?;
                let operator = match &inner[..split] {
                    "<<" => Operator::Earlier,
                    "<=" | "<" => Operator::EarlierOrEqual,
                    "=" => Operator::Equal,
                    ">=" | ">" => Operator::LaterOrEqual,
                    ">>" => Operator::Later,
                    _ => return None,
                };
                Some((operator, inner[split..].trim()))
            }
        };
        Some(Self { name, arch, version })
    }

    /// Returns the alternatives of a dependency.
    pub(crate) fn alternatives(dependency: &'a str) -> impl Iterator<Item = Relation<'a>> {
        dependency.split('|').filter_map(Relation::parse)
    }

    /// Whether a package of this version, or a provided name with this version, is what is meant.
    pub(crate) fn accepts(&self, version: Option<&str>) -> bool {
        match (self.version, version) {
            (None, _) => true,
            // A name that is provided without a version meets no demand for one.
            (Some(_), None) => false,
            (Some((operator, bound)), Some(version)) => operator.holds(compare(version, bound)),
        }
    }
}

/// Returns the dependencies of a field, each with all its alternatives.
pub(crate) fn dependencies(field: &str) -> impl Iterator<Item = &str> {
    field.split(',').map(str::trim).filter(|dependency| !dependency.is_empty())
}

/// Compares versions as dpkg does.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (epoch_a, upstream_a, revision_a) = split(a);
    let (epoch_b, upstream_b, revision_b) = split(b);
    numbers(epoch_a, epoch_b)
        .then_with(|| part(upstream_a.as_bytes(), upstream_b.as_bytes()))
        .then_with(|| part(revision_a.as_bytes(), revision_b.as_bytes()))
}

fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch, upstream, revision)
}

/// Compares runs of digits of any length.
fn numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// A tilde is before the end, letters are before everything else.
fn rank(byte: Option<&u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

fn part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let digit = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
    while !a.is_empty() || !b.is_empty() {
        while (!a.is_empty() && !digit(a)) || (!b.is_empty() && !digit(b)) {
            match rank(a.first()).cmp(&rank(b.first())) {
                Ordering::Equal => {
                    a = a.get(1..).unwrap_or_default();
                    b = b.get(1..).unwrap_or_default();
                }
                order => return order,
            }
        }
        let length = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits_a, rest_a) = a.split_at(length(a));
        let (digits_b, rest_b) = b.split_at(length(b));
        let text = |digits| std::str::from_utf8(digits).expect("digits are ASCII");
        match numbers(text(digits_a), text(digits_b)) {
            Ordering::Equal => (a, b) = (rest_a, rest_b),
            order => return order,
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let order = [
            "0~~",
            "0~~a",
            "0~",
            "0",
            "0+b1",
            "0.1~rc1",
            "0.1",
            "0.1-1~bpo1",
            "0.1-1",
            "0.1-1+b1",
            "0.1-10",
            "0.1a",
            "0.1.2",
            "1.0~rc1-1",
            "1.0-1",
            "1.0+dfsg-1",
            "9",
            "10",
            "1:0",
            "1:0.1",
            "2:0",
        ];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(compare("1.0", "0:1.0-0"), Ordering::Equal);
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare("18446744073709551617", "18446744073709551616"), Ordering::Greater);
    }

    #[test]
    fn relations_are_read() {
        let relation = Relation::parse(" libc6:any (>= 2.36)").expect("a relation");
        assert_eq!((relation.name, relation.arch), ("libc6", Some("any")));
        assert!(relation.accepts(Some("2.36-9")) && !relation.accepts(Some("2.36~rc")) && !relation.accepts(None));
        let plain = Relation::parse("awk [linux-any] <!nocheck>").expect("a relation");
        assert!(plain.version.is_none() && plain.accepts(None));
        assert_eq!(Relation::alternatives("a | b(<< 1) |c").map(|r| r.name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(dependencies("a, b | c,\n d,").collect::<Vec<_>>(), ["a", "b | c", "d"]);
        assert!(Relation::parse("a (~ 1)").is_none());
    }
}
