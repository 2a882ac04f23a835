use std::time::{Duration, Instant};

use serde_json::json;
use test_support::real_consul::RealConsul;

use crate::{Worker, command, elect, lines};

#[test]
fn against_a_real_consul() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let url = consul.url();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = format!("echo start $STACKTIRA_FENCING_TOKEN >> '{0}'; sleep 0.2; echo end >> '{0}'", log.display());
    let arguments = ["run", "--timeout", "60s", "db", "--", "sh", "-c", &script];
    let all: Vec<_> = (0..3).map(|_| command(&url, &arguments).spawn().unwrap()).collect();
    for mut one in all {
        assert_eq!(one.wait().unwrap().code(), Some(0));
    }
    let lines = lines(&log);
    let tokens: Vec<u64> = lines.iter().filter_map(|l| l.strip_prefix("start ")).map(|t| t.parse().unwrap()).collect();
    assert!(tokens.len() == 3 && tokens.is_sorted(), "{lines:?}");
    assert!(lines.chunks(2).all(|pair| pair[1] == "end"), "{lines:?}");
    assert_eq!(elect(&url, &["show", "db"]).0, 1);
    let chosen = elect(&url, &["once", "db", "--mine"]);
    assert!(chosen.0 == 0 && chosen.1.starts_with("real1 127.0.0.1 "), "{chosen:?}");
    assert_eq!(elect(&url, &["show", "--consistent", "db"]).1, chosen.1);
    assert_eq!(elect(&url, &["once", "db", "--reset"]).0, 0);
}

#[test]
fn slots_of_a_real_consul() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = format!("echo + >> '{0}'; sleep 0.3; echo - >> '{0}'", log.display());
    let arguments = ["-q", "slot", "pool", "--limit", "2", "--timeout", "60s", "--", "sh", "-c", &script];
    let all: Vec<_> = (0..5).map(|_| command(&consul.url(), &arguments).spawn().unwrap()).collect();
    for mut one in all {
        assert_eq!(one.wait().unwrap().code(), Some(0));
    }
    let lines = lines(&log);
    let running = lines.iter().scan(0, |now, line| {
        *now += if line == "+" { 1 } else { -1 };
        Some(*now)
    });
    assert!(lines.len() == 10 && running.max() == Some(2), "{lines:?}");
}

#[test]
#[ignore = "takes most of a minute: Consul grants a session up to twice its TTL"]
fn a_successor_acts_within_44_seconds_of_a_kill() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut worker = Worker::start(&consul.url(), &[], "");
    worker.signal("-KILL");
    let start = Instant::now();
    worker.owner.wait().unwrap();
    worker.is_dead();
    assert_eq!(elect(&consul.url(), &["run", "--timeout", "60s", "db", "--", "true"]).0, 0);
    assert!(start.elapsed() < Duration::from_secs(44), "{:?}", start.elapsed());
}
