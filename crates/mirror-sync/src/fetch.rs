//! Bounded downloads over HTTP for a node: connect, stall and total limits, retries with back-off.

use std::time::Duration;

use toolkit::backoff::Backoff;

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::files;

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// Downloads from one mirror.
pub(crate) struct Fetcher {
    agent: ureq::Agent,
    retries: u32,
}

impl Fetcher {
    /// Prepares a connection pool with the limits.
    pub(crate) fn new(limits: &Limits) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT.min(limits.total)))
            .timeout_recv_response(Some(limits.stall))
            .timeout_per_read(Some(limits.stall))
            .timeout_global(Some(limits.total))
            .http_status_as_error(false)
            .user_agent(concat!("mirror-sync/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), retries: limits.retries }
    }

    /// Returns the content of a URL, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Unavailable`], whatever the mirror answered instead.
    pub(crate) fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut last = String::new();
        for attempt in 0..=self.retries {
            if attempt > 0 {
                std::thread::sleep(backoff.next_delay());
            }
            match self.once(url, limit) {
                Ok(bytes) => return Ok(bytes),
                Err((message, again)) => {
                    last = message;
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(Error::unavailable(url, last))
    }

    /// One attempt; the flag tells whether another could help.
    fn once(&self, url: &str, limit: u64) -> std::result::Result<Vec<u8>, (String, bool)> {
        let mut response = self.agent.get(url).call().map_err(|error| (error.to_string(), true))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err((format!("the mirror answered {}", response.status()), status >= 500 || status == 429));
        }
        files::read_to_limit(response.body_mut().as_reader(), limit).map_err(|error| {
            let again = error.kind() != std::io::ErrorKind::FileTooLarge;
            (error.to_string(), again)
        })
    }
}
