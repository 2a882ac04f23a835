//! What the fake claims, a real Consul does.

use std::time::Duration;

use consul_client::{Behavior, Client, Config, Error, MOST_TREES, NewSession, Query, Right, VALUE_LIMIT};
use serde_json::json;
use test_support::real_consul::RealConsul;

use crate::config;

const MASTER: &str = "11111111-2222-3333-4444-555555555555";

#[test]
fn keys_sessions_and_catalog() {
    let Some(consul) =
        RealConsul::start(&json!({"service": {"name": "web", "port": 80, "tags": ["haproxy::balanced"]}}))
    else {
        return;
    };
    let client = Client::new(&config(&consul.url())).unwrap();
    let kv = client.kv();
    assert_eq!(kv.get("a", &Query::consistent()).unwrap().value, None);
    for key in ["a/ü %2F?&=#+", "a/b", "a/tail/"] {
        kv.put(key, key.as_bytes()).unwrap();
        assert_eq!(kv.get(key, &Query::new()).unwrap().value.unwrap().value, key.as_bytes());
    }
    assert_eq!(kv.keys("a/", &Query::new()).unwrap().value, ["a/b", "a/tail/", "a/ü %2F?&=#+"]);
    kv.put("big", &vec![b'x'; VALUE_LIMIT]).unwrap();
    assert!(!kv.cas("big", b"", 0).unwrap());
    let index = kv.get("a/b", &Query::new()).unwrap().meta.index;
    let unchanged = kv.get("a/b", &Query::blocking(index, Duration::from_millis(200))).unwrap();
    assert_eq!(unchanged.meta.index, index);
    assert!(kv.delete_cas("a/b", index).unwrap());

    let new = NewSession {
        name: "test".to_owned(),
        ttl: Duration::from_secs(10),
        lock_delay: Duration::from_secs(1),
        behavior: Behavior::Delete,
        node_checks: Some(Vec::new()),
    };
    let a = client.sessions().create(&new).unwrap();
    let b = client.sessions().create(&new).unwrap();
    let token = kv.acquire_new("l", b"1", &a).unwrap().unwrap();
    assert_eq!(kv.get("l", &Query::new()).unwrap().value.unwrap().create_index, token);
    assert_eq!(kv.acquire_new("l", b"2", &b).unwrap(), None);
    assert!(!kv.acquire("l", b"2", &b).unwrap());
    assert!(kv.acquire("l", b"3", &a).unwrap());
    client.sessions().renew(&a).unwrap();
    client.sessions().destroy(&a).unwrap();
    assert_eq!(kv.get("l", &Query::consistent()).unwrap().value, None);
    assert_eq!(kv.acquire_new("l", b"2", &b).unwrap(), None, "the lock delay runs after destroy, too");
    assert!(matches!(client.sessions().renew(&a), Err(Error::SessionGone { .. })));
    assert!(matches!(kv.acquire("x", b"", &a), Err(Error::SessionGone { .. })));
    assert!(matches!(kv.acquire_new("x", b"", &a), Err(Error::SessionGone { .. })));
    assert_eq!(client.sessions().info(&a, &Query::new()).unwrap().value, None);

    assert_eq!(client.agent().info().unwrap().node, "real1");
    assert!(client.leader().unwrap().is_some());
    assert_eq!(client.catalog().nodes(&Query::new()).unwrap().value[0].node, "real1");
    let mut services = client.catalog().services(&Query::new()).unwrap().value;
    for _ in 0..50 {
        if services.contains_key("web") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        services = client.catalog().services(&Query::new()).unwrap().value;
    }
    assert_eq!(services["web"], ["haproxy::balanced"]);
    let entries = client.health().service("web", &Default::default(), &Query::new()).unwrap().value;
    assert_eq!((entries[0].effective_address(), entries[0].service.port), ("127.0.0.1", 80));
    assert!(client.agent().events(None, &Query::new()).unwrap().value.is_empty());
    client.rights().check(Right::Services).unwrap();
    client.rights().check(Right::Keys("a/")).unwrap();
    assert_eq!(client.rights().ask(&[Right::Services, Right::Keys("a/")]).unwrap(), None);
    // A token is not looked at where there are no ACLs.
    let any = client.with_token(Some("not-a-token"));
    assert_eq!(any.kv().list("a/", &Query::new()).unwrap().value.len(), 2);
    assert_eq!(any.kv().trees(&["a/", "big"], &Query::new()).unwrap().value.len(), 3);
    kv.put("many/0", b"x").unwrap();
    let prefixes: Vec<String> = (0..MOST_TREES).map(|n| format!("many/{n}/")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    assert!(kv.trees(&prefixes, &Query::new()).unwrap().value.is_empty());
}

#[test]
fn acls_refuse_and_filter() {
    let acl = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": MASTER}}});
    let Some(consul) = RealConsul::start(&acl) else { return };
    let nobody = Client::new(&config(&consul.url())).unwrap();
    assert!(matches!(nobody.kv().get("k", &Query::new()), Err(Error::Denied { .. })));
    assert!(matches!(nobody.kv().put("k", b""), Err(Error::Denied { .. })));
    assert!(matches!(nobody.agent().info(), Err(Error::Denied { .. })));
    for right in [Right::Keys("k"), Right::Services, Right::Nodes, Right::Sessions, Right::Events("")] {
        let checked = nobody.rights().check(right);
        assert!(matches!(checked, Err(Error::Denied { .. })), "{right}: {checked:?}");
    }
    let mut config = config(&consul.url());
    config.token = Some("not-a-token".to_owned());
    let wrong = Client::new(&config).unwrap();
    assert!(matches!(wrong.kv().get("k", &Query::new()), Err(Error::Denied { .. })));
    config.token = Some(MASTER.to_owned());
    let master = Client::new(&config).unwrap();
    master.kv().put("k", b"v").unwrap();
    for right in [Right::Keys("k"), Right::Services, Right::Service("web"), Right::Nodes, Right::Events("")] {
        master.rights().check(right).unwrap();
    }
    let rights = [Right::Keys("k"), Right::Services, Right::Service("web"), Right::Nodes];
    assert_eq!(master.rights().ask(&rights).unwrap(), Some(vec![true; 4]));
    assert_eq!(nobody.rights().ask(&rights).unwrap(), Some(vec![false; 4]));
    assert_eq!(master.rights().ask(&[Right::Nodes; 65]).unwrap(), Some(vec![true; 65]));
    // Without a token lists are empty; with one that nobody made they are refused.
    for query in [Query::new(), Query::consistent()] {
        assert!(nobody.kv().trees(&["k"], &query).unwrap().value.is_empty());
        assert!(matches!(wrong.kv().trees(&["k"], &query), Err(Error::Denied { .. })));
        assert_eq!(master.kv().trees(&["none/", "k"], &query).unwrap().value.len(), 1);
    }
    assert!(nobody.catalog().services(&Query::new()).unwrap().value.is_empty());
    assert!(matches!(wrong.catalog().services(&Query::new()), Err(Error::Denied { .. })));
    assert!(matches!(wrong.health().service("x", &Default::default(), &Query::new()), Err(Error::Denied { .. })));
    assert!(master.with_token(None).kv().list("k", &Query::new()).unwrap().value.is_empty());
}

#[test]
fn tls_checks_both_sides() {
    let Some(consul) = RealConsul::start_tls() else { return };
    let file = |name: &str| Some(consul.file(name));
    let mut good = config(&consul.https_url());
    good.tls.ca_file = file("consul-agent-ca.pem");
    good.tls.client_cert = file("dc1-client-consul-0.pem");
    good.tls.client_key = file("dc1-client-consul-0-key.pem");
    let ask = |config: &Config| Client::new(config).and_then(|c| c.kv().get("k", &Query::new()));
    assert_eq!(ask(&good).unwrap().value, None);

    let mut named = good.clone();
    named.tls.server_name = Some("server.dc1.consul".to_owned());
    assert_eq!(ask(&named).unwrap().value, None);
    named.tls.server_name = Some("server.dc2.consul".to_owned());
    assert!(matches!(ask(&named), Err(Error::Unreachable { .. })));

    let mut stranger = good.clone();
    stranger.tls.ca_file = file("other-agent-ca.pem");
    let error = ask(&stranger).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    stranger.tls.verify = false;
    assert_eq!(ask(&stranger).unwrap().value, None, "not checked on request");

    let mut nobody = good.clone();
    (nobody.tls.client_cert, nobody.tls.client_key) = (None, None);
    assert!(matches!(ask(&nobody), Err(Error::Unreachable { .. })));

    let mut half = good.clone();
    half.tls.client_key = None;
    assert!(matches!(ask(&half), Err(Error::Config { .. })));
    half.tls.client_key = file("dc1-client-consul-0.pem");
    assert!(matches!(ask(&half), Err(Error::File { .. })), "a certificate is no key");
    half.tls.ca_file = file("none.pem");
    assert!(matches!(ask(&half), Err(Error::File { .. })));

    let mut directory = good.clone();
    directory.tls.ca_file = None;
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(consul.file("consul-agent-ca.pem"), dir.path().join("ca.pem")).unwrap();
    directory.tls.ca_path = Some(dir.path().to_owned());
    assert_eq!(ask(&directory).unwrap().value, None);
}
