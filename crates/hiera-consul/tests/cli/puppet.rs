//! Puppet's functions, run by a real Puppet where there is one.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::consul::{FakeConsul, Instance};

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
        let tools = Path::new(env!("CARGO_BIN_EXE_hiera-consul")).parent().expect("a directory");
        let mut command = Command::new("puppet");
        command.args(["apply", "--color=false", "--noop", "--facts_terminus", "memory", "--confdir"]);
        command.arg(self.scratch.path("conf")).arg("--vardir").arg(self.scratch.path("var"));
        command.arg("--hiera_config").arg(self.scratch.path("hiera.yaml")).arg("--modulepath").arg(&self.modules);
        command.env("CONSUL_HTTP_ADDR", self.consul.url()).env("STACKTIRA_BIN", tools).args(["-e", code]);
        command.output().expect("puppet runs").into()
    }
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
fn the_coprocess_is_replaced_when_it_dies_and_killed_when_it_hangs() {
    if !there("ruby") {
        return;
    }
    let scratch = Scratch::new();
    let consul = FakeConsul::start();
    consul.put("stacktira/leader/db", br#"{"node":"c1","address":"a"}"#);
    let hanging = scratch.write("hanging/hiera-consul", "#!/bin/sh\nexec sleep 1000\n");
    let babbling =
        scratch.write("babbling/hiera-consul", "#!/bin/sh\nwhile read -r line; do echo '{\"id\":0}'; done\n");
    let dying = scratch.write("dying/hiera-consul", "#!/bin/sh\nexit 3\n");
    for script in [&hanging, &babbling, &dying] {
        std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
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
    let tools = Path::new(env!("CARGO_BIN_EXE_hiera-consul")).parent().expect("a directory");
    let mut command = Command::new("ruby");
    command.arg(script).arg(library).arg(scratch.path(""));
    command.env("CONSUL_HTTP_ADDR", consul.url()).env("STACKTIRA_BIN", tools);
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
