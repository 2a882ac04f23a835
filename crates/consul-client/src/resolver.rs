//! Where requests go: to the configured agent, whatever host their URL names.

use std::net::{IpAddr, SocketAddr};

use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::Error;
use crate::config::Address;
use crate::error::ADDRESS;

/// Resolves to the configured agent whatever host the URL names, so that the certificate can be
/// checked against another name. An IP address needs no thread for its resolution.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) fixed: Option<SocketAddr>,
    uri: Uri,
    names: DefaultResolver,
}

impl Target {
    pub(crate) fn new(address: &Address) -> Result<Target, Error> {
        let root = Address { prefix: String::new(), ..address.clone() };
        let uri = root
            .to_string()
            .parse::<Uri>()
            .map_err(|e| Error::Config { setting: ADDRESS.to_owned(), reason: e.to_string() })?;
        let fixed = address.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, address.port));
        Ok(Target { fixed, uri, names: DefaultResolver::default() })
    }
}

impl Resolver for Target {
    fn resolve(
        &self,
        _uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        match self.fixed {
            Some(address) => {
                let mut all = self.empty();
                all.push(address);
                Ok(all)
            }
            None => self.names.resolve(&self.uri, config, timeout),
        }
    }
}
