//! Addresses of servers, asked for once a run.
//!
//! The HTTP client looks a name up for each request, also for one that an open connection serves, and in a
//! thread of its own, so that the time limit holds. A run makes hundreds of requests to a few servers.

use std::collections::HashMap;
use std::sync::Mutex;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::lock;

/// Looks names up and remembers what it has found.
#[derive(Debug, Default)]
pub(super) struct Names {
    system: DefaultResolver,
    /// By scheme, host and port.
    known: Mutex<HashMap<String, ResolvedSocketAddrs>>,
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name =
            format!("{} {}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |name| name.as_str()));
        if let Some(found) = lock(&self.known).get(&name) {
            return Ok(found.clone());
        }
        let found = self.system.resolve(uri, config, timeout)?;
        lock(&self.known).insert(name, found.clone());
        Ok(found)
    }
}
