//! The real binary: sources, their order, the cache, exit codes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SERVICE: &str = "openstack/latest/meta_data.json";

struct Machine {
    root: tempfile::TempDir,
    url: String,
}

impl Machine {
    /// A machine without sources; its metadata service refuses connections.
    fn new() -> Machine {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", taken.local_addr().expect("an address"));
        Machine { root: tempfile::tempdir().expect("scratch directory"), url }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    fn cache(&self) -> std::path::PathBuf {
        self.root.path().join("run/stacktira/meta_data.json")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_node-metadata"))
            .args(arguments)
            .env_clear()
            .env("STACKTIRA_ROOT", self.root.path())
            .env("STACKTIRA_METADATA_URL", &self.url)
            // A proxy from the environment must never be asked.
            .env("http_proxy", "http://127.0.0.1:9")
            .env("HTTP_PROXY", "http://127.0.0.1:9")
            .output()
            .expect("it runs")
    }

    fn get(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(&[&["get"], arguments].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Answers every request with the next of `answers`, the last one for ever; counts them.
fn serve(answers: &'static [(&'static str, &'static str)]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            let request = lines.next().and_then(Result::ok).unwrap_or_default();
            for line in lines {
                if line.is_ok_and(|line| line.is_empty()) {
                    break;
                }
            }
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let (status, body) = answers[number.min(answers.len() - 1)];
            let status = if request.contains(SERVICE) { status } else { "404 Not Found" };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    (url, count)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_first_source_that_is_there_answers() {
    let (url, asked) = serve(&[("200 OK", r#"{"meta": {"role": "service"}}"#)]);
    let machine = Machine { url, ..Machine::new() };
    machine.write("etc/stacktira/metadata.json", r#"{"meta": {"role": "local"}}"#);
    assert_eq!(machine.get(&["role"]), (Some(0), "service\n".into()));
    machine.write("mnt/config/openstack/latest/meta_data.json", r#"{"meta": {"role": "drive"}}"#);
    assert_eq!(machine.get(&["role", "--refresh"]), (Some(0), "drive\n".into()));
    machine.write("run/cloud-init/instance-data.json", r#"{"ds": {"meta_data": {"instance-id": "x"}}}"#);
    assert_eq!(machine.get(&["role", "--refresh"]), (Some(0), "drive\n".into()));
    machine.write("run/cloud-init/instance-data.json", r#"{"ds": {"meta_data": {"meta": {"role": "init"}}}}"#);
    assert_eq!(machine.get(&["role", "--refresh"]), (Some(0), "init\n".into()));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_given_config_drive_is_read() {
    let machine = Machine::new();
    machine.write("elsewhere/openstack/latest/meta_data.json", r#"{"role": "control"}"#);
    let drive = machine.root.path().join("elsewhere");
    let drive = drive.to_str().expect("a plain path");
    assert_eq!(machine.get(&["role", "--config-drive", drive]), (Some(0), "control\n".into()));
}

#[test]
fn the_service_is_asked_once_and_the_answer_kept_privately() {
    let (url, asked) = serve(&[("200 OK", r#"{"uuid": "u", "meta": {"role": "proxy"}}"#)]);
    let machine = Machine { url, ..Machine::new() };
    for _ in 0..3 {
        assert_eq!(machine.get(&["meta.role"]), (Some(0), "proxy\n".into()));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let mode = std::fs::metadata(machine.cache()).expect("kept").permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(machine.run(&["dump"]).stdout, b"{\"uuid\":\"u\",\"meta\":{\"role\":\"proxy\"}}\n");
    assert_eq!(machine.get(&["uuid", "--refresh"]), (Some(0), "u\n".into()));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn a_service_that_stumbles_is_asked_again() {
    let (url, asked) = serve(&[
        ("500 Internal Server Error", ""),
        ("503 Service Unavailable", ""),
        ("200 OK", r#"{"meta": {"role": "hyper"}}"#),
    ]);
    let machine = Machine { url, ..Machine::new() };
    assert_eq!(machine.get(&["role"]), (Some(0), "hyper\n".into()));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn a_changed_file_replaces_what_was_kept() {
    let machine = Machine::new();
    machine.write("etc/stacktira/metadata.json", r#"{"role": "one"}"#);
    assert_eq!(machine.get(&["role"]), (Some(0), "one\n".into()));
    machine.write("etc/stacktira/metadata.json", r#"{"role": "two"}"#);
    assert_eq!(machine.get(&["role"]), (Some(0), "two\n".into()));
}

#[test]
fn a_cache_that_others_could_have_written_or_that_is_torn_is_not_used() {
    let machine = Machine::new();
    machine.write("etc/stacktira/metadata.json", r#"{"role": "true"}"#);
    machine.write("run/stacktira/meta_data.json", r#"{"role": "forged"}"#);
    std::fs::set_permissions(machine.cache(), std::fs::Permissions::from_mode(0o666)).expect("ours");
    assert_eq!(machine.get(&["role"]), (Some(0), "true\n".into()));
    machine.write("run/stacktira/meta_data.json", r#"{"role": "#);
    assert_eq!(machine.get(&["role"]), (Some(0), "true\n".into()));
}

#[test]
fn absent_is_one_unless_there_is_a_default() {
    let machine = Machine::new();
    machine.write("etc/stacktira/metadata.json", r#"{"meta": {"mirror": null, "empty": ""}}"#);
    assert_eq!(machine.get(&["mirror"]), (Some(1), String::new()));
    assert_eq!(machine.get(&["mirror", "--default", "none"]), (Some(0), "none\n".into()));
    assert_eq!(machine.get(&["empty", "--default", "none"]), (Some(0), "\n".into()));
}

#[test]
fn a_broken_source_is_65_and_names_itself() {
    for (text, said) in [("{", "not valid JSON"), ("[1]", "a list")] {
        let machine = Machine::new();
        machine.write("mnt/config/openstack/latest/meta_data.json", text);
        machine.write("etc/stacktira/metadata.json", r#"{"role": "local"}"#);
        let output = machine.run(&["get", "role"]);
        assert_eq!(output.status.code(), Some(65));
        assert!(stderr(&output).contains("mnt/config/openstack/latest/meta_data.json"), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        assert!(!machine.cache().exists());
    }
    let (url, _) = serve(&[("200 OK", "<html>")]);
    let machine = Machine { url, ..Machine::new() };
    assert_eq!(machine.get(&["role"]).0, Some(65));
}

#[test]
fn no_source_is_69_with_a_hint() {
    let machine = Machine::new();
    let output = machine.run(&["get", "role", "--default", "x", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("hint: mount the config drive on"), "{}", stderr(&output));
    let (url, _) = serve(&[("404 Not Found", "")]);
    let machine = Machine { url, ..Machine::new() };
    assert_eq!(machine.get(&["role"]).0, Some(69));
}

#[test]
fn wrong_usage_is_2_and_a_wrong_address_65() {
    let machine = Machine { url: "ftp://u:secret@h".into(), ..Machine::new() };
    assert_eq!(machine.run(&["get"]).status.code(), Some(2));
    assert_eq!(machine.run(&["get", ""]).status.code(), Some(2));
    let output = machine.run(&["get", "role"]);
    assert_eq!(output.status.code(), Some(65));
    assert!(!stderr(&output).contains("secret"));
    assert!(Path::new(machine.root.path()).exists());
}
