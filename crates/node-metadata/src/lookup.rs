//! Dotted keys into metadata.

use serde_json::Value;

/// Returns what `key` names: in the `meta` mapping if it is there, else at the top. Null is absent.
///
/// A key that contains dots and stands there literally wins over the path that the dots describe.
#[must_use]
pub fn find<'m>(metadata: &'m Value, key: &str) -> Option<&'m Value> {
    let meta = metadata.get("meta");
    meta.and_then(|meta| descend(meta, key)).or_else(|| descend(metadata, key))
}

fn descend<'m>(node: &'m Value, key: &str) -> Option<&'m Value> {
    let here = match node {
        Value::Object(fields) => fields.get(key),
        Value::Array(items) => key.parse::<usize>().ok().and_then(|index| items.get(index)),
        _ => None,
    };
    if let Some(value) = here {
        return Some(value).filter(|value| !value.is_null());
    }
    // Each dot may end the first step, the shortest step first: keys with dots in them are found as well.
    key.match_indices('.').find_map(|(dot, _)| {
        let next = match node {
            Value::Object(fields) => fields.get(&key[..dot]),
            Value::Array(items) => key[..dot].parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        }?;
        descend(next, &key[dot + 1..])
    })
}

/// Renders a value for a shell script: scalars bare, anything else as JSON.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn meta_comes_first_and_dots_descend() {
        let metadata = json!({
            "role": "top", "name": "web", "gone": null, "launch_index": 0,
            "meta": {"role": "proxy", "a.b": "literal", "a": {"b": "path", "c.d": 1}, "empty": ""},
            "keys": [{"name": "k0"}, {"name": "k1"}],
        });
        let get = |key| find(&metadata, key).map(plain);
        assert_eq!(get("role").as_deref(), Some("proxy"));
        assert_eq!(get("meta.role").as_deref(), Some("proxy"));
        assert_eq!(get("name").as_deref(), Some("web"));
        assert_eq!(get("a.b").as_deref(), Some("literal"));
        assert_eq!(get("a.c.d").as_deref(), Some("1"));
        assert_eq!(get("keys.1.name").as_deref(), Some("k1"));
        assert_eq!(get("launch_index").as_deref(), Some("0"));
        assert_eq!(get("empty").as_deref(), Some(""));
        assert_eq!(get("keys.0").as_deref(), Some(r#"{"name":"k0"}"#));
        for absent in ["gone", "keys.2", "name.x", "meta.none", "..", "role."] {
            assert_eq!(get(absent), None, "{absent}");
        }
    }
}
