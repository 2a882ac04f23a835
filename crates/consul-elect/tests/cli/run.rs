use std::time::{Duration, Instant};

use test_support::consul::{FakeConsul, Fault};

use crate::{Worker, children, command, elect, eventually, kill, leads, lines};

#[test]
fn the_command_runs_as_leader_and_its_code_comes_through() {
    let consul = FakeConsul::start();
    let url = consul.url();
    let mut last = 0;
    for _ in 0..3 {
        let script = "echo $STACKTIRA_LEADER $STACKTIRA_FENCING_TOKEN; exit 7";
        let (code, out, err) = elect(&url, &["run", "db", "--", "sh", "-c", script]);
        assert_eq!((code, err.as_str()), (7, ""));
        let token: u64 = out.trim().strip_prefix("db ").unwrap().parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
        assert!(!leads(&consul) && consul.sessions().is_empty(), "leadership is given back");
    }
    assert_eq!(elect(&url, &["run", "db", "sh", "-c", "kill -KILL $$"]).0, 137);
}

#[test]
fn wrapper_codes() {
    let consul = FakeConsul::start();
    let url = consul.url();
    assert_eq!(elect(&url, &["run", "db", "--", "/nonexistent/x"]).0, 127);
    assert_eq!(elect(&url, &["run", "db", "--", "/etc/passwd"]).0, 126);
    assert_eq!(elect(&url, &["run", "db"]).0, 125);
    assert_eq!(elect(&url, &["run", "--ttl", "5s", "db", "true"]).0, 125);
    assert_eq!(elect(&url, &["run", "--kill-after", "9s", "db", "true"]).0, 125);
    assert!(!leads(&consul));
    consul.fault("", Fault::Status(403, "Permission denied".to_owned()));
    let (code, _, err) = elect(&url, &["run", "db", "--", "true"]);
    assert!(code == 125 && err.contains("refuses"), "{code} {err}");
    let (code, _, err) = elect("127.0.0.1:1", &["run", "--timeout", "300ms", "db", "--", "true"]);
    assert!(code == 124 && err.contains("waiting for Consul"), "{code} {err}");
}

/// The guard kills its process group; by hand it would be the caller's.
#[test]
fn the_guard_does_nothing_for_anybody_else() {
    let (code, out, _) = elect("", &["guard", "--parent", "1", "--", "echo", "x"]);
    assert_eq!((code, out.as_str()), (125, ""));
}

#[test]
fn one_at_a_time() {
    let consul = FakeConsul::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = format!("echo start $STACKTIRA_FENCING_TOKEN >> '{0}'; sleep 0.2; echo end >> '{0}'", log.display());
    let arguments = ["run", "--timeout", "60s", "db", "--", "sh", "-c", &script];
    let all: Vec<_> = (0..5).map(|_| command(&consul.url(), &arguments).spawn().unwrap()).collect();
    for mut one in all {
        assert_eq!(one.wait().unwrap().code(), Some(0));
    }
    let lines = lines(&log);
    let mut last = 0;
    assert_eq!(lines.len(), 10);
    for pair in lines.chunks(2) {
        let token: u64 = pair[0].strip_prefix("start ").unwrap().parse().unwrap();
        assert!(token > last && pair[1] == "end", "{lines:?}");
        last = token;
    }
}

/// The lease is over before Consul's is, whatever Consul does.
#[test]
fn the_command_is_stopped_before_the_session_can_end() {
    let mut consul = FakeConsul::start();
    let mut worker = Worker::start(&consul.url(), &["--ttl", "10s"], "");
    let cut = Instant::now();
    consul.stop();
    let (code, _, err) = worker.end();
    // The last renewal was answered before the cut, so the session lives for at least 10 s from before then.
    assert!(cut.elapsed() < Duration::from_secs(9), "{:?}", cut.elapsed());
    assert!(code == 125 && err.contains("lost leadership of db"), "{code} {err}");
    worker.is_dead();
}

/// An agent that takes requests and never answers fences as well as one that is gone.
#[test]
fn silence_fences_too() {
    let consul = FakeConsul::start();
    let mut worker = Worker::start(&consul.url(), &["--ttl", "10s"], "");
    let cut = Instant::now();
    consul.fault("", Fault::Hang);
    assert_eq!(worker.end().0, 125);
    assert!(cut.elapsed() < Duration::from_secs(16), "{:?}", cut.elapsed());
}

#[test]
fn a_short_outage_is_survived() {
    let mut consul = FakeConsul::start();
    let mut worker = Worker::start(&consul.url(), &["--ttl", "15s"], "");
    consul.stop();
    std::thread::sleep(Duration::from_secs(5));
    consul.restart();
    consul.fault("", Fault::Status(500, "No cluster leader".to_owned()));
    std::thread::sleep(Duration::from_secs(1));
    let beats = || consul.requests().iter().filter(|r| r.contains("kv/stacktira/lease/db?acquire=")).count();
    let before = beats();
    consul.heal();
    eventually(Duration::from_secs(5), "a renewal succeeds", || beats() > before);
    assert!(worker.owner.try_wait().unwrap().is_none(), "it still leads");
    let beats = worker.beats();
    eventually(Duration::from_secs(2), "the command still works", || worker.beats() > beats);
    worker.signal("-TERM");
    assert_eq!(worker.end().0, 143);
}

