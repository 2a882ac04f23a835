//! The coprocess' protocol.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::consul::{FakeConsul, Fault, Instance};

use super::Scratch;

struct Server {
    _scratch: Scratch,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    id: u64,
}

impl Server {
    fn start(address: &str) -> Server {
        let scratch = Scratch::new();
        let mut command = scratch.command();
        command.env("CONSUL_HTTP_ADDR", address).arg("serve");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Server { _scratch: scratch, child, input, output, id: 0 }
    }

    fn send(&mut self, line: &[u8]) -> Value {
        let input = self.input.as_mut().expect("it is open");
        input.write_all(line).and_then(|()| input.write_all(b"\n")).expect("it reads");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("it answers");
        serde_json::from_str(&answer).expect("JSON")
    }

    fn ask(&mut self, mut request: Value) -> Value {
        self.id += 1;
        request["id"] = json!(self.id);
        let mut answer = self.send(request.to_string().as_bytes());
        assert_eq!(answer["id"], json!(self.id), "{answer}");
        answer.as_object_mut().expect("an object").remove("id");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("it ends with its input");
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_snapshot_is_fresh_typed_and_says_what_is_broken() {
    let consul = FakeConsul::start();
    consul.put("p/a", b"1");
    consul.put("p/b/c", b"text");
    consul.put("p/folder/", b"");
    consul.put("p/bytes", b"\xff\xfe");
    let mut server = Server::start(&consul.url());
    let request = json!({"op": "snapshot", "options": {"prefix": "p/", "format": "auto"}});
    let answer = server.ask(request.clone());
    assert_eq!(answer["values"], json!({"a": 1, "b/c": "text"}));
    assert!(answer["errors"]["bytes"].as_str().is_some_and(|text| text.contains("p/bytes")), "{answer}");
    assert!(answer["index"].as_u64().is_some_and(|index| index > 0));
    consul.put("p/a", b"2");
    assert_eq!(server.ask(request.clone())["values"]["a"], json!(2));
    consul.deny_keys("p/");
    assert_eq!(server.ask(request)["error"]["code"], json!(77));
}

#[test]
fn services_have_their_instances_in_order() {
    let consul = FakeConsul::start();
    let mut other = Instance::new("n1", "10.0.0.1", "web", 80).tag("t");
    other.id = "web-b".to_owned();
    other.address = "10.9.9.9".to_owned();
    consul.register(Instance::new("n2", "10.0.0.2", "web", 80).tag("t"));
    consul.register(other);
    consul.register(Instance::new("n3", "10.0.0.3", "web", 80).tag("t").status("critical"));
    consul.register(Instance::new("n1", "10.0.0.1", "other", 81));
    let mut server = Server::start(&consul.url());
    let answer = server.ask(json!({"op": "services", "tag": "t"}));
    let addresses = |answer: &Value| -> Vec<String> {
        let list = answer["services"]["web"].as_array().expect("a list");
        list.iter().map(|i| i["address"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(addresses(&answer), ["10.9.9.9", "10.0.0.2"]);
    assert_eq!(answer["services"].as_object().map(serde_json::Map::len), Some(1));
    let answer = server.ask(json!({"op": "services", "tag": "t", "passing": false}));
    assert_eq!(addresses(&answer).len(), 3);
    let answer = server.ask(json!({"op": "services", "name": "other"}));
    assert_eq!(answer["services"]["other"][0]["port"], json!(81));
    consul.set_status("n1", "web-b", "critical");
    consul.set_status("n2", "web", "critical");
    assert_eq!(server.ask(json!({"op": "services", "tag": "t"})), json!({"services": {"web": []}}));
    consul.deny_catalog(true);
    assert_eq!(server.ask(json!({"op": "services"}))["error"]["code"], json!(77));
}

#[test]
fn waiting_ends_with_the_value_or_the_time() {
    let consul = FakeConsul::start();
    let mut server = Server::start(&consul.url());
    let before = Instant::now();
    assert_eq!(server.ask(json!({"op": "wait", "key": "k", "timeout": 0.3})), json!({"found": false}));
    assert!(before.elapsed() >= Duration::from_millis(300));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            consul.put("k", b"v");
        });
        let answer = server.ask(json!({"op": "wait", "key": "k", "timeout": "20s"}));
        assert_eq!(answer, json!({"found": true, "value": "v"}));
    });
    assert!(before.elapsed() < Duration::from_secs(5));
    consul.register(Instance::new("n1", "10.0.0.1", "web", 80).status("critical"));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            consul.set_status("n1", "web", "passing");
        });
        let answer = server.ask(json!({"op": "wait", "service": "web", "timeout": 20}));
        assert_eq!(answer["value"][0]["node"], json!("n1"), "{answer}");
    });
    // Away for a while is part of what is waited for; away to the end is an error.
    consul.fault("kv/late", Fault::Status(500, "No cluster leader".to_owned()));
    assert_eq!(server.ask(json!({"op": "wait", "key": "late", "timeout": 0.5}))["error"]["code"], json!(69));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            consul.put("late", b"1");
            consul.heal();
        });
        assert_eq!(server.ask(json!({"op": "wait", "key": "late", "timeout": 20}))["found"], json!(true));
    });
    consul.deny_keys("secret");
    let before = Instant::now();
    assert_eq!(server.ask(json!({"op": "wait", "key": "secret", "timeout": 20}))["error"]["code"], json!(77));
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[test]
fn nonsense_is_refused_and_the_next_request_answered() {
    let consul = FakeConsul::start();
    let mut server = Server::start(&consul.url());
    for line in [
        &b"nonsense"[..],
        b"[]",
        b"{}",
        b"{\"id\":{},\"op\":\"leader\"}",
        b"\xff\xfe",
        &vec![b'['; 100_000],
        &vec![b'x'; 3 << 20],
    ] {
        let answer = server.send(line);
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(65)), "{answer}");
    }
    for request in [
        json!({"op": "frob"}),
        json!({"op": "snapshot"}),
        json!({"op": "snapshot", "options": {"prefix": "p"}, "extra": 1}),
        json!({"op": "snapshot", "options": []}),
        json!({"op": "leader"}),
        json!({"op": "leader", "name": ""}),
        json!({"op": "wait", "key": "k"}),
        json!({"op": "wait", "key": "k", "timeout": -1}),
        json!({"op": "wait", "key": "k", "timeout": 1e300}),
        json!({"op": "wait", "key": "k", "service": "s", "timeout": 1}),
        json!({"op": "services", "passing": "yes"}),
    ] {
        assert_eq!(server.ask(request.clone())["error"]["code"], json!(65), "{request}");
    }
    assert_eq!(server.ask(json!({"op": "leader", "name": "db"})), json!({"leader": null}));
}

#[test]
fn consul_may_come_and_go() {
    let mut consul = FakeConsul::start();
    consul.put("stacktira/leader/db", br#"{"node":"c1","address":"a"}"#);
    let mut server = Server::start(&consul.url());
    let request = json!({"op": "leader", "name": "db"});
    assert_eq!(server.ask(request.clone())["leader"]["node"], json!("c1"));
    consul.stop();
    assert_eq!(server.ask(request.clone())["error"]["code"], json!(69));
    consul.restart();
    assert_eq!(server.ask(request)["leader"]["node"], json!("c1"));
}

#[test]
fn it_does_not_outlive_its_caller_while_it_waits() {
    let consul = FakeConsul::start();
    let mut server = Server::start(&consul.url());
    let request = b"{\"id\":1,\"op\":\"wait\",\"key\":\"never\",\"timeout\":3600}\n";
    let input = server.input.as_mut().expect("it is open");
    input.write_all(request).expect("it reads");
    assert!(consul.wait_for(Duration::from_secs(10), |requests| !requests.is_empty()));
    let before = Instant::now();
    // Both ends, as when the caller is killed; the wait itself would last an hour.
    drop(server);
    assert!(before.elapsed() < Duration::from_secs(15));
}
