//! What every tool says about itself.

use integration_tests::TOOLS;

use crate::bench::Bench;

#[test]
fn every_tool_has_examples_environment_and_exit_status() {
    let bench = Bench::new();
    for tool in TOOLS {
        let help = bench.run(tool, ["--help"]).is(0);
        assert_eq!(help.err, "", "{tool}");
        let place = |heading: &str| {
            let found = help.out.find(&format!("\n{heading}:\n"));
            found.unwrap_or_else(|| panic!("{tool} --help has no `{heading}:`"))
        };
        assert!(place("Examples") < place("Environment"), "{tool}");
        assert!(place("Environment") < place("Exit status"), "{tool}");
        let section = |heading: &str| {
            let text = &help.out[place(heading) + heading.len() + 3..];
            text.split("\n\n").next().unwrap().to_owned()
        };
        assert!(section("Examples").contains(&format!("  {tool} ")), "{tool}: examples do not show it");
        for code in ["  0 ", if tool == "ts" { "  125 " } else { "  2 " }] {
            assert!(help.out[place("Exit status")..].lines().any(|line| line.starts_with(code)), "{tool}: no {code}");
        }
        assert!(help.out.lines().all(|line| line.chars().count() <= 100), "{tool}: a line is too wide");
        // The short form fits a screen and a half.
        let short = bench.run(tool, ["-h"]).is(0).out;
        assert!(short.lines().count() < help.out.lines().count(), "{tool}");
    }
}

#[test]
fn every_tool_tells_its_version() {
    let bench = Bench::new();
    for tool in TOOLS {
        for flag in ["--version", "-V"] {
            let run = bench.run(tool, [flag]).is(0);
            assert_eq!(run.out, format!("{tool} {}\n", env!("CARGO_PKG_VERSION")));
            assert_eq!(run.err, "");
        }
    }
}

#[test]
fn what_cannot_be_understood_is_usage() {
    let bench = Bench::new();
    for tool in TOOLS {
        let usage = if tool == "ts" { 125 } else { 2 };
        let run = bench.run(tool, ["--no-such-flag"]).is(usage);
        assert_eq!(run.out, "", "{tool}");
        assert!(run.err.lines().next().unwrap().contains("'--no-such-flag'"), "{tool}: {}", run.err);
        assert_eq!(run.err.lines().filter(|line| line.contains("error:")).count(), 1, "{tool}: {}", run.err);
        let run = bench.run(tool, [""; 0]).is(usage);
        assert_eq!(run.out, "", "{tool}");
    }
    // Where the code belongs to a child, the tool's own is 125.
    bench.run("consul-elect", ["run", "--no-such-flag", "name", "true"]).is(125);
    bench.run("consul-watch-handler", ["handle", "--type", "no-such-type", "true"]).is(125);
}
