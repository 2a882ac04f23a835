//! Staged rollouts through a real Consul; nodes run the real `apply` and say how their runs went.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use consul_client::{Client, Config, Overrides, Query};
use serde_json::{Value, json};
use test_support::real_consul::RealConsul;

use crate::support::{Run, Server, Site, has, wait};

const NODES: [(&str, &str); 5] =
    [("build1", "build"), ("hyper1", "hyper"), ("hyper2", "hyper"), ("hyper3", "hyper"), ("hyper4", "hyper")];

struct Cluster {
    site: Site,
    server: Server,
    consul: RealConsul,
    client: Client,
    /// Snapshots with which runs fail.
    broken: Vec<String>,
    /// Snapshots that each node has had, in order.
    seen: BTreeMap<&'static str, Vec<String>>,
}

impl Cluster {
    fn new() -> Option<Cluster> {
        if !has("dpkg-deb") {
            return None;
        }
        let consul = RealConsul::start(&json!({}))?;
        let mut site = Site::new();
        site.environment.push(("CONSUL_HTTP_ADDR".into(), consul.url()));
        site.write_config_with("consul: {}\n");
        let server = site.serve();
        let overrides = Overrides { address: Some(consul.url()), ..Overrides::default() };
        let client =
            Client::new(&Config::from_env(|_| None).expect("empty").with(&overrides).expect("a URL")).expect("made");
        let cluster = Cluster { site, server, consul, client, broken: Vec::new(), seen: BTreeMap::new() };
        for (node, role) in NODES {
            let config = format!(
                "consul: {{}}\nlimits: {{retries: 0, stall: 5s}}\nnode: {{mirror: '{}', channel: stable, name: {node}, \
                 role: {role}, keyring: {}, update: false}}\n",
                cluster.server.url(),
                cluster.site.text("site.gpg"),
            );
            std::fs::write(cluster.site.path(&format!("{node}.yaml")), config).expect("writable");
        }
        Some(cluster)
    }

    fn snapshot(&self, version: &str) -> String {
        self.site.deb("st-a", version, "");
        self.site.snapshot()
    }

    fn apply(&self, node: &str) -> Run {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mirror-sync"));
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("a PATH"));
        command.env("CONSUL_HTTP_ADDR", self.consul.url()).env("STACKTIRA_ROOT", self.site.path(node));
        command.arg("--config").arg(self.site.path(&format!("{node}.yaml"))).arg("apply").stdin(Stdio::null());
        Run::from(command.output().expect("runs"))
    }

    fn has(&self, node: &str) -> String {
        let sources = self.site.path(&format!("{node}/etc/apt/sources.list.d/stacktira.sources"));
        let text = std::fs::read_to_string(sources).unwrap_or_default();
        text.lines().next().unwrap_or_default().rsplit(' ').next().unwrap_or_default().to_owned()
    }

    /// What `provision/converge.sh` does on a node, as far as a rollout sees it.
    fn converge(&mut self, node: &'static str) {
        self.apply(node).is(0);
        let id = self.has(node);
        let fails = self.broken.contains(&id);
        let state = json!({"v": 1, "node": node, "state": if fails { "failed" } else { "converged" },
            "started": format!("{:?}", Instant::now()), "mirror": id});
        self.client.kv().put(&format!("stacktira/node/{node}"), state.to_string().as_bytes()).expect("written");
        let seen = self.seen.entry(node).or_default();
        if seen.last() != Some(&id) {
            seen.push(id);
        }
    }

    fn converge_all(&mut self) {
        for (node, _) in NODES {
            self.converge(node);
        }
    }

    fn rollout(&self, arguments: &[&str]) -> Child {
        let mut command = self.site.command(&["-v", "rollout"]);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs")
    }

    /// Lets the nodes run until the rollout has ended.
    #[track_caller]
    fn until_ended(&mut self, mut child: Child) -> Run {
        let deadline = Instant::now() + Duration::from_secs(60);
        while wait(&mut child, Duration::from_millis(50)).is_none() {
            assert!(Instant::now() < deadline, "{}", self.status());
            self.converge_all();
        }
        Run::from(child.wait_with_output().expect("ended"))
    }

    fn pointer(&self) -> String {
        let pair = self.client.kv().get("stacktira/mirror/channel/stable", &Query::consistent()).expect("answers");
        String::from_utf8(pair.value.expect("there").value).expect("text")
    }

    fn status(&self) -> String {
        self.site.run(&["rollout", "status"]).is(0).out
    }

    fn check(&self, node: &str, status: &str) {
        let body = json!({"Node": node, "Address": "127.0.0.1", "Check": {"Node": node, "CheckID": "service:web",
            "Name": "web", "Status": status}});
        let url = format!("{}/v1/catalog/register", self.consul.url());
        ureq::put(&url).send(body.to_string().as_bytes()).expect("registered");
    }
}

