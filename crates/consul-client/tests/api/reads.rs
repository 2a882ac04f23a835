use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use consul_client::{Address, Client, Config, Error, Instances, MOST_TREES, Query, Right, State};
use test_support::consul::{FakeConsul, Instance};

use crate::client;

#[test]
fn an_absent_key_is_none_and_a_present_one_has_its_bytes() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    assert_eq!(client.kv().get("a/b", &Query::new()).unwrap().value, None);
    let bytes: Vec<u8> = (0..=255).collect();
    let index = consul.put("a/ü %2F?&=#", &bytes);
    consul.put("a/empty", b"");
    let answer = client.kv().get("a/ü %2F?&=#", &Query::consistent()).unwrap();
    let pair = answer.value.unwrap();
    assert_eq!((pair.value, pair.modify_index, answer.meta.index), (bytes, index, index));
    assert_eq!(client.kv().get("a/empty", &Query::new()).unwrap().value.unwrap().value, b"");
    assert!(consul.requests().iter().any(|r| r.ends_with("?consistent")), "{:?}", consul.requests());
}

#[test]
fn lists_are_sorted_and_complete() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    for key in ["p/b", "p/a/x", "p/a", "q"] {
        consul.put(key, key.as_bytes());
    }
    assert_eq!(client.kv().keys("p/", &Query::new()).unwrap().value, ["p/a", "p/a/x", "p/b"]);
    let pairs = client.kv().list("p/a", &Query::new()).unwrap().value;
    assert_eq!(pairs.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["p/a", "p/a/x"]);
    assert_eq!(client.kv().keys("", &Query::new()).unwrap().value.len(), 4);
    assert!(client.kv().list("none/", &Query::new()).unwrap().value.is_empty());
}

#[test]
fn trees_are_one_request_and_rights_another() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    for key in ["p/b", "p/a", "q/x", "other"] {
        consul.put(key, key.as_bytes());
    }
    let newest = consul.put("q/y", b"");
    consul.put("other", b"newer");
    let answer = client.kv().trees(&["q/", "none/", "p/"], &Query::new()).unwrap();
    assert_eq!(answer.value.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["p/a", "p/b", "q/x", "q/y"]);
    assert_eq!((answer.value[3].value.as_slice(), answer.meta.index), (&b""[..], newest));
    let none = client.kv().trees(&["none/"], &Query::consistent()).unwrap();
    assert_eq!((none.value.len(), none.meta.index), (0, 0));
    assert!(matches!(client.kv().trees(&["a/../b"], &Query::new()), Err(Error::Key { .. })));
    assert!(matches!(client.kv().trees(&["p/"; MOST_TREES + 1], &Query::new()), Err(Error::Config { .. })));
    assert_eq!(consul.requests(), ["PUT /v1/txn", "PUT /v1/txn?consistent"]);
    assert_eq!(client.rights().ask(&[Right::Nodes]).unwrap(), None, "no ACLs");
    consul.deny_keys("q/");
    let rights = [Right::Keys("p/"), Right::Keys("q/"), Right::Nodes];
    assert_eq!(client.rights().ask(&rights).unwrap(), Some(vec![true, false, true]));
    assert_eq!(client.rights().ask(&[Right::Nodes; 130]).unwrap(), Some(vec![true; 130]));
    // What may not be seen is left out, and where Consul says so, it is an error.
    assert_eq!(client.kv().trees(&["p/", "q/"], &Query::new()).unwrap().value.len(), 2);
    consul.filter_header(true);
    assert!(matches!(client.kv().trees(&["p/", "q/"], &Query::new()), Err(Error::Filtered { .. })));
    let stranger = client.with_token(Some("nobody"));
    assert!(stranger.has_token() && !client.has_token());
    assert!(matches!(stranger.kv().list("p/", &Query::new()), Err(Error::Denied { .. })));
}

#[test]
fn a_blocking_query_returns_at_the_change_and_not_before() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    consul.put("k", b"1");
    let first = client.kv().get("k", &Query::new()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            consul.put("k", b"2");
        });
        let start = Instant::now();
        let query = Query::blocking(first.meta.index, Duration::from_secs(20));
        let second = client.kv().get("k", &query).unwrap();
        assert_eq!(second.value.unwrap().value, b"2");
        assert!(start.elapsed() >= Duration::from_millis(250));
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn catalog_and_health() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    consul.register(Instance::new("n2", "192.0.2.12", "web", 80).tag("haproxy::balanced"));
    let mut other = Instance::new("n1", "192.0.2.11", "web", 81).tag("b").tag("a").status("critical");
    other.address = "198.51.100.1".to_owned();
    consul.register(other);
    let services = client.catalog().services(&Query::new()).unwrap().value;
    assert_eq!(services["web"], ["a", "b", "haproxy::balanced"]);
    let all = client.health().service("web", &Instances::default(), &Query::new()).unwrap().value;
    let addresses: Vec<&str> = all.iter().map(|entry| entry.effective_address()).collect();
    assert_eq!(addresses, ["198.51.100.1", "192.0.2.12"], "sorted by node, own address first");
    let passing = Instances { passing: true, tags: vec!["haproxy::balanced".to_owned()] };
    let some = client.health().service("web", &passing, &Query::new()).unwrap().value;
    assert_eq!(some.iter().map(|e| e.node.node.as_str()).collect::<Vec<_>>(), ["n2"]);
    assert_eq!(client.health().state(State::Critical, &Query::new()).unwrap().value.len(), 1);
    assert_eq!(client.catalog().nodes(&Query::new()).unwrap().value.len(), 3);
    assert_eq!(client.catalog().service("web", &Query::new()).unwrap().value[0].service_port, 81);
    assert_eq!(client.agent().info().unwrap().node, "node1");
    let id = consul.fire("deploy", b"v42");
    let events = client.agent().events(Some("deploy"), &Query::new()).unwrap().value;
    assert_eq!((events[0].id.as_str(), events[0].payload.as_slice()), (id.as_str(), b"v42".as_slice()));
    let raw = client.json(&["catalog", "service", "web"], &[("tag", "a")], &Query::new()).unwrap();
    assert!(raw.value.unwrap().is_array());
}

#[test]
fn an_agent_on_this_host_is_not_asked_to_compress() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut part) = (Vec::new(), [0; 1024]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut part).unwrap() {
                0 => break,
                count => head.extend_from_slice(&part[..count]),
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Consul-Index: 1\r\n\r\n[]").unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    });
    let address = Address::parse("address", &format!("localhost:{port}"), false).unwrap();
    let client = Client::new(&Config { address, ..Config::default() }).unwrap();
    assert!(client.kv().list("p/", &Query::new()).unwrap().value.is_empty());
    let head = agent.join().unwrap();
    assert!(head.starts_with("get /v1/kv/p/?recurse") && !head.contains("accept-encoding"), "{head}");
}
