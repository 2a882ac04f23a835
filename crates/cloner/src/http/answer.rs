//! What a server's answers mean: its greeting, where it redirects to, and why it refuses.

use std::io;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};

use super::Greeting;
use crate::fault::{Cause, Fault, Retry};
use crate::pktline::{Packet, Packets};
use crate::source::HttpUrl;

/// Reads the greeting of a server that speaks version 2; none for any other.
pub(super) fn read_greeting(bytes: &[u8]) -> Option<Greeting> {
    let mut packets = Packets::new(bytes);
    let mut two = false;
    let mut sha256 = false;
    while let Ok(Some(packet)) = packets.next() {
        match packet {
            // The service's name, and the mark behind it.
            Packet::Line(text) if text.starts_with(b"# service=") => {}
            Packet::Flush if !two => {}
            Packet::Line(text) if !two => {
                two = text.strip_suffix(b"\n").unwrap_or(text) == b"version 2";
                if !two {
                    return None;
                }
            }
            Packet::Line(text) => sha256 |= text.starts_with(b"object-format=sha256"),
            _ => break,
        }
    }
    two.then_some(Greeting::Two { sha256 })
}

pub(super) fn redirected<B>(from: &HttpUrl, response: &Response<B>) -> Result<HttpUrl, Fault> {
    let refuse = |why: &str| Fault::new(Cause::Network, format!("{}: refused redirect: {why}", from.base()));
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| refuse("it names no address"))?;
    let absolute = match location {
        path if path.starts_with('/') && !path.starts_with("//") => {
            format!("{}://{}{path}", if from.tls { "https" } else { "http" }, from.authority)
        }
        url => url.to_owned(),
    };
    let repository = absolute
        .strip_suffix("/info/refs?service=git-upload-pack")
        .ok_or_else(|| refuse("it does not lead to a git repository"))?;
    let mut to = HttpUrl::from_url(repository).map_err(|why| refuse(&why))?;
    if from.tls && !to.tls {
        return Err(refuse("it leads from https to http"));
    }
    // A server may not choose which credentials are sent, and ours are for the old server only.
    to.login = if to.same_server(from) { from.login.clone() } else { None };
    Ok(to)
}

pub(super) fn check_status<B>(server: &HttpUrl, response: &Response<B>) -> Result<(), Fault> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let url = server.base();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Err(Fault::new(Cause::Auth, format!("{url}: other credentials are wanted (HTTP {})", status.as_u16()))
                .hint("a private repository needs its host in ~/.netrc, or user:password@ in its source; a misspelt one may ask for them too"))
        }
        StatusCode::FORBIDDEN => Err(Fault::new(Cause::Auth, format!("{url}: forbidden (HTTP 403)"))),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(Fault::new(Cause::Network, format!("{url}: no such repository (HTTP {})", status.as_u16()))
                .hint("check the source, or whether the mirror has it"))
        }
        _ => {
            let mut fault = Fault::new(Cause::Network, format!("{url}: HTTP {}", status.as_u16()));
            let later = status.is_server_error()
                || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
            fault.crowded = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
            if later {
                let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                fault.retry = match wait.and_then(|value| value.trim().parse().ok()) {
                    Some(seconds) => Retry::After(Duration::from_secs(seconds)),
                    None => Retry::Soon,
                };
            }
            Err(fault)
        }
    }
}

pub(super) fn check_type<B>(server: &HttpUrl, response: &Response<B>, wanted: &str) -> Result<(), Fault> {
    let given = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if given.is_some_and(|given| given.split(';').next().is_some_and(|kind| kind.trim() == wanted)) {
        return Ok(());
    }
    let message = format!("{}: the answer is not git's smart protocol", server.base());
    Err(Fault::new(Cause::Network, message).hint("the source must be a repository's own address, not its web page"))
}

pub(crate) fn timed_out() -> Fault {
    Fault::new(Cause::Network, "the time for this repository is over").hint("--timeout sets it")
}

pub(super) fn transfer_fault(server: &HttpUrl, err: &ureq::Error) -> Fault {
    let message = format!("{}: {err}", server.base());
    match err {
        ureq::Error::Timeout(ureq::Timeout::Global | ureq::Timeout::PerCall) => {
            Fault { message: format!("{}: {}", server.base(), timed_out().message), ..timed_out() }
        }
        ureq::Error::Io(io) if is_certificate(io) => Fault::new(Cause::Network, message),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl => {
            Fault::new(Cause::Network, message)
        }
        _ => Fault::network(message),
    }
}

pub(super) fn read_fault(server: &HttpUrl, err: &io::Error) -> Fault {
    match err.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(inner) => transfer_fault(server, inner),
        None => Fault::network(format!("{}: {err}", server.base())),
    }
}

fn is_certificate(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::InvalidData && err.to_string().contains("certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(location: &str) -> Response<()> {
        Response::builder().status(302).header("Location", location).body(()).expect("valid")
    }

    #[test]
    fn a_redirect_leads_to_a_repository_and_takes_no_credentials_along() {
        let from = HttpUrl::from_url("https://me:canary@a/x").expect("valid");
        let to = |location: &str| redirected(&from, &answer(location));
        let service = "/info/refs?service=git-upload-pack";
        let same = to(&format!("/y{service}")).expect("followed");
        assert_eq!((same.base().as_str(), same.login.is_some()), ("https://a/y", true));
        let other = to(&format!("https://b/y{service}")).expect("followed");
        assert_eq!((other.base().as_str(), other.login.is_none()), ("https://b/y", true));
        let planted = to(&format!("https://you:pw@b/y{service}")).expect("followed");
        assert!(planted.login.is_none());
        for hostile in ["http://a/x", "file:///etc", "https://b/", "//b/x", "ssh://b/x", "gopher://x"] {
            assert!(to(&format!("{hostile}{service}")).is_err() || hostile == "https://b/", "{hostile}");
        }
        assert!(to("https://b/login").is_err());
    }

    #[test]
    fn a_greeting_tells_the_version() {
        let two =
            b"001e# service=git-upload-pack\n0000000eversion 2\n0015agent=git/2.47.3\n001bobject-format=sha256\n0000";
        assert!(matches!(read_greeting(two), Some(Greeting::Two { sha256: true })));
        assert!(matches!(read_greeting(&two[34..]), Some(Greeting::Two { sha256: true })));
        let old =
            b"001e# service=git-upload-pack\n0000003e1111111111111111111111111111111111111111 refs/heads/main\n0000";
        assert!(read_greeting(old).is_none() && read_greeting(b"").is_none() && read_greeting(b"<html>").is_none());
    }
}
