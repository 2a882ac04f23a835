//! Puppet's functions, run by a real Puppet where there is one.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::consul::{FakeConsul, Fault, Instance};

use super::{Ran, Scratch};

struct Puppet {
    scratch: Scratch,
    consul: FakeConsul,
    modules: PathBuf,
}

/// Tells whether a program is on PATH; says on stderr that a test is skipped when it is not.
fn there(name: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(name).exists()));
    if !found {
        let _ = writeln!(std::io::stderr(), "skipped: there is no {name} on PATH");
    }
    found
}

impl Puppet {
    /// `None` where Puppet is not installed.
    fn new() -> Option<Puppet> {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../provision/puppet/site-modules");
        if !there("puppet") {
            return None;
        }
        let scratch = Scratch::new();
        scratch.write(
            "hiera.yaml",
            "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera/common, services: true}}\n",
        );
        Some(Puppet { scratch, consul: FakeConsul::start(), modules })
    }

    fn apply(&self, code: &str) -> Ran {
        self.apply_with(tools(), code)
    }

    /// Applies with the tools of another directory.
    fn apply_with(&self, tools: &Path, code: &str) -> Ran {
        let mut command = Command::new("puppet");
        command.args(["apply", "--color=false", "--noop", "--facts_terminus", "memory", "--confdir"]);
        command.arg(self.scratch.path("conf")).arg("--vardir").arg(self.scratch.path("var"));
        command.arg("--hiera_config").arg(self.scratch.path("hiera.yaml")).arg("--modulepath").arg(&self.modules);
        command.env("CONSUL_HTTP_ADDR", self.consul.url()).env("STACKTIRA_BIN", tools).args(["-e", code]);
        command.env("STACKTIRA_ANSWER_SECONDS", "5").env("STACKTIRA_ROOT", self.scratch.path("root"));
        command.output().expect("puppet runs").into()
    }
}

/// The directory of the tools under test.
fn tools() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_hiera-consul")).parent().expect("a directory")
}

