use std::time::Duration;

use serde_json::{Value, json};
use test_support::consul::{FakeConsul, Fault};

use crate::{Worker, command, elect, said};

#[test]
fn all_callers_print_the_same_choice() {
    let consul = FakeConsul::start();
    consul.node("control1", "192.0.2.41");
    let callers: Vec<_> = (0..12)
        .map(|_| command(&consul.url(), &["once", "db"]).stdout(std::process::Stdio::piped()).spawn().unwrap())
        .collect();
    let said: Vec<_> = callers.into_iter().map(|c| said(&c.wait_with_output().unwrap())).collect();
    let index = elect(&consul.url(), &["show", "db"]).1;
    assert!(index.starts_with("control1 192.0.2.41 "), "{index}");
    for (code, out, _) in said {
        assert_eq!((code, &out), (0, &index));
    }
    // Later, from another node.
    consul.node("control2", "192.0.2.42");
    assert_eq!(elect(&consul.url(), &["once", "db"]), (0, index.clone(), String::new()));
    assert_eq!(elect(&consul.url(), &["once", "db", "--mine"]), (1, index, String::new()));
    consul.node("control1", "192.0.2.41");
    assert_eq!(elect(&consul.url(), &["once", "--mine", "db"]).0, 0);
}

#[test]
fn the_record_is_complete() {
    let consul = FakeConsul::start();
    let (_, out, _) = elect(&consul.url(), &["once", "db", "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    let stored: Value = serde_json::from_slice(&consul.get("stacktira/leader/db").unwrap()).unwrap();
    for field in ["node", "address", "session", "token", "since"] {
        assert_eq!(shown[field], stored[field], "{field}");
    }
    assert_eq!((&shown["type"], &shown["v"], &shown["name"]), (&json!("leader"), &json!(1), &json!("db")));
    assert!(shown["token"].is_u64() && shown["session"].is_null());
}

/// A chooser that died between its two writes has chosen; the next caller completes the record.
#[test]
fn a_half_written_choice_is_completed() {
    let consul = FakeConsul::start();
    let record = json!({"node": "n7", "address": "a7", "session": null, "token": null, "since": "then"});
    let index = consul.put("stacktira/leader/db", record.to_string().as_bytes());
    assert_eq!(elect(&consul.url(), &["show", "db"]).1, format!("n7 a7 {index}\n"));
    assert_eq!(elect(&consul.url(), &["once", "db"]).1, format!("n7 a7 {index}\n"));
    let stored: Value = serde_json::from_slice(&consul.get("stacktira/leader/db").unwrap()).unwrap();
    assert_eq!(stored["token"], index);
    assert_eq!(elect(&consul.url(), &["once", "db"]).1, format!("n7 a7 {index}\n"), "the token stays");
}

#[test]
fn a_reset_makes_the_next_caller_choose_with_a_higher_token() {
    let consul = FakeConsul::start();
    let token = |out: &str| out.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap();
    let first = token(&elect(&consul.url(), &["once", "db"]).1);
    assert_eq!(elect(&consul.url(), &["once", "db", "--reset"]), (0, String::new(), String::new()));
    assert_eq!(elect(&consul.url(), &["once", "db", "--reset"]).0, 0, "again");
    assert_eq!(elect(&consul.url(), &["show", "db"]), (1, String::new(), String::new()));
    assert!(token(&elect(&consul.url(), &["once", "db"]).1) > first);
}

#[test]
fn run_and_once_do_not_take_from_each_other() {
    let consul = FakeConsul::start();
    let url = consul.url();
    let mut worker = Worker::start(&url, &[], "");
    for arguments in [&["once", "db"] as &[&str], &["once", "db", "--reset"]] {
        let (code, out, err) = elect(&url, arguments);
        assert!(code == 75 && out.is_empty() && err.contains("node1"), "{code} {err}");
    }
    assert!(worker.owner.try_wait().unwrap().is_none());
    worker.signal("-TERM");
    assert_eq!(worker.end().0, 143);
    assert_eq!(elect(&url, &["once", "db"]).0, 0);
    let (code, _, err) = elect(&url, &["run", "db", "--", "true"]);
    assert!(code == 125 && err.contains("--reset"), "{code} {err}");
}

#[test]
fn what_is_no_answer_is_no_choice() {
    let consul = FakeConsul::start();
    let url = consul.url();
    for (fault, code) in [
        (Fault::Status(500, "No cluster leader".to_owned()), 69),
        (Fault::Status(403, "Permission denied".to_owned()), 77),
        (Fault::Status(404, "404 page not found".to_owned()), 69),
        (Fault::Close, 69),
    ] {
        consul.heal();
        consul.fault("kv/", fault.clone());
        for arguments in [["once", "db"], ["show", "db"]] {
            let (got, out, _) = elect(&url, &arguments);
            assert_eq!((got, out.as_str()), (code, ""), "{fault:?} {arguments:?}");
        }
    }
    consul.heal();
    consul.put("stacktira/leader/db", b"me");
    for arguments in [&["once", "db"] as &[&str], &["show", "db"]] {
        let (code, _, err) = elect(&url, arguments);
        assert!(code == 65 && err.contains("stacktira/leader/db"), "{code} {err}");
    }
    assert_eq!(elect(&url, &["run", "db", "--", "true"]).0, 125);
    assert_eq!(elect(&url, &["once", "db", "--reset"]).0, 0, "and it can be cleared away");
    assert_eq!(elect(&url, &["once", "a/b"]).0, 2);
    assert!(consul.wait_for(Duration::ZERO, |requests| requests.iter().all(|r| !r.contains("a/b"))));
}
