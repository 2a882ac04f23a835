//! Nothing but a well-formed answer is ever "absent".

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use consul_client::{Class, Client, Consistency, Error, Query, Right};
use test_support::consul::{FakeConsul, Fault, Instance};

use crate::{client, config};

/// Whatever is wrong, neither a key nor a list nor the catalog looks empty.
#[test]
fn no_fault_reads_as_absent() {
    let consul = FakeConsul::start();
    let mut config = config(&consul.url());
    config.total_timeout = Duration::from_millis(400);
    let client = Client::new(&config).unwrap();
    let html = "<html>504 Gateway Time-out</html>".to_owned();
    let faults: [(Fault, Class); 12] = [
        (Fault::Status(500, "No cluster leader".to_owned()), Class::Unavailable),
        (Fault::Status(500, "rpc error making call: EOF".to_owned()), Class::Unavailable),
        (Fault::Status(500, "rpc error making call: Permission denied".to_owned()), Class::Denied),
        (Fault::Status(403, "Permission denied".to_owned()), Class::Denied),
        (Fault::Status(404, "404 page not found".to_owned()), Class::Unavailable),
        (Fault::Status(301, String::new()), Class::Unavailable),
        (Fault::Status(504, html.clone()), Class::Unavailable),
        (Fault::Body(html), Class::Unavailable),
        (Fault::Body(String::new()), Class::Unavailable),
        (Fault::Close, Class::Unavailable),
        (Fault::Hang, Class::Unavailable),
        (Fault::NoLeader, Class::Unavailable),
    ];
    for (fault, class) in faults {
        consul.heal();
        consul.fault("", fault.clone());
        let key = client.kv().get("k", &Query::new()).unwrap_err();
        assert_eq!(key.class(), class, "{fault:?}: {key}");
        let list = client.kv().list("k/", &Query::new()).unwrap_err();
        assert_eq!(list.class(), class, "{fault:?}: {list}");
        let services = client.catalog().services(&Query::new()).unwrap_err();
        assert_eq!(services.class(), class, "{fault:?}: {services}");
        let put = client.kv().put("k", b"v").map_err(|e| e.class());
        // A write is answered without saying whether there is a leader: it was made, so there is.
        assert_eq!(put, if matches!(fault, Fault::NoLeader) { Ok(()) } else { Err(class) }, "{fault:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_an_error() {
    let consul = FakeConsul::start();
    consul.put("k", b"a value of some length");
    consul.fault("kv/", Fault::Truncate);
    let error = client(&consul).kv().get("k", &Query::new()).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
}

#[test]
fn a_filtered_answer_is_an_error_unless_asked_for() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    consul.fault("catalog/", Fault::Filtered);
    assert!(matches!(client.catalog().services(&Query::new()), Err(Error::Filtered { .. })));
    let answer = client.catalog().services(&Query::new().allow_filtered()).unwrap();
    assert!(answer.meta.filtered_by_acl);
}

#[test]
fn a_stale_read_says_that_there_is_no_leader() {
    let consul = FakeConsul::start();
    consul.put("k", b"v");
    consul.fault("kv/", Fault::NoLeader);
    let answer = client(&consul).kv().get("k", &Query::new().consistency(Consistency::Stale)).unwrap();
    assert!(!answer.meta.known_leader);
    assert_eq!(answer.value.unwrap().value, b"v");
}

/// Before 1.11 lists are filtered without a word; the check of rights is what tells.
#[test]
fn rights_tell_nothing_there_from_may_not_see() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    client.rights().check(Right::Keys("secret/")).unwrap();
    client.rights().check(Right::Services).unwrap();
    consul.put("secret/a", b"1");
    consul.register(Instance::new("n1", "192.0.2.1", "web", 80));
    consul.deny_keys("secret/");
    consul.deny_catalog(true);
    assert!(client.kv().list("secret/", &Query::new()).unwrap().value.is_empty());
    assert!(client.catalog().services(&Query::new()).unwrap().value.is_empty());
    assert!(matches!(client.kv().get("secret/a", &Query::new()), Err(Error::Denied { .. })));
    for right in [Right::Keys("secret/"), Right::Services, Right::Service("web"), Right::Nodes] {
        let error = client.rights().check(right).unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{right}: {error}");
    }
    client.rights().check(Right::Keys("public/")).unwrap();
}