const START: [&str; 8] = ["--canary", "role=build", "--waves", "50%", "--settle", "0s", "--failed-runs", "0"];

#[test]
fn a_version_reaches_canaries_then_waves_then_all_and_a_broken_one_goes_back() {
    let Some(mut cluster) = Cluster::new() else { return };
    let first = cluster.snapshot("1.0");
    cluster.site.run(&["promote", &first, "--channel", "stable"]).is(0);
    let nobody = cluster.site.run(&["rollout", "start", &first, "--channel", "stable"]).is(1);
    assert!(nobody.err.contains("no node"), "{}", nobody.err);
    cluster.converge_all();

    // A new version in the source changes nothing for anybody.
    let second = cluster.snapshot("2.0");
    cluster.converge_all();
    assert!(NODES.iter().all(|(node, _)| cluster.has(node) == first));

    let mut start = vec!["start", &second, "--channel", "stable"];
    start.extend(START);
    let mut dry = vec!["rollout"];
    dry.extend(&start);
    dry.push("--dry-run");
    let plan = cluster.site.run(&dry).is(0).out;
    assert_eq!(plan.lines().next(), Some("canary build1"), "{plan}");
    let child = cluster.rollout(&start);
    let said = cluster.until_ended(child).is(0).err;
    assert_eq!(cluster.pointer(), second);
    assert_eq!(cluster.site.pointer("stable").as_deref(), Some(second.as_str()));
    let stages: Vec<&str> = said.lines().filter(|line| line.contains(": stage ")).collect();
    assert_eq!(stages.len(), 3, "{said}");
    assert!(stages[0].contains("build1") && stages[0].contains("1 of 3"), "{said}");
    cluster.converge_all();
    assert!(NODES.iter().all(|(node, _)| cluster.has(node) == second));
    // What was planned is what was done.
    for (line, said) in plan.lines().zip(&stages) {
        let nodes = line.split(' ').nth(1).expect("nodes").replace(',', ", ");
        assert!(said.ends_with(&nodes), "{line} / {said}");
    }

    let third = cluster.snapshot("3.0-broken");
    cluster.broken.push(third.clone());
    start[1] = &third;
    let child = cluster.rollout(&start);
    let said = cluster.until_ended(child).is(1).err;
    assert!(said.contains("went back") && said.contains("build1"), "{said}");
    assert_eq!(cluster.pointer(), second);
    cluster.converge_all();
    for (node, _) in NODES {
        assert_eq!(cluster.has(node), second, "{node}");
        assert_eq!(cluster.seen[node].contains(&third), node == "build1", "{node}: {:?}", cluster.seen[node]);
    }
    assert!(cluster.status().contains("went back"), "{}", cluster.status());

    // A check that fails since the new version counts as much, one that failed before does not.
    cluster.check("hyper1", "critical");
    let fourth = cluster.snapshot("4.0");
    start[1] = &fourth;
    start.extend(["--wait", "1s"]);
    cluster.check("build1", "passing");
    let child = cluster.rollout(&start);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !cluster.status().contains("stage 1") {
        assert!(Instant::now() < deadline, "{}", cluster.status());
    }
    cluster.check("build1", "critical");
    let said = cluster.until_ended(child).is(1).err;
    assert!(said.contains("build1: check service:web"), "{said}");
    cluster.check("build1", "passing");
    start.truncate(start.len() - 2);
    let child = cluster.rollout(&start);
    cluster.until_ended(child).is(0);
    assert_eq!(cluster.pointer(), fourth);
}

