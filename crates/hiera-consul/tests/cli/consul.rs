//! Consul levels against a fake Consul that can be made to misbehave.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use test_support::consul::{FakeConsul, Fault, Instance};

use super::{Ran, Scratch};

const LEVELS: &str = "version: 5
hierarchy:
- name: node
  lookup_key: stacktira::consul
  options: {prefix: 'hiera/node/%{facts.hostname}/', format: auto}
- name: common
  lookup_key: stacktira::consul
  options: {prefix: hiera/common, format: auto, services: true}
- name: files
  path: common.yaml
";

struct World {
    scratch: Scratch,
    consul: FakeConsul,
    config: PathBuf,
}

impl World {
    fn new(levels: &str) -> World {
        let scratch = Scratch::new();
        let config = scratch.write("hiera.yaml", levels);
        scratch.write("facts.json", r#"{"hostname": "n1"}"#);
        World { scratch, consul: FakeConsul::start(), config }
    }

    fn lookup(&self, args: &[&str]) -> Ran {
        let mut command = self.scratch.command();
        command.env("CONSUL_HTTP_ADDR", self.consul.url()).args(["lookup", "--facts", "facts.json", "--render-as"]);
        command.arg("json").arg("--hiera_config").arg(&self.config).args(args).output().expect("it runs").into()
    }
}

#[test]
fn levels_are_asked_in_order_and_typed() {
    let world = World::new(LEVELS);
    world.consul.put("hiera/common/motd", b"common");
    world.consul.put("hiera/common/list", b"[1, \"two\"]");
    world.consul.put("hiera/common/empty", b"");
    world.consul.put("hiera/common/who", b"%{facts.hostname}: %{lookup('motd')}");
    world.consul.put("hiera/common/with space/ü?recurse", b"odd");
    world.scratch.write("data/common.yaml", "motd: file\nfile: yes\n");
    world.lookup(&["motd"]).found("\"common\"");
    world.lookup(&["list"]).found("[1,\"two\"]");
    world.lookup(&["list.1"]).found("\"two\"");
    world.lookup(&["empty"]).found("\"\"");
    world.lookup(&["file"]).found("true");
    world.lookup(&["who"]).found("\"n1: common\"");
    world.lookup(&["with space/ü?recurse"]).found("\"odd\"");
    world.consul.put("hiera/node/n1/motd", b"node");
    world.lookup(&["motd"]).found("\"node\"");
    world.lookup(&["--merge", "unique", "motd"]).found("[\"node\",\"common\",\"file\"]");
    assert_eq!(world.lookup(&["nope"]).code, 1);
}

#[test]
fn a_run_reads_every_level_once() {
    let world = World::new(LEVELS);
    for n in 0..50 {
        world.consul.put(&format!("hiera/common/k{n}"), format!("%{{lookup('k{}')}}x", n + 1).as_bytes());
    }
    // Both levels in one transaction. Without ACLs and a token the read itself shows that nothing is left out.
    world.consul.put("hiera/common/plain", b"plain");
    world.lookup(&["plain"]).found("\"plain\"");
    assert_eq!(world.consul.requests(), ["PUT /v1/txn"]);
    // The keys that are asked for alone, and everything when their values lead to others.
    world.lookup(&["k0"]).found(&format!("\"{}\"", "x".repeat(50)));
    assert_eq!(world.consul.requests().len(), 3);
    let explained = world.lookup(&["--explain", "k0"]);
    assert!(explained.out.contains("51 keys below hiera/common/"), "{}", explained.out);
    assert_eq!(world.consul.requests().len(), 4);
}

#[test]
fn keys_of_any_kind_and_number_are_read() {
    let world = World::new(LEVELS);
    world.scratch.write("data/common.yaml", "a//b: file\n../x: file\na: file\n");
    for key in ["a", "ab", "ab/c", "last"] {
        world.consul.put(&format!("hiera/common/{key}"), key.as_bytes());
    }
    // What Consul cannot be asked for is in no level of it.
    for (key, value) in [("a//b", "file"), ("'../x'", "file"), ("ab/c", "ab/c")] {
        world.lookup(&[key]).found(&format!("\"{value}\""));
    }
    // One key may begin like another, and they may be more than one transaction takes.
    world.lookup(&["nope", "ab", "a"]).found("\"ab\"");
    let many: Vec<String> = (0..100).map(|n| format!("nope{n}")).chain(["last".to_owned()]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    world.lookup(&many).found("\"last\"");
    assert_eq!(world.lookup(&["ab/"]).code, 1);
}

#[test]
fn prefixes_apart_from_each_other_are_one_state_and_two_requests_with_acls() {
    let world = World::new(LEVELS);
    world.consul.put("hiera/common/motd", b"common");
    world.consul.put("hiera/node/n1/motd", b"node");
    world.consul.put("hiera/node/n11/motd", b"other");
    world.consul.put("hiera/commonplace", b"other");
    world.consul.require_token("s3cret");
    let token = world.scratch.write("token", "s3cret\n");
    let token = ["--token-file", token.to_str().expect("UTF-8")];
    world.lookup(&[&token[..], &["motd"]].concat()).found("\"node\"");
    assert_eq!(world.consul.requests(), ["PUT /v1/txn", "POST /v1/internal/acl/authorize"]);
    world.lookup(&[&token[..], &["--merge", "unique", "motd"]].concat()).found("[\"node\",\"common\"]");
    // A level that may not be read ends a lookup that reaches it, and none that does not.
    world.consul.deny_keys("hiera/common/");
    world.lookup(&[&token[..], &["motd"]].concat()).failed(77, &["'motd'", "hiera/common/", &world.consul.url()]);
}

#[test]
fn an_unknown_token_is_not_needed_where_there_are_acls() {
    let world = World::new(LEVELS);
    world.consul.put("hiera/common/motd", b"common");
    world.consul.deny_keys("elsewhere/");
    world.lookup(&["motd"]).found("\"common\"");
    assert_eq!(world.consul.requests(), ["PUT /v1/txn", "PUT /v1/txn", "POST /v1/internal/acl/authorize"]);
    // An agent that knows no transactions is asked level by level.
    world.consul.fault("txn", Fault::Status(404, "404 page not found".to_owned()));
    world.lookup(&["motd"]).found("\"common\"");
    // One that does not know rights either: the keys themselves are tried.
    world.consul.fault("internal/acl/authorize", Fault::Status(404, "404 page not found".to_owned()));
    world.lookup(&["motd"]).found("\"common\"");
    world.consul.deny_keys("hiera/common/");
    world.lookup(&["motd"]).failed(77, &["hiera/common/"]);
}

#[test]
fn the_shipped_hierarchy_is_read_by_one_request() {
    let scratch = Scratch::new();
    let consul = FakeConsul::start();
    for n in 0..200 {
        consul.put(&format!("hiera/common/k{n}"), b"common");
    }
    consul.put("hiera/flat", b"flat");
    consul.put("hiera/role/proxy/k1", b"role");
    consul.put("hiera/node/n1/k2", b"node");
    consul.put("hiera/node/n10/k1", b"other");
    scratch.write("facts.json", r#"{"role": "proxy", "networking": {"hostname": "n1"}}"#);
    let config = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../provision/puppet/hiera.yaml");
    let mut before = 0;
    for (key, value) in
        [("k0", "common"), ("k1", "role"), ("k2", "node"), ("flat", "flat"), ("common/k3", "common"), ("none", "")]
    {
        let mut command = scratch.command();
        command.env("CONSUL_HTTP_ADDR", consul.url()).args(["lookup", "--facts", "facts.json", "--render-as", "s"]);
        command.args(["--default", "", "--hiera_config"]).arg(&config);
        Ran::from(command.arg(key).output().expect("it runs")).found(value);
        let requests = consul.requests();
        assert_eq!(requests.len() - before, 1, "{key}: {:?}", &requests[before..]);
        before = requests.len();
    }
    // With ACLs the right to each level is looked at, since the one read says nothing about it.
    consul.deny_keys("hiera/role/proxy/");
    let mut command = scratch.command();
    command.env("CONSUL_HTTP_ADDR", consul.url()).args(["lookup", "--facts", "facts.json", "--hiera_config"]);
    Ran::from(command.arg(&config).arg("k0").output().expect("it runs")).failed(77, &["hiera/role/proxy/"]);
}

#[test]
fn an_agent_without_acls_before_servers_with_them_hides_nothing() {
    let world = World::new(
        "version: 5\nhierarchy:\n- {name: n, lookup_key: 'stacktira::consul', options: {prefix: hiera/node/n1}}\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera, services: true}}\n",
    );
    world.consul.put("hiera/k", b"v");
    world.consul.put("hiera/node/n1/own", b"v");
    world.consul.fault("internal/acl/authorize", Fault::Status(401, "ACL support disabled".to_owned()));
    world.consul.deny_keys("hiera/node/");
    world.lookup(&["k"]).failed(77, &["hiera/node/n1/"]);
    let other = World::new(
        "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera, services: true}}\n",
    );
    other.consul.put("hiera/k", b"v");
    other.consul.fault("internal/acl/authorize", Fault::Status(401, "ACL support disabled".to_owned()));
    other.consul.deny_keys("elsewhere/");
    other.lookup(&["k"]).found("\"v\"");
    // Nobody can say what a list of services leaves out.
    other.lookup(&["web_Address"]).failed(77, &["web"]);
    // With a token that the servers do not look at, an empty list is worth a question.
    let token = other.scratch.write("token", "s3cret\n");
    other.consul.require_token("s3cret");
    other.consul.deny_keys("hiera/");
    other.lookup(&["--token-file", token.to_str().expect("UTF-8"), "k"]).failed(77, &["hiera/"]);
}

#[test]
fn an_explanation_says_what_was_read() {
    let world = World::new(LEVELS);
    let index = world.consul.put("hiera/common/motd", b"common");
    let ran = world.lookup(&["--explain", "motd"]);
    let line = format!("Consul: 1 keys below hiera/common/ of one read of 2 prefixes, newest key at index {index}");
    assert!(ran.out.contains(&line), "{}", ran.out);
}

#[test]
fn formats_are_held_to() {
    let world = World::new(
        "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: p, format: json}}\n",
    );
    world.consul.put("p/good", b"{\"a\": 1}");
    world.consul.put("p/bad", b"{");
    world.lookup(&["good.a"]).found("1");
    world.lookup(&["bad"]).failed(65, &["hierarchy 'c'", "p/bad", "JSON"]);
}

#[test]
fn a_missing_fact_empties_its_level_only() {
    let world = World::new(
        "version: 5\nhierarchy:\n- {name: r, lookup_key: 'stacktira::consul', options: {prefix: 'hiera/role/%{facts.role}/'}}\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera/common}}\n",
    );
    world.consul.put("hiera/role/x/k", b"role");
    world.consul.put("hiera/common/k", b"common");
    world.lookup(&["k"]).found("\"common\"");
}

#[test]
fn the_leader_is_a_key() {
    let world = World::new(LEVELS);
    assert_eq!(world.lookup(&["leader__db"]).code, 1);
    world.consul.put("stacktira/leader/db", br#"{"node":"c1","address":"10.0.0.1","session":"","token":7}"#);
    world.lookup(&["leader__db"]).found("\"c1\"");
    world.lookup(&["leader__db__address"]).found("\"10.0.0.1\"");
    // A session that no longer holds the key leads nobody.
    world.consul.put("stacktira/leader/db", br#"{"node":"c1","address":"10.0.0.1","session":"gone","token":7}"#);
    assert_eq!(world.lookup(&["leader__db"]).code, 1);
    world.consul.put("stacktira/leader/db", b"c1");
    world.lookup(&["leader__db"]).failed(65, &["stacktira/leader/db"]);
    world.consul.deny_keys("stacktira/leader/db");
    world.lookup(&["leader__db"]).failed(77, &["leader db"]);
}

#[test]
fn the_catalog_answers_computed_keys() {
    let world = World::new(LEVELS);
    world.consul.register(Instance::new("n1", "10.0.0.1", "web", 80).tag("blue"));
    world.consul.register(Instance::new("n2", "10.0.0.2", "web", 81).tag("blue"));
    world.consul.register(Instance::new("n2", "10.0.0.2", "web_front", 82));
    world.lookup(&["web_Address"]).found("\"10.0.0.1\"");
    world.lookup(&["web_ServicePort_n2"]).found("81");
    world.lookup(&["web_ServicePort_array"]).found("[80,81]");
    world.lookup(&["web_front_ServicePort"]).found("82");
    world.lookup(&["service_hash__blue__web__ServicePort__hash"]).found(r#"{"n1":80,"n2":81}"#);
    world.lookup(&["service_hash__blue__web__ServicePort"]).found("81");
    world.lookup(&["service_hash__blue__nope__ServicePort__array"]).found("[]");
    world.lookup(&["service_hash__red"]).found("{}");
    assert_eq!(world.lookup(&["service_hash__red__web__ServicePort"]).code, 1);
    assert_eq!(world.lookup(&["web_ServiceID"]).code, 1);
    world.lookup(&["service_hash.web.n2.ServicePort"]).found("81");
    // Silently filtered lists are refusals.
    world.consul.deny_catalog(true);
    world.lookup(&["web_Address"]).failed(77, &[]);
    world.lookup(&["service_hash__blue__web__ServicePort__array"]).failed(77, &[]);
    world.lookup(&["service_hash"]).failed(77, &[]);
}

#[test]
fn nothing_that_consul_cannot_say_is_taken_for_absent() {
    let world = World::new(LEVELS);
    world.scratch.write("data/common.yaml", "motd: file\n");
    let faults = [
        (Fault::Status(500, "rpc error: No cluster leader".to_owned()), 69),
        (Fault::Status(403, "Permission denied".to_owned()), 77),
        (Fault::Body("<html>proxy</html>".to_owned()), 69),
        (Fault::Truncate, 69),
        (Fault::Close, 69),
        (Fault::NoLeader, 69),
        (Fault::Filtered, 77),
    ];
    world.consul.put("hiera/common/motd", b"common");
    for (fault, code) in faults {
        world.consul.fault("txn", fault.clone());
        world.consul.fault("kv/", fault.clone());
        let ran = world.lookup(&["motd"]);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{fault:?}: {}", ran.err);
        assert!(ran.err.contains("hiera/node/n1/"), "{fault:?}: {}", ran.err);
        world.consul.heal();
    }
    world.lookup(&["motd"]).found("\"common\"");
    // A recursive read is filtered without a word: the right is checked beside it.
    world.consul.deny_keys("hiera/common/");
    world.lookup(&["motd"]).failed(77, &["hiera/common/"]);
}

#[test]
fn an_address_without_consul_is_one_line() {
    let world = World::new(LEVELS);
    let mut command = world.scratch.command();
    command.args(["lookup", "--http-addr", "127.0.0.1:1", "--hiera_config"]).arg(&world.config).arg("motd");
    let before = Instant::now();
    Ran::from(command.output().expect("it runs")).failed(69, &["127.0.0.1:1", "hiera/node"]);
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_address_of_a_level_gives_way_to_the_environment() {
    let levels = |address: &str| {
        format!(
            "version: 5\nhierarchy:\n- {{name: c, lookup_key: 'stacktira::consul', options: {{prefix: p, address: '{address}'}}}}\n"
        )
    };
    let world = World::new(&levels("127.0.0.1:1"));
    world.consul.put("p/k", b"v");
    world.lookup(&["k"]).found("\"v\"");
    let config = world.scratch.write("other.yaml", &levels(&world.consul.url()));
    world.scratch.global(&config, &["k"]).found("\"v\"");
    let mut command = world.scratch.command();
    command.env("CONSUL_HTTP_ADDR", "127.0.0.1:1").args(["lookup", "--render-as", "json", "--hiera_config"]);
    command.arg(&config).args(["--http-addr", &world.consul.url(), "k"]);
    Ran::from(command.output().expect("it runs")).found("\"v\"");
}

#[test]
fn the_token_file_is_used_and_not_shown() {
    let world = World::new(LEVELS);
    world.consul.require_token("s3cret-token");
    world.consul.put("hiera/common/motd", b"common");
    world.lookup(&["motd"]).failed(77, &[]);
    let token = world.scratch.write("token", "s3cret-token\n");
    let ran = world.lookup(&["--token-file", token.to_str().expect("UTF-8"), "-vv", "motd"]);
    ran.found("\"common\"");
    assert!(!ran.err.contains("s3cret"), "{}", ran.err);
}

#[test]
fn options_that_are_not_known_are_errors() {
    let world = World::new(
        "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: p, fromat: raw}}\n",
    );
    world.lookup(&["k"]).failed(65, &["hierarchy 'c'", "fromat"]);
    world.scratch.write(
        "hiera.yaml",
        "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', path: x, options: {prefix: p}}\n",
    );
    world.lookup(&["k"]).failed(65, &["hiera.yaml", "takes no path"]);
}
