use std::time::{Duration, Instant};

use test_support::consul::FakeConsul;

use crate::{command, elect, eventually, kill, lines};

/// Who holds slots, by their numbers.
fn held(consul: &FakeConsul) -> Vec<u32> {
    (1..=9).filter(|number| consul.get(&format!("stacktira/slot/pool/{number}")).is_some()).collect()
}

/// Starts a command that holds a slot until it is ended.
fn holder(consul: &FakeConsul, options: &[&str]) -> std::process::Child {
    let before = held(consul).len();
    let mut arguments = vec!["slot", "pool"];
    arguments.extend_from_slice(options);
    arguments.extend_from_slice(&["--", "sleep", "600"]);
    let child = command(&consul.url(), &arguments).spawn().unwrap();
    eventually(Duration::from_secs(10), "a slot is held", || held(consul).len() == before + 1);
    child
}

#[test]
fn as_many_as_the_limit_run_at_once_and_all_of_them_run() {
    let consul = FakeConsul::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = format!(
        "echo + $STACKTIRA_SLOT $STACKTIRA_FENCING_TOKEN >> '{0}'; sleep 0.4; echo - >> '{0}'; exit 3",
        log.display()
    );
    let arguments = ["slot", "pool", "--limit", "2", "--timeout", "60s", "--", "sh", "-c", &script];
    let all: Vec<_> = (0..6).map(|_| command(&consul.url(), &arguments).spawn().unwrap()).collect();
    for mut one in all {
        assert_eq!(one.wait().unwrap().code(), Some(3), "the command's own code");
    }
    let (mut now, mut most, mut tokens) = (0, 0, Vec::new());
    for line in lines(&log) {
        match line.strip_prefix("+ pool ") {
            Some(token) => {
                now += 1;
                tokens.push(token.parse::<u64>().unwrap());
            }
            None => now -= 1,
        }
        most = most.max(now);
    }
    assert_eq!((now, most, tokens.len()), (0, 2, 6));
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 6, "each has a token of its own");
    assert!(held(&consul).is_empty() && consul.sessions().is_empty(), "all is given back");
}

#[test]
fn who_waits_says_for_whom_and_gives_up_in_time() {
    let consul = FakeConsul::start();
    let mut first = holder(&consul, &["--limit", "1"]);
    let (code, out, err) = elect(&consul.url(), &["slot", "pool", "--limit", "1", "--timeout", "700ms", "--", "echo"]);
    assert_eq!((code, out.as_str()), (124, ""));
    assert!(err.contains("waiting for the slot of pool, held by node1"), "{err}");
    assert!(err.contains("did not get the slot of pool within 700ms"), "{err}");
    // A higher limit has room; a lower one afterwards has not, and stops nobody.
    let mut second = holder(&consul, &["--limit", "2"]);
    assert_eq!(held(&consul), [1, 2]);
    kill("-TERM", &first.id().to_string());
    assert_eq!(first.wait().unwrap().code(), Some(143));
    assert_eq!(held(&consul), [2]);
    assert_eq!(elect(&consul.url(), &["slot", "pool", "--limit", "1", "--timeout", "9s", "--", "true"]).0, 0);
    assert!(second.try_wait().unwrap().is_none());
    kill("-TERM", &second.id().to_string());
    second.wait().unwrap();
    let (code, _, err) = elect("127.0.0.1:1", &["slot", "pool", "--limit", "1", "--timeout", "300ms", "--", "true"]);
    assert!(code == 124 && err.contains("waiting for Consul"), "{code} {err}");
    assert_eq!(elect(&consul.url(), &["slot", "pool", "--", "true"]).0, 125, "there is no limit by default");
    assert_eq!(elect(&consul.url(), &["slot", "pool", "--limit", "0", "--", "true"]).0, 125);
}

/// Who waits takes over from a holder that fell silent before Consul ends its session.
#[test]
fn a_killed_holder_is_followed() {
    let consul = FakeConsul::start();
    consul.expire_late();
    let mut first = holder(&consul, &["--limit", "1", "--ttl", "10s"]);
    let mut waiting =
        command(&consul.url(), &["slot", "pool", "--limit", "1", "--timeout", "60s", "--", "true"]).spawn().unwrap();
    kill("-KILL", &first.id().to_string());
    first.wait().unwrap();
    let killed = Instant::now();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    // Its last beat was at most two seconds before, and three more are left to it.
    assert!(killed.elapsed() > Duration::from_secs(10), "before the lease was over: {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(10 + 3 + 3 + 2), "{:?}", killed.elapsed());
}

#[test]
fn a_lost_slot_ends_the_command_or_not() {
    let consul = FakeConsul::start();
    for (mode, script, code) in [("stop", "sleep 600", 125), ("continue", "sleep 2; exit 5", 5)] {
        let arguments = ["slot", "pool", "--limit", "1", "--on-loss", mode, "--", "sh", "-c", script];
        let running = command(&consul.url(), &arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
        eventually(Duration::from_secs(10), "the slot is held", || held(&consul) == [1]);
        std::thread::sleep(Duration::from_millis(300));
        consul.expire(&consul.holder("stacktira/slot/pool/1").unwrap());
        let output = running.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{mode}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("lost slot 1 of pool"), "{mode}");
    }
}