#[test]
fn a_rollout_whose_process_is_killed_goes_on_where_it_was() {
    let Some(mut cluster) = Cluster::new() else { return };
    let first = cluster.snapshot("1.0");
    cluster.site.run(&["promote", &first, "--channel", "stable"]).is(0);
    cluster.converge_all();
    let second = cluster.snapshot("2.0");
    let mut start = vec!["rollout", "start", &second, "--channel", "stable", "--detach"];
    start.extend(START);
    cluster.site.run(&start).is(0);
    cluster.site.run(&start).is(75);
    let busy = cluster.site.run(&["promote", &first, "--channel", "stable"]).is(75);
    assert!(busy.err.contains("rollout"), "{}", busy.err);
    cluster.site.run(&["rollback", "--channel", "stable"]).is(75);
    // What is under way is in use.
    cluster.site.write_config_with("consul: {}\nkeep: 0\ngrace: 0s\n");
    cluster.site.run(&["gc"]).is(0);
    assert!(cluster.site.published(&first).exists() && cluster.site.published(&second).exists());
    let mut ended = None;
    for round in 0..40u64 {
        let mut child = cluster.rollout(&["resume"]);
        ended = wait(&mut child, Duration::from_millis(37 * (round + 1)));
        let _ = child.kill();
        child.wait().expect("ours");
        if ended.is_some() {
            break;
        }
        cluster.converge_all();
    }
    assert!(ended.is_some_and(|status| status.success()), "{}", cluster.status());
    assert_eq!(cluster.pointer(), second);
    cluster.converge_all();
    assert!(NODES.iter().all(|(node, _)| cluster.has(node) == second));
    cluster.site.run(&["rollback", "--channel", "stable"]).is(0);
    assert_eq!(cluster.pointer(), first);
    cluster.site.run(&["rollout", "abort", "--channel", "stable"]).is(1);
}

#[test]
fn roles_and_nodes_can_have_pointers_of_their_own() {
    let Some(mut cluster) = Cluster::new() else { return };
    let first = cluster.snapshot("1.0");
    let second = cluster.snapshot("2.0");
    cluster.site.run(&["promote", &first, "--channel", "stable"]).is(0);
    cluster.site.run(&["promote", &second, "--channel", "edge"]).is(0);
    cluster.converge_all();
    assert_eq!(cluster.has("hyper1"), first);
    cluster.site.run(&["promote", "edge", "--role", "hyper", "--reason", "try"]).is(0);
    cluster.site.run(&["promote", &first, "--node", "hyper2"]).is(0);
    cluster.converge_all();
    assert_eq!(NODES.map(|(node, _)| cluster.has(node) == second), [false, true, false, true, true]);
    cluster.site.run(&["unpin", "--role", "hyper"]).is(0);
    cluster.converge_all();
    assert!(NODES.iter().all(|(node, _)| cluster.has(node) == first));
    cluster.site.run(&["rollback", "--role", "hyper"]).is(0);
    cluster.converge_all();
    assert_eq!(cluster.has("hyper1"), second);
    let history =
        cluster.client.kv().get("stacktira/mirror/history/role/hyper", &Query::consistent()).expect("answers");
    let history: Value = serde_json::from_slice(&history.value.expect("there").value).expect("JSON");
    assert_eq!(history["moves"].as_array().map(Vec::len), Some(3));
    assert_eq!(history["moves"][0]["why"], "try");
    cluster.site.run(&["promote", "nowhere", "--role", "hyper"]).is(65);
    cluster.site.run(&["promote", &"0".repeat(64), "--node", "hyper1"]).is(1);
    cluster.site.run(&["promote", &first, "--node", "../x"]).is(2);
    cluster.site.run(&["promote", &first]).is(2);
    cluster.site.run(&["promote", "edge", "--channel", "stable"]).is(1);
}
