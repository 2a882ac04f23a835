//! Puppet's functions, run by a real Puppet where there is one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::consul::{FakeConsul, Instance};

use super::{Ran, Scratch};

struct Puppet {
    scratch: Scratch,
    consul: FakeConsul,
    modules: PathBuf,
}

impl Puppet {
    /// `None`, said on stderr, where Puppet is not installed.
    fn new() -> Option<Puppet> {
        let there = |name: &str| {
            std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(name).exists()))
        };
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../provision/puppet/site-modules");
        if !there("puppet") {
            let _ = writeln!(std::io::stderr(), "skipped: there is no puppet on PATH");
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