/// Makes a directory whose `hiera-consul` is a script.
fn pretender(scratch: &Scratch, name: &str, script: &str) -> PathBuf {
    let path = scratch.write(&format!("{name}/hiera-consul"), &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    path.parent().expect("a directory").to_owned()
}

#[test]
fn a_run_survives_a_coprocess_that_dies_and_fails_by_name_with_one_that_is_none() {
    let Some(puppet) = Puppet::new() else { return };
    puppet.consul.put("hiera/common/n", b"41");
    puppet.consul.put("stacktira/leader/db", br#"{"node":"c1","address":"10.0.0.1"}"#);
    let once = format!("read -r line; printf '%s\\n' \"$line\" | {}/hiera-consul serve", tools().display());
    let dying = pretender(&puppet.scratch, "dying", &once);
    let ran = puppet.apply_with(&dying, "notice(lookup('n') + 1, lookup('leader__db'), stacktira::leader('db'))");
    assert!(ran.code == 0 && ran.out.contains(": 42 c1 c1\n"), "{} {}", ran.out, ran.err);
    let fails = |name: &str, script: &str, words: &str| {
        let ran = puppet.apply_with(
            &pretender(&puppet.scratch, name, script),
            "$x = lookup('n', undef, undef, 'made up') notice($x)",
        );
        let all = format!("{}{}", ran.out, ran.err);
        assert!(ran.code == 1 && all.contains(words) && !all.contains("made up"), "{name}: {all}");
    };
    fails("hanging", "trap '' TERM; while :; do sleep 1000; done", "no answer within 5 s");
    fails("babbling", "exec yes garbage", "an answer that is not JSON");
    fails("killed", "read -r line; kill -9 $$", "serve cannot be used");
    version3(&puppet.scratch, &puppet.consul, "graceful");
    fails("lying", "while read -r line; do echo '{\"id\":1,\"paths\":7}'; done", "hiera-consul serve");
}

#[test]
fn a_catalog_sees_consul_and_fails_without_it() {
    let Some(mut puppet) = Puppet::new() else { return };
    puppet.consul.put("hiera/common/n", b"41");
    puppet.consul.put("hiera/common/who", b"%{lookup('n')}!");
    puppet.consul.put("stacktira/leader/db", br#"{"node":"c1","address":"10.0.0.1"}"#);
    puppet.consul.register(Instance::new("n1", "10.0.0.1", "web", 80).tag("t"));
    let ran = puppet.apply(
        "notice(lookup('n') + 1)
         notice(lookup('who'))
         notice(lookup('missing', undef, undef, 'dflt'))
         notice(lookup('web_ServicePort'))
         notice(lookup('leader__db'), stacktira::leader('db'), stacktira::leader('none') =~ Undef)
         notice(stacktira::services('t')['web'][0]['address'])
         notice(stacktira::wait_for('hiera/common/n', 5))
         notice(stacktira::wait_for('service:web', 5)[0]['port'])",
    );
    let said: Vec<_> = ran.out.lines().filter_map(|line| line.strip_prefix("Notice: Scope(Class[main]): ")).collect();
    assert_eq!(said, ["42", "41!", "dflt", "80", "c1 c1 true", "10.0.0.1", "41", "80"], "{} {}", ran.out, ran.err);
    // One read of the level for all its keys.
    let reads = puppet.consul.requests().iter().filter(|r| r.contains("recurse")).count();
    assert_eq!(reads, 1, "{:?}", puppet.consul.requests());
    // Three levels, two of them in one option of the defaults: one read of one state, and one for each service.
    puppet.scratch.write(
        "hiera.yaml",
        "version: 5\ndefaults: {lookup_key: 'stacktira::consul', options: {prefix: hiera/common, services: true}}\n\
         hierarchy:\n- {name: n, options: {prefix: 'hiera/node/%{facts.none}x/'}}\n- {name: c}\n\
         - {name: f, data_hash: yaml_data, path: none.yaml}\n- {name: o, options: {prefix: other}}\n",
    );
    puppet.consul.put("other/o", b"1");
    let before = puppet.consul.requests().len();
    let ran = puppet.apply(
        "notice(lookup('n') + lookup('o'))
         notice(lookup('web_ServicePort'), lookup('web_Address'))
         Integer[1, 50].each |$n| { lookup(\"none_${n}\", undef, undef, 0) }",
    );
    assert!(ran.out.contains(": 42\n") && ran.out.contains(": 80 10.0.0.1\n"), "{} {}", ran.out, ran.err);
    let requests = &puppet.consul.requests()[before..];
    assert_eq!(requests, ["PUT /v1/txn", "GET /v1/catalog/service/web"]);
    let failing = |ran: Ran, word: &str| {
        let all = format!("{}{}", ran.out, ran.err);
        assert_eq!(ran.code, 1, "{all}");
        assert!(all.contains(word) && !all.contains("made up"), "{all}");
    };
    failing(puppet.apply("stacktira::wait_for('nope', 1)"), "nope is not there after 1 s");
    puppet.consul.stop();
    let code = "$x = lookup('n', undef, undef, 'made up') notice($x)";
    failing(puppet.apply(code), "no answer from Consul");
}

#[test]
fn a_catalog_compiles_through_an_outage_where_its_levels_are_kept() {
    let Some(mut puppet) = Puppet::new() else { return };
    puppet.scratch.write(
        "hiera.yaml",
        "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera/common, stale_if_error: 1h}}\n",
    );
    puppet.consul.put("hiera/common/n", b"41");
    let code = "notice(lookup('n') + 1, lookup('none', undef, undef, 'dflt'))";
    let ran = puppet.apply(code);
    assert!(ran.code == 0 && ran.out.contains(": 42 dflt\n"), "{} {}", ran.out, ran.err);
    assert!(!format!("{}{}", ran.out, ran.err).contains("Warning: stacktira"), "{} {}", ran.out, ran.err);
    puppet.consul.fault("", Fault::Status(403, "Permission denied".to_owned()));
    let ran = puppet.apply(code);
    assert!(ran.code == 1 && !ran.out.contains("42"), "{} {}", ran.out, ran.err);
    puppet.consul.heal();
    assert_eq!(puppet.apply(code).code, 0);
    puppet.consul.stop();
    let ran = puppet.apply(code);
    assert!(ran.code == 0 && ran.out.contains(": 42 dflt\n"), "{} {}", ran.out, ran.err);
    let said = format!("{}{}", ran.out, ran.err);
    assert_eq!(said.matches("Warning: stacktira::consul: no answer from Consul").count(), 1, "{said}");
    assert!(said.contains("going on with the keys below hiera/common/ as they were"), "{said}");
}

#[test]
fn manifests_publish_values_and_wait_for_those_of_others() {
    let Some(puppet) = Puppet::new() else { return };
    if !tools().join("consul-kv").exists() {
        let _ = writeln!(std::io::stderr(), "skipped: consul-kv is not built: cargo test --workspace");
        return;
    }
    puppet.consul.put("test/old", b"x");
    let manifest = puppet.scratch.write(
        "site.pp",
        "stacktira_kv { 'test/published': value => 'hello' }
         -> stacktira_wait { 'test/published': timeout => 5 }
         -> notify { 'after': }
         stacktira_wait { 'test/never': timeout => 1 } -> notify { 'never': }
         stacktira_kv { 'test/old': ensure => absent }",
    );
    let apply = || -> Ran {
        let mut command = Command::new("puppet");
        command.args(["apply", "--color=false", "--detailed-exitcodes", "--facts_terminus", "memory", "--confdir"]);
        command.arg(puppet.scratch.path("conf")).arg("--vardir").arg(puppet.scratch.path("var"));
        command.arg("--modulepath").arg(&puppet.modules).arg(&manifest);
        command.env("CONSUL_HTTP_ADDR", puppet.consul.url()).env("STACKTIRA_BIN", tools());
        command.output().expect("puppet runs").into()
    };
    let ran = apply();
    let said = format!("{}{}", ran.out, ran.err);
    // Changes and failures.
    assert_eq!(ran.code, 6, "{said}");
    assert!(said.contains("test/never is not there after 1 s") && said.contains("Notify[never]: Skipping"), "{said}");
    assert!(said.contains("defined 'message' as 'after'") && !said.contains("as 'never'"), "{said}");
    assert_eq!(puppet.consul.get("test/published").as_deref(), Some(&b"hello"[..]));
    assert_eq!(puppet.consul.get("test/old"), None);
    // What is published already is no change.
    puppet.consul.put("test/never", b"now");
    let said = apply().out;
    assert!(!said.contains("Stacktira_kv[") && said.contains("as 'never'"), "{said}");
}

/// The original's kind of hiera.yaml: nine levels, `services` and a prefix.
fn version3(scratch: &Scratch, consul: &FakeConsul, failure: &str) -> PathBuf {
    let port = consul.address().rsplit(':').next().expect("a port").to_owned();
    scratch.write(
        "data/common.yaml",
        "motd: file\nboth: file\nurl: \"http://%{hiera('service_hash__lb__web__Address')}/\"\n",
    );
    let levels: Vec<_> = (0..8).map(|n| format!("level{n}/%{{hostname}}")).collect();
    scratch.write(
        "hiera.yaml",
        &format!(
            "---\n:backends: [consul, yaml]\n:hierarchy: [{}, common]\n:yaml:\n  :datadir: '{}'\n:consul:\n  \
             :host: 127.0.0.1\n  :port: {port}\n  :failure: {failure}\n  \
             :paths: [services, '/v1/kv/hiera/host/%{{hostname}}', /v1/kv/hiera]\n",
            levels.iter().map(|level| format!("'{level}'")).collect::<Vec<_>>().join(", "),
            scratch.path("data").display()
        ),
    )
}

/// Where Puppet keeps how often it asks a backend.
const PROVIDERS: &str = "Puppet::Pops::Lookup::V3BackendFunctionProvider";

#[test]
fn a_version_3_file_needs_no_change() {
    let Some(mut puppet) = Puppet::new() else { return };
    version3(&puppet.scratch, &puppet.consul, "hard");
    puppet.consul.put("hiera/n", b"42");
    puppet.consul.put("hiera/both", b"stored");
    puppet.consul.register(Instance::new("c1", "10.0.0.1", "web", 80).tag("lb"));
    let missing = "Integer[1, 300].each |$n| { lookup(\"none${n}\", undef, undef, 0) }";
    let ran = puppet.apply(&format!(
        "notice(lookup('n'))
         notice(lookup('motd'))
         notice(lookup('url'))
         notice(lookup('web_ServicePort'))
         notice(lookup('service_hash__lb__web__Address__array.0'))
         notice(lookup({{name => 'both', merge => unique}}))
         notice(inline_template('<%= ObjectSpace.each_object({PROVIDERS}).map {{ |p| p.locations.size }} %>'))
         {missing}"
    ));
    let said: Vec<_> = ran.out.lines().filter_map(|line| line.strip_prefix("Notice: Scope(Class[main]): ")).collect();
    // This Puppet asks the backend twice for each key, not for each of the nine levels.
    assert_eq!(
        said,
        ["42", "file", "http://10.0.0.1/", "80", "10.0.0.1", "[stored, file]", "[2]"],
        "{} {}",
        ran.out,
        ran.err
    );
    // One for all keys, one for each service.
    assert_eq!(puppet.consul.requests(), ["GET /v1/kv/hiera/?recurse", "GET /v1/catalog/service/web"]);
    // A refusal ends the run; a Consul out of reach does where failure is hard.
    puppet.consul.deny_keys("hiera/");
    let ran = puppet.apply("notice(lookup('motd', undef, undef, 'made up'))");
    assert!(ran.code == 1 && !ran.out.contains("Scope(Class[main])"), "{} {}", ran.out, ran.err);
    puppet.consul.stop();
    let ran = puppet.apply("notice(lookup('motd', undef, undef, 'made up'))");
    assert!(ran.code == 1 && format!("{}{}", ran.out, ran.err).contains("no answer from Consul"), "{}", ran.err);
    version3(&puppet.scratch, &puppet.consul, "graceful");
    let ran = puppet.apply("notice(lookup('motd', undef, undef, 'made up'))");
    assert!(ran.code == 0 && ran.out.contains("Scope(Class[main]): file"), "{} {}", ran.out, ran.err);
    assert!(format!("{}{}", ran.out, ran.err).contains("graceful"), "{} {}", ran.out, ran.err);
}

#[test]
fn the_hiera_command_and_ours_agree_on_a_version_3_file() {
    if !there("hiera") {
        return;
    }
    let scratch = Scratch::new();
    let consul = FakeConsul::start();
    let config = version3(&scratch, &consul, "hard");
    consul.put("hiera/n", b"42");
    consul.put("hiera/host/n1/who", b"%{hostname}");
    consul.put("hiera/with space", b"x");
    for (node, address) in [("c1", "10.0.0.1"), ("c2", "10.0.0.2")] {
        consul.register(Instance::new(node, address, "web", 80).tag("lb"));
    }
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../provision/puppet/site-modules/stacktira/lib");
    for key in [
        "n",
        "who",
        "motd",
        "web_Address",
        "web_Address_c2",
        "web_ServiceID",
        "service_hash",
        "service_hash__lb",
        "service_hash__lb__web__Address",
        "service_hash__lb__web__Address__hash",
        "service_hash__lb__none__Address__array",
        "nope",
    ] {
        let mut theirs = Command::new("hiera");
        theirs.args(["-f", "json", "-c"]).arg(&config).arg(key).arg("hostname=n1");
        theirs.env("RUBYLIB", &library).env("STACKTIRA_BIN", tools());
        let theirs = Ran::from(theirs.output().expect("hiera runs"));
        let mut ours = scratch.command();
        ours.args(["lookup", "--render-as", "json", "--scope", "hostname=n1", "--hiera_config"]).arg(&config).arg(key);
        let ours = Ran::from(ours.output().expect("it runs"));
        let absent = theirs.out.trim() == "null";
        assert_eq!(ours.code, i32::from(absent), "{key}: {} {} {}", theirs.out, theirs.err, ours.err);
        if !absent {
            let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            assert_eq!(json(&ours.out), json(&theirs.out), "{key}");
        }
    }
}

#[test]
fn the_coprocess_is_replaced_when_it_dies_and_killed_when_it_hangs() {
    if !there("ruby") {
        return;
    }
    let scratch = Scratch::new();
    let consul = FakeConsul::start();
    consul.put("stacktira/leader/db", br#"{"node":"c1","address":"a"}"#);
    pretender(&scratch, "hanging", "exec sleep 1000");
    pretender(&scratch, "babbling", "while read -r line; do echo '{\"id\":0}'; done");
    pretender(&scratch, "dying", "exit 3");
    let script = scratch.write(
        "test.rb",
        r##"
require ARGV[0]
Coprocess = PuppetX::Stacktira::Coprocess
def leader(seconds = 30)
  Coprocess.ask('leader', { 'name' => 'db' }, seconds)['leader']['node']
rescue PuppetX::Stacktira::Unanswered => e
  "#{e.code} #{e.message}"
end
puts leader
instance = Coprocess.instance_variable_get(:@instances).values.first
Process.kill(:KILL, instance.instance_variable_get(:@pid))
puts leader
reader, writer = IO.pipe
child = fork { writer.puts(leader) }
Process.wait(child)
puts reader.gets
puts leader
%w[hanging babbling dying missing].each do |kind|
  ENV['STACKTIRA_BIN'] = File.join(ARGV[1], kind)
  before = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  puts leader(1)
  raise 'too late' if Process.clock_gettime(Process::CLOCK_MONOTONIC) - before > 10
end
"##,
    );
    let library = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../provision/puppet/site-modules/stacktira/lib/puppet_x/stacktira/coprocess.rb");
    let mut command = Command::new("ruby");
    command.arg(script).arg(library).arg(scratch.path(""));
    command.env("CONSUL_HTTP_ADDR", consul.url()).env("STACKTIRA_BIN", tools());
    let ran = Ran::from(command.output().expect("ruby runs"));
    let said: Vec<_> = ran.out.lines().collect();
    assert_eq!((ran.code, said.len()), (0, 8), "{} {}", ran.out, ran.err);
    assert_eq!(said[..4], ["c1"; 4], "{}", ran.err);
    for (line, words) in
        said[4..].iter().zip(["no answer within 1 s", "answer to another question", "cannot be used", "No such file"])
    {
        assert!(line.starts_with("69 ") && line.contains(words), "{line}");
    }
}
