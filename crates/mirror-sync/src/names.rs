//! Names that become parts of paths, keys and URLs.

/// Checks a name: letters, digits and `._+~-`, a letter or digit first, at most 100 bytes.
///
/// # Errors
/// What is wrong with it, to be put after the name.
pub(crate) fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > 100 {
        return Err("is longer than 100 bytes");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("must start with a letter or digit");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b)) {
        return Err("may hold only letters, digits and ._+~-");
    }
    Ok(())
}
