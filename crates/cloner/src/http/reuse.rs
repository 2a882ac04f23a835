//! Connections that were kept open, and that the server has closed by the time they are used again.
//!
//! Whether it has is looked at before each use; between the look and the request it can still happen. Nothing was
//! answered then, so the request is sent once more. One that was cut on a connection made for it is a failure like
//! any other, and left to the retries of the repository.

use std::cell::Cell;
use std::io::ErrorKind;

use ureq::unversioned::transport::{ConnectionDetails, Connector};

thread_local! {
    /// Connections that this thread has begun to make.
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// Counts connections; the first of a chain of connectors.
#[derive(Debug)]
pub(super) struct Counting;

impl Connector<()> for Counting {
    type Out = ();

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<()>) -> Result<Option<()>, ureq::Error> {
        MADE.set(MADE.get() + 1);
        Ok(chained)
    }
}

/// Sends a request; again if it met a closed connection. That takes the connection out of the client's pool, so it ends.
pub(super) fn send<T>(request: impl Fn() -> Result<T, ureq::Error>) -> Result<T, ureq::Error> {
    loop {
        let made = MADE.get();
        match request() {
            Err(err) if MADE.get() == made && is_closed(&err) => {}
            done => return done,
        }
    }
}

fn is_closed(err: &ureq::Error) -> bool {
    let closed =
        [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe];
    matches!(err, ureq::Error::Io(err) if closed.contains(&err.kind()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use crate::credential::Keyring;
    use crate::http::Client;
    use crate::netrc::Netrc;
    use crate::source::HttpUrl;

    /// Answers as many requests on each connection as the next of `answers` says, reads one more and closes.
    /// Returns how many requests it read.
    fn serve(listener: &TcpListener, answers: &[usize]) -> usize {
        let mut read = 0;
        for answers in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("the same connection")).lines();
            for number in 0..=*answers {
                // A request ends with an empty line.
                if !lines.by_ref().map_while(Result::ok).any(|line| line.is_empty()) {
                    break;
                }
                read += 1;
                if number < *answers {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("sent");
                }
            }
            stream.shutdown(std::net::Shutdown::Both).expect("closed");
        }
        read
    }

    /// Asks `times` times; returns how many answers came, and how many requests the server read.
    fn ask(times: usize, answers: &'static [usize]) -> (usize, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || serve(&listener, answers));
        let keyring = Keyring::new(Netrc::default(), &[]).expect("no files");
        let client = Client::new(4, keyring).expect("no certificates");
        let url = HttpUrl::from_url(&format!("http://{address}/m")).expect("an address");
        let session = client.session(&url, Instant::now() + Duration::from_secs(20));
        let answered = (0..times)
            .filter(|_| {
                let body = session.get("x", None).map(|response| response.into_body().read_to_string());
                body.is_ok_and(|body| body.is_ok_and(|text| text == "ok"))
            })
            .count();
        drop((session, client));
        // A server that waits for a connection which nobody makes would wait for ever.
        while !server.is_finished() {
            drop(TcpStream::connect(address));
            std::thread::sleep(Duration::from_millis(1));
        }
        (answered, server.join().expect("no panic"))
    }

    #[test]
    fn a_request_that_met_a_closed_connection_is_sent_again() {
        assert_eq!(ask(2, &[1, 1]), (2, 3), "the second request is read, not answered, and sent again");
        assert_eq!(ask(3, &[1, 1, 1]), (3, 5));
    }

    #[test]
    fn one_that_was_cut_on_its_own_connection_is_not() {
        assert_eq!(ask(1, &[0, 1]), (0, 1));
        assert_eq!(ask(2, &[1, 0]), (1, 3), "the new connection is cut too, and that is that");
    }
}