#[test]
fn leadership_taken_away_ends_the_command_at_once() {
    let consul = FakeConsul::start();
    for take in [(|consul: &FakeConsul| consul.delete("stacktira/leader/db")) as fn(&FakeConsul), |consul| {
        consul.expire(&consul.holder("stacktira/leader/db").unwrap())
    }] {
        let mut worker = Worker::start(&consul.url(), &[], "");
        let start = Instant::now();
        take(&consul);
        let (code, _, err) = worker.end();
        assert!(code == 125 && err.contains("lost leadership"), "{code} {err}");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
}

#[test]
fn signals_stop_the_command_and_give_leadership_back() {
    let consul = FakeConsul::start();
    for (signal, code) in [("-TERM", 143), ("-INT", 130), ("-HUP", 129)] {
        let mut worker = Worker::start(&consul.url(), &[], "trap 'echo ended; exit 3' TERM");
        worker.signal(signal);
        let (got, out, _) = worker.end();
        assert_eq!((got, out.as_str()), (code, "ended\n"));
        assert!(!leads(&consul) && consul.sessions().is_empty());
    }
}

#[test]
fn a_command_that_ignores_term_is_killed() {
    let consul = FakeConsul::start();
    let mut worker = Worker::start(&consul.url(), &["--kill-after", "500ms"], "trap '' TERM");
    worker.signal("-TERM");
    let start = Instant::now();
    assert_eq!(worker.end().0, 143);
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&start.elapsed()));
}

#[test]
fn nothing_outlives_a_killed_owner() {
    let consul = FakeConsul::start();
    let mut worker = Worker::start(&consul.url(), &[], "trap '' TERM HUP INT");
    worker.signal("-KILL");
    worker.owner.wait().unwrap();
    worker.is_dead();
    consul.expire(&consul.sessions()[0]);
}

/// An owner that is stopped cannot stop its command; the guard does, before anybody else can lead.
#[test]
fn an_owner_that_stands_still_is_over_in_time() {
    let consul = FakeConsul::start();
    consul.expire_late();
    let mut worker = Worker::start(&consul.url(), &["--ttl", "10s"], "trap '' TERM HUP INT");
    worker.signal("-STOP");
    let stopped = Instant::now();
    let session = consul.holder("stacktira/leader/db").unwrap();
    let mut before = worker.beats();
    eventually(Duration::from_secs(10), "the command ends", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = worker.beats();
        now == std::mem::replace(&mut before, now)
    });
    assert!(stopped.elapsed() > Duration::from_secs(5), "it was not the signal: {:?}", stopped.elapsed());
    assert!(consul.holder("stacktira/leader/db").is_none_or(|holder| holder == session), "nobody else leads yet");
    worker.is_dead();
    // Others have counted the lease out by now, though Consul still knows the session: it is not revived.
    std::thread::sleep(Duration::from_millis(10_500).saturating_sub(stopped.elapsed()));
    let beats = || consul.requests().iter().filter(|r| r.contains("kv/stacktira/lease/db?acquire=")).count();
    let before = beats();
    worker.signal("-CONT");
    assert_ne!(worker.end().0, 0);
    assert_eq!(beats(), before);
}

#[test]
fn nothing_outlives_a_killed_guard() {
    let consul = FakeConsul::start();
    let mut worker = Worker::start(&consul.url(), &[], "trap '' TERM HUP INT");
    let guard = children(worker.owner.id());
    assert_eq!(guard.len(), 1);
    kill("-KILL", &guard[0]);
    eventually(Duration::from_secs(3), "leadership is given back", || !leads(&consul));
    worker.is_dead();
    assert_eq!(worker.end().0, 137);
}

#[test]
fn what_the_command_leaves_behind_is_ended() {
    let consul = FakeConsul::start();
    let dir = tempfile::tempdir().unwrap();
    let beats = dir.path().join("beats");
    let script =
        format!("(while :; do echo x >> '{}'; sleep 0.05; done) >/dev/null 2>&1 &\nsleep 0.3", beats.display());
    assert_eq!(elect(&consul.url(), &["run", "db", "--", "sh", "-c", &script]).0, 0);
    let before = lines(&beats).len();
    assert!(before > 0);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(lines(&beats).len(), before);
}

#[test]
fn who_waits_gives_up_in_time_or_on_a_signal() {
    let consul = FakeConsul::start();
    let mut worker = Worker::start(&consul.url(), &[], "");
    let (code, out, err) = elect(&consul.url(), &["run", "--timeout", "500ms", "db", "--", "echo", "x"]);
    assert_eq!((code, out.as_str()), (124, ""), "{err}");
    let mut waiting = command(&consul.url(), &["run", "db", "--", "echo", "x"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    kill("-TERM", &waiting.id().to_string());
    assert_eq!(waiting.wait().unwrap().code(), Some(143));
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(consul.sessions().len(), 1, "who waits has no session");
    let shown = elect(&consul.url(), &["show", "--consistent", "db"]);
    assert!(shown.0 == 0 && shown.1.starts_with("node1 192.0.2.1 "), "{shown:?}");
    worker.signal("-TERM");
    worker.end();
}

/// Who waits takes over from an owner that fell silent before Consul ends its session.
#[test]
fn a_successor_follows_a_killed_owner() {
    let consul = FakeConsul::start();
    consul.expire_late();
    let mut worker = Worker::start(&consul.url(), &["--ttl", "10s"], "");
    let start = Instant::now();
    let mut waiting = command(&consul.url(), &["run", "--timeout", "40s", "db", "--", "true"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    worker.signal("-KILL");
    worker.owner.wait().unwrap();
    let killed = Instant::now();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() > Duration::from_secs(10 + 3), "before the lease was over: {:?}", start.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(10 + 3 + 3 + 2), "{:?}", killed.elapsed());
}