#[test]
fn the_token_is_sent_in_its_header_and_shown_nowhere() {
    let consul = FakeConsul::start();
    consul.require_token("s3cret");
    let mut config = config(&consul.url());
    let anonymous = Client::new(&config).unwrap();
    assert!(matches!(anonymous.kv().get("k", &Query::new()), Err(Error::Denied { .. })));
    config.token = Some("s3cret".to_owned());
    let client = Client::new(&config).unwrap();
    assert_eq!(client.kv().get("k", &Query::new()).unwrap().value, None);
    consul.fault("", Fault::Status(500, "boom".to_owned()));
    let error = client.kv().get("k", &Query::new()).unwrap_err();
    for text in [format!("{error} {error:?}"), format!("{client:?} {config:?}"), consul.requests().join(" ")] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

/// An agent that takes connections and says nothing does not hold anybody for longer than the limit.
#[test]
fn silence_ends_at_the_time_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&format!("http://{}", silent.local_addr().unwrap()));
    config.total_timeout = Duration::from_millis(300);
    let client = Client::new(&config).unwrap();
    let start = Instant::now();
    let error = client.kv().get("k", &Query::new()).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    let blocking = client.kv().get("k", &Query::blocking(5, Duration::from_millis(320)));
    assert!(matches!(blocking, Err(Error::Timeout { .. })), "{blocking:?}");
    assert!(start.elapsed() >= Duration::from_millis(300 + 300 + 320), "a blocking query gets its wait");
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// A body that comes byte by byte ends at the limit, too: the limit is for the whole call.
#[test]
fn a_trickle_ends_at_the_time_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&format!("http://{}", listener.local_addr().unwrap()));
    config.total_timeout = Duration::from_millis(500);
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        let _ = socket.read(&mut buffer);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 1000000\r\n\r\n");
        while socket.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let start = Instant::now();
    let error = Client::new(&config).unwrap().kv().get("k", &Query::new()).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error:?}");
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_endless_answer_is_cut() {
    let consul = FakeConsul::start();
    consul.put("k", &[b'x'; 10_000]);
    let mut config = config(&consul.url());
    config.max_response = 1000;
    let error = Client::new(&config).unwrap().kv().get("k", &Query::new()).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1000, .. }), "{error:?}");
}

/// A restarted agent has closed the connection that lies in the pool: reads do not notice.
#[test]
fn a_restarted_agent_is_asked_again() {
    let mut consul = FakeConsul::start();
    let client = client(&consul);
    consul.put("k", b"v");
    client.kv().get("k", &Query::new()).unwrap();
    consul.stop();
    let error = client.kv().get("k", &Query::new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(std::error::Error::source(&error).is_some_and(|cause| !cause.is::<std::io::Error>()));
    consul.restart();
    assert!(client.kv().get("k", &Query::new()).unwrap().value.is_some());
}

#[test]
fn a_proxy_of_the_environment_is_not_used() {
    // The variables are read when an agent is made, in a process of its own.
    let consul = FakeConsul::start();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::with_a_proxy_in_the_environment", "--ignored"])
        .env("http_proxy", "http://127.0.0.1:1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .env("PROXY_TEST_URL", consul.url())
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    assert!(!consul.requests().is_empty());
}

#[test]
#[ignore = "run by a_proxy_of_the_environment_is_not_used"]
fn with_a_proxy_in_the_environment() {
    let url = std::env::var("PROXY_TEST_URL").unwrap();
    let client = Client::new(&config(&url)).unwrap();
    assert_eq!(client.kv().get("k", &Query::new()).unwrap().value, None);
}
