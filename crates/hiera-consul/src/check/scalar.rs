//! Scalars that Puppet, which reads YAML 1.1, takes for something else than readers of YAML 1.2 do.

use std::sync::LazyLock;

use regex::Regex;

use crate::psych;
use crate::value::Value;

static CORE_INTEGER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$").expect("a constant pattern"));
static CORE_FLOAT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    )
    .expect("a constant pattern")
});

/// What readers of YAML 1.2 make of a plain scalar.
fn core(text: &str) -> (&'static str, String) {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ("null", String::new()),
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return ("boolean", text.to_ascii_lowercase()),
        _ => {}
    }
    if CORE_INTEGER.is_match(text) {
        let number = match (text.strip_prefix("0o"), text.strip_prefix("0x")) {
            (Some(octal), _) => i128::from_str_radix(octal, 8),
            (_, Some(hex)) => i128::from_str_radix(hex, 16),
            _ => text.trim_start_matches('+').parse(),
        };
        return ("integer", number.map_or_else(|_| text.to_owned(), |n| n.to_string()));
    }
    if CORE_FLOAT.is_match(text) {
        let number = text.trim_start_matches('+').parse::<f64>();
        return ("float", number.map_or_else(|_| text.to_ascii_lowercase(), |n| Value::Float(n).inspect()));
    }
    ("string", text.to_owned())
}

/// Says when Puppet and other readers of YAML differ about a plain scalar.
pub(super) fn ambiguous(text: &str) -> Option<String> {
    // A date is an error that loading names; an infinity is spelt in more than one way.
    let value = psych::scalar(text).ok().filter(|value| !matches!(value, Value::Float(f) if !f.is_finite()))?;
    let ours = match &value {
        Value::Null => ("null", String::new()),
        Value::Bool(_) => ("boolean", value.inspect()),
        Value::Int(_) | Value::Big(_) => ("integer", value.inspect()),
        Value::Float(_) => ("float", value.inspect()),
        Value::Symbol(name) => return Some(format!(":{name} is a symbol, which data cannot hold; quote it")),
        _ => ("string", text.to_owned()),
    };
    let theirs = core(text);
    if ours == theirs {
        return None;
    }
    let say = |(kind, value): &(&str, String)| {
        if *kind == "null" { "null".to_owned() } else { format!("the {kind} {value}") }
    };
    Some(format!("{text} is {} to Puppet and {} to others; quote it or write what is meant", say(&ours), say(&theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_that_readers_differ_about_are_found() {
        for text in ["yes", "Off", "0755", "1_000", "1,000", "12:30:45", "1e3", "0o17", ":sym", "0b11"] {
            assert!(ambiguous(text).is_some(), "{text}");
        }
        for text in [
            "true", "False", "755", "-1", "1.5", "1.5e+3", "text", "10.0.0.1", "y", "~", "", ".inf", "0", "0x1f",
            "a: b", "2024",
        ] {
            assert_eq!(ambiguous(text), None, "{text}");
        }
    }
}
