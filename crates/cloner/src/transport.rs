//! libgit2's way to servers that do not speak version 2 of the protocol.
//!
//! libgit2 speaks the older versions; this module carries its messages with our one HTTP and TLS
//! stack. libgit2 gives its transports no place for own data, so the session of the moment is kept
//! per thread while [`run`] works, and the URL that libgit2 sees is a constant. That also keeps
//! passwords out of it.

use std::cell::RefCell;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Once};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};

use crate::fault::{Cause, Fault};
use crate::http::{Greeting, Session, Stream};

/// Largest negotiation that libgit2 may send.
const MAX_REQUEST: usize = 64 << 20;
/// What libgit2 is told to open.
pub(crate) const URL: &str = "cloner-http://session";

thread_local! {
    static CURRENT: RefCell<Option<Session>> = const { RefCell::new(None) };
}

/// Runs `work`, whose libgit2 remotes for [`URL`] use `session`.
pub(crate) fn run<T>(session: &Session, what: &str, work: impl FnOnce() -> Result<T, git2::Error>) -> Result<T, Fault> {
    /// Clears the thread's session on every way out.
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            CURRENT.set(None);
        }
    }
    CURRENT.set(Some(session.clone()));
    let guard = Guard;
    let result = work();
    drop(guard);
    result.map_err(|err| session.noted().unwrap_or_else(|| Fault::git(Cause::Network, what, &err)))
}

/// Notes `fault` and returns an error for libgit2, which carries its text only.
fn fail(session: &Session, fault: Fault) -> git2::Error {
    let err = git2::Error::from_str(&fault.message);
    session.note(fault);
    err
}

/// libgit2's side: one per remote.
struct Subtransport(Session);

impl SmartSubtransport for Subtransport {
    fn action(&self, _: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        match action {
            Service::UploadPackLs => match self.0.greet().map_err(|fault| fail(&self.0, fault))? {
                Greeting::Old(advert) => Ok(Box::new(AdvertStream(Cursor::new(advert)))),
                Greeting::Two { .. } => Err(git2::Error::from_str("the server speaks version 2")),
            },
            Service::UploadPack => {
                Ok(Box::new(PostStream { session: self.0.clone(), request: Vec::new(), response: None }))
            }
            Service::ReceivePackLs | Service::ReceivePack => Err(git2::Error::from_str("cloner never pushes")),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

struct AdvertStream(Cursor<Arc<[u8]>>);

impl Read for AdvertStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for AdvertStream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("the list of refs is only read"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects what libgit2 writes and sends it when libgit2 reads for the first time.
struct PostStream {
    session: Session,
    request: Vec<u8>,
    response: Option<Stream>,
}

impl Read for PostStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let response = match &mut self.response {
            Some(response) => response,
            empty => {
                let sent = self.session.negotiate(&self.request);
                empty.insert(sent.map_err(|fault| io::Error::other(fail(&self.session, fault)))?)
            }
        };
        response.read(buffer).inspect_err(|err| self.session.note(self.session.read_fault(err)))
    }
}

impl Write for PostStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.request.len() + bytes.len() > MAX_REQUEST {
            return Err(io::Error::other("the negotiation grows without end"));
        }
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sets libgit2 up, once per process and before any thread uses it.
///
/// No configuration of the system or the user is read: what a manifest says must mean the same for
/// everyone, and a configuration can name programs and rewrite addresses.
pub(crate) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use git2::ConfigLevel::{Global, ProgramData, System, XDG};
        for level in [System, Global, XDG, ProgramData] {
            // SAFETY: `Once` lets one thread in, and every use of libgit2 in this crate comes after
            // `register`, so nothing else touches the options meanwhile.
            unsafe { git2::opts::set_search_path(level, "") }.expect("an empty search path is always accepted");
        }
        git2::opts::strict_hash_verification(true);
        // SAFETY: as above; the factory only reads the calling thread's session.
        unsafe {
            git2::transport::register("cloner-http", |remote| {
                let session = CURRENT
                    .with_borrow(Clone::clone)
                    .ok_or_else(|| git2::Error::from_str("no session runs on this thread"))?;
                Transport::smart(remote, true, Subtransport(session))
            })
        }
        .expect("the prefix is registered once");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_session_is_an_error_and_no_crash() {
        register();
        let mut remote = git2::Remote::create_detached(URL).expect("a remote");
        assert!(remote.connect(git2::Direction::Fetch).is_err());
    }

    #[test]
    fn the_configuration_of_the_user_is_not_read() {
        register();
        let home = tempfile::tempdir().expect("scratch");
        let repository = git2::Repository::init_bare(home.path()).expect("a repository");
        let config = repository.config().expect("its configuration");
        assert!(config.get_string("url.x.insteadOf").is_err());
        for level in [git2::ConfigLevel::Global, git2::ConfigLevel::System] {
            assert!(config.open_level(level).is_err(), "{level:?}");
        }
    }
}
