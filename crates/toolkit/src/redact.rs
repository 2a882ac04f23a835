//! Secrets that must not be shown.

/// A value that prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// Returns the secret itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Returns a URL without its user and password.
#[must_use]
pub fn url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority_end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_cut() {
        assert_eq!(url("https://me:pw@host:1/x@y"), "https://host:1/x@y");
        assert_eq!(url("https://a@b@host/x"), "https://host/x");
        assert_eq!(url("https://host/x@y"), "https://host/x@y");
        assert_eq!(url("/srv/git@x"), "/srv/git@x");
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?} {}", Secret::new("pw"), Secret::new("pw")), "[redacted] [redacted]");
    }
}
