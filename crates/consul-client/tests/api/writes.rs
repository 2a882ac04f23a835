use std::time::Duration;

use consul_client::{Behavior, Class, Error, NewSession, Query, VALUE_LIMIT};
use test_support::consul::FakeConsul;

use crate::client;

fn session(behavior: Behavior) -> NewSession {
    NewSession {
        name: "test".to_owned(),
        ttl: Duration::from_secs(10),
        lock_delay: Duration::from_millis(500),
        behavior,
        node_checks: Some(Vec::new()),
    }
}

#[test]
fn compare_and_swap() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    let kv = client.kv();
    assert!(kv.cas("k", b"1", 0).unwrap());
    assert!(!kv.cas("k", b"2", 0).unwrap());
    let index = kv.get("k", &Query::new()).unwrap().value.unwrap().modify_index;
    assert!(!kv.cas("k", b"2", index + 1).unwrap());
    assert!(kv.cas("k", b"2", index).unwrap());
    assert!(!kv.delete_cas("k", index).unwrap());
    assert!(matches!(kv.delete_cas("k", 0), Err(Error::Config { .. })));
    kv.delete("k").unwrap();
    kv.delete("k").unwrap();
    assert_eq!(consul.get("k"), None);
    kv.put("t/a", b"").unwrap();
    kv.delete_tree("t/").unwrap();
    assert_eq!(consul.get("t/a"), None);
}

#[test]
fn values_beyond_the_limit_are_refused_before_they_are_sent() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    client.kv().put("k", &vec![0; VALUE_LIMIT]).unwrap();
    let error = client.kv().put("k", &vec![0; VALUE_LIMIT + 1]).unwrap_err();
    assert_eq!(error.class(), Class::Input);
    assert!(error.to_string().contains("512 KiB"), "{error}");
    assert_eq!(consul.requests().len(), 1);
}

#[test]
fn locks_follow_their_sessions() {
    let consul = FakeConsul::start();
    let client = client(&consul);
    let (kv, sessions) = (client.kv(), client.sessions());
    let a = sessions.create(&session(Behavior::Release)).unwrap();
    let b = sessions.create(&session(Behavior::Delete)).unwrap();
    assert!(kv.acquire("l", b"a", &a).unwrap());
    assert!(!kv.acquire("l", b"b", &b).unwrap());
    assert!(!kv.release("l", b"b", &b).unwrap());
    assert!(kv.release("l", b"free", &a).unwrap());
    assert_eq!(kv.acquire_new("l", b"b", &b).unwrap(), None, "the key exists");
    let index = kv.acquire_new("m", b"b", &b).unwrap().unwrap();
    let pair = kv.get("m", &Query::new()).unwrap().value.unwrap();
    assert_eq!((pair.create_index, pair.session.as_deref()), (index, Some(b.as_str())));
    sessions.renew(&b).unwrap();
    consul.expire(&b);
    assert!(matches!(sessions.renew(&b), Err(Error::SessionGone { .. })));
    assert!(matches!(kv.acquire("m", b"", &b), Err(Error::SessionGone { .. })));
    assert!(matches!(kv.acquire_new("m", b"", &b), Err(Error::SessionGone { .. })));
    assert_eq!(consul.get("m"), None, "its keys went with it");
    assert_eq!(kv.acquire_new("m", b"a", &a).unwrap(), None, "the lock delay runs");
    std::thread::sleep(Duration::from_millis(600));
    assert!(kv.acquire_new("m", b"a", &a).unwrap().is_some());
    assert_eq!(sessions.info(&a, &Query::new()).unwrap().value.unwrap().name, "test");
    sessions.destroy(&a).unwrap();
    assert_eq!(sessions.info(&a, &Query::new()).unwrap().value, None);
}
