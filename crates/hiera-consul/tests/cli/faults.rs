//! Whatever Consul does wrong, a lookup ends with the right code and one line, and never with the value of
//! a lower level.

use std::process::Command;
use std::time::{Duration, Instant};

use test_support::consul::{FakeConsul, Fault, Instance};

use super::{Ran, Scratch};

const LEVELS: &str = "version: 5
hierarchy:
- name: the node
  lookup_key: stacktira::consul
  options: {prefix: 'hiera/node/n1/'}
- name: everybody
  lookup_key: stacktira::consul
  options: {prefix: hiera/common, services: true}
- name: files
  path: common.yaml
";

/// The client's limit for a whole call.
const LIMIT: Duration = Duration::from_secs(10);

fn world() -> (Scratch, FakeConsul) {
    let (scratch, consul) = (Scratch::new(), FakeConsul::start());
    scratch.write("hiera.yaml", LEVELS);
    scratch.write("data/common.yaml", "motd: made up\nweb_Address: made up\nleader__db: made up\n");
    let port = consul.address().rsplit(':').next().expect("a port").to_owned();
    let paths = "[services, /v1/kv/hiera/node/n1, /v1/kv/hiera/common]";
    scratch.write(
        "hiera3.yaml",
        &format!(
            ":backends: [consul, yaml]\n:hierarchy: [common]\n:yaml:\n  :datadir: '{}'\n:consul:\n  :host: 127.0.0.1\n  :port: {port}\n  :paths: {paths}\n",
            scratch.path("data").display()
        ),
    );
    consul.put("hiera/common/motd", b"common");
    consul.put("stacktira/leader/db", br#"{"node":"c1","address":"10.0.0.1"}"#);
    consul.register(Instance::new("n1", "10.0.0.1", "web", 80));
    (scratch, consul)
}

fn lookup(scratch: &Scratch, consul: &FakeConsul, config: &str, key: &str) -> Command {
    let mut command = scratch.command();
    command.env("CONSUL_HTTP_ADDR", consul.url()).args([
        "lookup",
        "--render-as",
        "json",
        "--hiera_config",
        config,
        key,
    ]);
    command
}

/// What is asked, the requests that fail, and what the one line names.
fn asked() -> [(&'static str, &'static str, &'static str, Vec<&'static str>); 5] {
    [
        ("hiera.yaml", "motd", "", vec!["key 'motd'", "hierarchy 'the node'", "hiera/node/n1/"]),
        ("hiera.yaml", "web_Address", "catalog/", vec!["key 'web_Address'", "hierarchy 'everybody'", "service web"]),
        ("hiera.yaml", "leader__db", "kv/stacktira", vec!["key 'leader__db'", "hierarchy", "leader db"]),
        ("hiera3.yaml", "motd", "", vec!["key 'motd'", "hiera/node/n1/"]),
        ("hiera3.yaml", "web_Address", "catalog/", vec!["key 'web_Address'", "service web"]),
    ]
}

#[test]
fn every_fault_is_its_code_and_one_line() {
    let faults = [
        (Fault::Status(403, "Permission denied".to_owned()), 77),
        (Fault::Status(500, "internal error".to_owned()), 69),
        (Fault::Status(500, "rpc error: No cluster leader".to_owned()), 69),
        (Fault::Status(502, "<html>proxy</html>".to_owned()), 69),
        (Fault::Status(200, String::new()), 69),
        (Fault::Status(301, String::new()), 69),
        (Fault::Truncate, 69),
        (Fault::Close, 69),
        (Fault::Body("<html>proxy</html>".to_owned()), 69),
        (Fault::Body("[{\"Key\": 7}]".to_owned()), 69),
        (Fault::Body("{}".to_owned()), 69),
        (Fault::Body("null".to_owned()), 69),
        (Fault::Body("\u{0}\u{1}\u{2}garbage".to_owned()), 69),
        (Fault::Body("[".repeat(100_000)), 69),
        (Fault::Filtered, 77),
    ];
    let (scratch, consul) = world();
    for (config, key, path, words) in asked() {
        for (fault, code) in &faults {
            consul.fault(path, fault.clone());
            let ran = Ran::from(lookup(&scratch, &consul, config, key).output().expect("it runs"));
            consul.heal();
            let address = consul.url();
            let words: Vec<&str> = words.iter().copied().chain([address.as_str()]).collect();
            let shown = format!("{config} {key} {fault:?}");
            assert_eq!((ran.code, ran.out.as_str()), (*code, ""), "{}: {}", &shown[..shown.len().min(200)], ran.err);
            ran.failed(*code, &words);
        }
        assert_eq!(lookup(&scratch, &consul, config, key).output().expect("it runs").status.code(), Some(0));
    }
}

#[test]
fn a_consul_that_is_down_is_known_at_once() {
    let (scratch, mut consul) = world();
    consul.stop();
    for (config, key, _, words) in asked() {
        let began = Instant::now();
        let ran = Ran::from(lookup(&scratch, &consul, config, key).output().expect("it runs"));
        let words: Vec<&str> = words.iter().copied().filter(|w| !w.contains("web") || !w.contains("service")).collect();
        let address = consul.url();
        assert!(began.elapsed() < LIMIT / 2, "{key}");
        assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{key}: {}", ran.err);
        assert!(ran.err.contains(&address) && ran.err.contains(&format!("key '{key}'")), "{words:?}: {}", ran.err);
    }
}

#[test]
fn stalls_and_drips_end_at_the_limit() {
    let (scratch, consul) = world();
    for n in 0..100 {
        consul.put(&format!("hiera/node/n1/k{n}"), &[b'x'; 100]);
    }
    for fault in [Fault::Hang, Fault::Drip(Duration::from_millis(200))] {
        consul.fault("", fault.clone());
        let began = Instant::now();
        // All at once, so that the test takes as long as one of them.
        let running: Vec<_> = asked()
            .into_iter()
            .map(|(config, key, _, _)| {
                let mut command = lookup(&scratch, &consul, config, key);
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
                (key, command.spawn().expect("it runs"))
            })
            .collect();
        for (key, child) in running {
            let ran = Ran::from(child.wait_with_output().expect("it ends"));
            assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{fault:?} {key}: {}", ran.err);
            let words = ["within 10 s", key, &consul.url()];
            assert!(words.iter().all(|word| ran.err.contains(word)), "{fault:?}: {}", ran.err);
        }
        // Far more than the limit is a limit that is not kept; a busy machine is not.
        let taken = began.elapsed();
        assert!(taken >= LIMIT && taken < 2 * LIMIT, "{fault:?}: {taken:?}");
        consul.heal();
    }
}

#[test]
fn values_of_every_kind_are_read_or_refused_by_name() {
    let (scratch, consul) = world();
    let large = vec![b'x'; 512 * 1024];
    consul.put("hiera/common/large", &large);
    consul.put("hiera/common/bytes", b"\xff\xfe\x00");
    consul.put("hiera/common/deep", &[vec![b'['; 5000], vec![b']'; 5000]].concat());
    consul.put("hiera/common/nul", b"a\0b");
    let of = |key: &str| Ran::from(lookup(&scratch, &consul, "hiera.yaml", key).output().expect("it runs"));
    let ran = of("large");
    assert_eq!((ran.code, ran.out.len()), (0, large.len() + 3), "{}", ran.err);
    of("bytes").failed(65, &["hierarchy 'everybody'", "hiera/common/bytes", "not UTF-8"]);
    of("deep").failed(65, &["hierarchy 'everybody'", "hiera/common/deep", "nested too deep"]);
    of("nul").found("\"a\\u0000b\"");
    // A broken value is nobody else's.
    of("motd").found("\"common\"");
}
