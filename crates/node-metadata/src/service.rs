//! The metadata service of the cloud.

use std::time::{Duration, Instant};

use toolkit::backoff::Backoff;
use toolkit::{Io, redact};

use crate::error::Error;
use crate::source::LIMIT;

/// The link-local address that clouds answer on.
pub const DEFAULT_URL: &str = "http://169.254.169.254";
const DOCUMENT: &str = "/openstack/latest/meta_data.json";
const ONE_ATTEMPT: Duration = Duration::from_secs(5);

/// What the service had to say.
#[derive(Debug)]
pub enum Answer {
    /// A document.
    Document(Vec<u8>),
    /// The service is there and has no metadata for us.
    None {
        /// The status it answered with.
        status: u16,
    },
    /// The service did not answer in time.
    Silent {
        /// How often it was asked.
        attempts: u32,
        /// What happened last.
        reason: String,
    },
}

/// How long to keep asking.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// Another source can answer.
    Once,
    /// Nobody else can.
    Until(Instant),
}

/// Returns the address of the document, from the address of the service or of the document itself.
///
/// # Errors
/// An address of another kind than http or https.
pub fn document_url(base: &str) -> Result<String, Error> {
    let rest = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/') || rest.contains(char::is_whitespace)) {
        return Err(Error::Url { url: redact::url(base) });
    }
    let base = base.trim_end_matches('/');
    Ok(if base.ends_with(".json") {
        base.to_owned()
    } else if base.ends_with("/openstack/latest") {
        format!("{base}/meta_data.json")
    } else {
        format!("{base}{DOCUMENT}")
    })
}

/// Asks the service, again and again as far as patience goes.
///
/// # Errors
/// A document that is larger than any metadata is.
pub fn ask(url: &str, patience: Patience, io: &mut Io) -> Result<Answer, Error> {
    let mut backoff = Backoff::new(Duration::from_millis(500), ONE_ATTEMPT);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let limit = match patience {
            Patience::Once => ONE_ATTEMPT,
            Patience::Until(deadline) => {
                ONE_ATTEMPT.min(deadline.saturating_duration_since(Instant::now())).max(Duration::from_millis(100))
            }
        };
        let reason = match once(url, limit)? {
            Attempt::Document(bytes) => return Ok(Answer::Document(bytes)),
            Attempt::None(status) => return Ok(Answer::None { status }),
            Attempt::Failed(reason) => reason,
        };
        let pause = backoff.next_delay();
        match patience {
            Patience::Until(deadline) if Instant::now() + pause < deadline => {
                io.note(format_args!("{} does not answer, trying again: {reason}", redact::url(url)));
                std::thread::sleep(pause);
            }
            _ => return Ok(Answer::Silent { attempts, reason }),
        }
    }
}

enum Attempt {
    Document(Vec<u8>),
    None(u16),
    Failed(String),
}

fn once(url: &str, limit: Duration) -> Result<Attempt, Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        // Whoever answers on the link-local address must not be able to send us elsewhere.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(limit))
        .build()
        .into();
    let mut response = match agent.get(url).call() {
        Ok(response) => response,
        Err(error) => return Ok(Attempt::Failed(error.to_string())),
    };
    match response.status().as_u16() {
        200 => match response.body_mut().with_config().limit(LIMIT).read_to_vec() {
            Ok(bytes) => Ok(Attempt::Document(bytes)),
            Err(ureq::Error::BodyExceedsLimit(_)) => Err(Error::TooLarge { place: redact::url(url), limit: LIMIT }),
            Err(error) => Ok(Attempt::Failed(error.to_string())),
        },
        // The service of OpenStack answers 404 while it does not know the machine yet, too; the file of a config
        // drive or the local file is then the better answer, so this one is not waited for.
        status @ (404 | 410) => Ok(Attempt::None(status)),
        status => Ok(Attempt::Failed(format!("it answers with status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_and_document_addresses_are_both_understood() {
        let url = |base| document_url(base).expect("an address");
        let document = "http://h:1/openstack/latest/meta_data.json";
        for base in ["http://h:1", "http://h:1/", "http://h:1/openstack/latest", document] {
            assert_eq!(url(base), document);
        }
        assert_eq!(url("http://h/x/my.json"), "http://h/x/my.json");
        for wrong in ["", "h:1", "ftp://h", "http://", "http:///x", "http://a b"] {
            assert!(document_url(wrong).is_err(), "{wrong}");
        }
    }
}
