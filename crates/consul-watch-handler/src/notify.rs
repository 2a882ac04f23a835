//! What systemd is told of a service of type `notify`: that it is ready, reads its file again, ends, and lives.
//!
//! The protocol is one datagram a message to the socket that `NOTIFY_SOCKET` names; where none is named nothing is told.
//! That the service lives is said only while every part of every watch keeps its promises
//! ([`crate::board::Common::stuck`]): systemd then ends and starts a process in which one thread is stuck.
//! Commands get none of these variables.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a message may wait for its place in the socket's queue.
const LIMIT: Duration = Duration::from_secs(1);

/// The way to systemd, if there is one.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: Option<UnixDatagram>,
    every: Option<Duration>,
}

impl Notify {
    /// Reads the environment that systemd gave.
    ///
    /// # Errors
    /// The socket that it names cannot be reached: nobody would ever hear that the service is ready.
    pub(crate) fn from_env() -> std::io::Result<Notify> {
        Notify::of(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> std::io::Result<Notify> {
        let socket = variable("NOTIFY_SOCKET").map(|name| connect(name.as_bytes())).transpose()?;
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let limit = number("WATCHDOG_USEC").filter(|_| ours && socket.is_some()).map(Duration::from_micros);
        // Twice within the limit, as systemd advises.
        Ok(Notify { socket, every: limit.map(|limit| limit / 2).filter(|every| !every.is_zero()) })
    }

    /// Returns how often to say that the service lives, if it is asked for.
    pub(crate) fn every(&self) -> Option<Duration> {
        self.every
    }

    /// Says something, a `NAME=VALUE` a line. What is not heard is no reason to stop.
    pub(crate) fn say(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes());
        }
    }

    /// Says that the file is read again; [`Notify::say`] of `READY=1` ends that.
    pub(crate) fn reloading(&self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.unwrap_or_default().as_micros()));
    }
}

fn connect(name: &[u8]) -> std::io::Result<UnixDatagram> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(LIMIT))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(variables: &[(&str, &str)]) -> std::io::Result<Notify> {
        Notify::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn messages_reach_a_socket_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("notify");
        let abstract_name = format!("stacktira-notify-test-{}", std::process::id());
        let addresses = [
            (path.to_str().expect("text").to_owned(), SocketAddr::from_pathname(&path).expect("short")),
            (format!("@{abstract_name}"), SocketAddr::from_abstract_name(&abstract_name).expect("short")),
        ];
        for (name, address) in addresses {
            let socket = UnixDatagram::bind_addr(&address).expect("free");
            let notify = notify(&[("NOTIFY_SOCKET", &name)]).expect("it is there");
            assert_eq!(notify.every(), None);
            notify.say("READY=1");
            let mut bytes = [0; 100];
            let count = socket.recv(&mut bytes).expect("it came");
            assert_eq!(&bytes[..count], b"READY=1");
            notify.reloading();
            let count = socket.recv(&mut bytes).expect("it came");
            assert!(bytes[..count].starts_with(b"RELOADING=1\nMONOTONIC_USEC="));
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("notify");
        let _socket = UnixDatagram::bind(&path).expect("free");
        let path = path.to_str().expect("text");
        let own = std::process::id().to_string();
        let every = |variables: &[(&str, &str)]| notify(variables).expect("it is there").every();
        let wanted = Some(Duration::from_secs(5));
        assert_eq!(every(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "10000000")]), wanted);
        assert_eq!(every(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "10000000"), ("WATCHDOG_PID", &own)]), wanted);
        assert_eq!(every(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "10000000"), ("WATCHDOG_PID", "1")]), None);
        assert_eq!(every(&[("WATCHDOG_USEC", "10000000")]), None);
        assert_eq!(every(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "soon")]), None);
        assert!(notify(&[("NOTIFY_SOCKET", "/nonexistent/notify")]).is_err());
    }
}
