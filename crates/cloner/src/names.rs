//! Addresses of hosts, looked up once in a while and not for each request.
//!
//! The HTTP client looks a name up for each request, also for one that an open connection serves, and in a thread of its
//! own, so that the time limit holds: for small answers that is a good part of the whole work. A host that is given as
//! an address needs no look.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::IpFamily;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer is used.
const KEPT: Duration = Duration::from_secs(30);

/// Looks up and remembers. What failed is asked again.
#[derive(Debug, Default)]
pub struct Names {
    inner: DefaultResolver,
    known: Mutex<BTreeMap<String, (Instant, ResolvedSocketAddrs)>>,
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let place = uri.scheme().zip(uri.authority());
        let Some(host) = place.and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority)) else {
            return self.inner.resolve(uri, config, timeout);
        };
        if let Ok(address) = host.parse::<SocketAddr>()
            && config.ip_family() == IpFamily::Any
        {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, addresses)) = known().get(&host)
            && at.elapsed() < KEPT
        {
            return Ok(addresses.clone());
        }
        let addresses = self.inner.resolve(uri, config, timeout)?;
        known().insert(host, (Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::Timeout;

    #[test]
    fn an_answer_is_kept_for_its_host_and_port_and_a_failure_is_not() {
        let resolver = Names::default();
        let config = ureq::config::Config::default();
        let ask = |url: &str| {
            let timeout = NextTimeout {
                after: Duration::from_secs(5).into(),
                reason: Timeout::Resolve,
                ..NextTimeout::default()
            };
            resolver.resolve(&url.parse().expect("a URL"), &config, timeout).map(|addresses| addresses.to_vec())
        };
        let first = ask("http://localhost:81/a").expect("an address");
        assert_eq!(ask("http://localhost:81/b").expect("known"), first);
        assert_ne!(ask("http://localhost:82/a").expect("an address"), first);
        assert!(ask("http://name.invalid/").is_err());
        for (url, address) in
            [("http://192.0.2.1/a", "192.0.2.1:80"), ("https://[2001:db8::1]:81/a", "[2001:db8::1]:81")]
        {
            assert_eq!(ask(url).expect("it is one"), [address.parse().expect("an address")]);
        }
        let known = resolver.known.lock().expect("free");
        assert_eq!(known.keys().collect::<Vec<_>>(), ["localhost:81", "localhost:82"]);
    }
}
