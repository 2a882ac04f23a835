//! The server by hand: what a careful or hostile client sends.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::{Server, Site, has};

/// Sends bytes, closes the sending side, returns everything that comes back.
fn talk(server: &Server, request: &[u8]) -> String {
    let mut stream = server.connect();
    stream.write_all(request).expect("taken");
    stream.shutdown(std::net::Shutdown::Write).expect("ours");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(server: &Server, path: &str, headers: &str) -> String {
    talk(server, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes())
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
    line.and_then(|line| line.split_once(": ")).unwrap_or_else(|| panic!("no {name}: {answer:?}")).1
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head").1
}

fn served() -> (Site, Server, String) {
    let site = Site::new();
    let id = site.snapshot();
    site.run(&["promote", &id, "--channel", "stable"]).is(0);
    let server = site.serve();
    (site, server, id)
}

#[test]
fn files_ranges_and_conditions() {
    let (site, server, id) = served();
    let path = format!("/snap/{id}/manifest.json");
    let content = std::fs::read_to_string(site.published(&id).join("manifest.json")).expect("there");
    let whole = get(&server, &path, "");
    assert_eq!((status(&whole), body(&whole)), (200, content.as_str()));
    assert!(header(&whole, "cache-control").contains("immutable"));
    let (etag, modified) = (header(&whole, "etag"), header(&whole, "last-modified"));
    assert_eq!(status(&get(&server, &path, &format!("If-None-Match: {etag}\r\n"))), 304);
    assert_eq!(status(&get(&server, &path, &format!("If-Modified-Since: {modified}\r\n"))), 304);
    assert_eq!(status(&get(&server, &path, "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n")), 200);
    let part = get(&server, &path, "Range: bytes=2-5\r\n");
    assert_eq!((status(&part), body(&part)), (206, &content[2..6]));
    assert_eq!(header(&part, "content-range"), format!("bytes 2-5/{}", content.len()));
    assert_eq!(status(&get(&server, &path, "Range: bytes=2-\r\nIf-Range: \"other\"\r\n")), 200);
    assert_eq!(status(&get(&server, &path, "Range: bytes=999999999-\r\n")), 416);
    let head = talk(&server, format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    assert_eq!((status(&head), body(&head)), (200, ""));
    assert_eq!(header(&head, "content-length"), content.len().to_string());
    assert_eq!(header(&get(&server, "/channel/stable.json", ""), "cache-control"), "no-cache");
    assert!(body(&get(&server, "/", "")).contains("/channel/"));
}

#[test]
fn nothing_else_of_the_mirror_can_be_reached() {
    let (site, server, id) = served();
    std::os::unix::fs::symlink("/etc/passwd", site.published(&id).join("link")).expect("link");
    for path in [
        "/../lock",
        "/snap/../../lock",
        "/snap/%2e%2e/%2e%2e/lock",
        "/channel/..%2f..%2flock",
        "//etc/passwd",
        "/snap/%00",
        "/snap/\\..\\x",
    ] {
        assert_eq!(status(&get(&server, path, "")), 400, "{path}");
    }
    let link = format!("/snap/{id}/link");
    let directory = format!("/snap/{id}");
    for path in [
        "/lock",
        "/cas/sha256",
        "/sources/debian.json",
        "/snapshots",
        "/snap",
        "/snap/",
        &directory,
        &link,
        "/git/",
        "/git/x.git/config",
        "/git/h/x.git/info/refs?service=git-upload-pack",
        "/channel/none.json",
        "/gitconfig",
    ] {
        assert_eq!(status(&get(&server, path, "")), 404, "{path}");
    }
    assert_eq!(status(&talk(&server, b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n")), 405);
    assert_eq!(status(&talk(&server, b"POST /snap/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")), 405);
    assert_eq!(status(&talk(&server, b"nonsense\r\n\r\n")), 400);
    assert_eq!(status(&talk(&server, &[b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; 20_000]].concat())), 431);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (site, server, id) = served();
    let content = std::fs::read_to_string(site.published(&id).join("manifest.json")).expect("there");
    let mut request = String::new();
    for _ in 0..50 {
        request.push_str(&format!("GET /snap/{id}/manifest.json HTTP/1.1\r\nHost: x\r\n\r\n"));
        request.push_str("GET /snap/none HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    request.push_str("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = talk(&server, request.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 51);
    assert_eq!(answer.matches("HTTP/1.1 404 Not Found").count(), 50);
    assert_eq!(answer.matches(content.as_str()).count(), 50);
}

#[test]
fn slow_and_idle_clients_do_not_keep_others_out() {
    let (_site, server, _) = served();
    let mut idle: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for (number, stream) in idle.iter_mut().enumerate() {
        if number % 2 == 0 {
            stream.write_all(b"GET / HT").expect("taken");
        }
    }
    let started = Instant::now();
    let workers: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = server.connect();
            std::thread::spawn(move || {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("taken");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("an answer");
                assert!(answer.starts_with("HTTP/1.1 200"));
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("answered");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    // A head that never ends is cut off.
    let mut answer = String::new();
    idle[0].read_to_string(&mut answer).expect("an answer");
    assert_eq!(status(&answer), 408);
}

#[test]
fn a_request_for_a_pack_is_judged_before_git_runs() {
    let (_site, server, _) = served();
    let refs = "/git/h/x.git/info/refs";
    assert_eq!(status(&get(&server, &format!("{refs}?service=git-receive-pack"), "")), 403);
    assert_eq!(status(&get(&server, refs, "")), 403);
    let post = |headers: &str, body: &str| {
        let head = format!("POST /git/h/x.git/git-upload-pack HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}");
        status(&talk(&server, head.as_bytes()))
    };
    assert_eq!(post("Content-Length: 0", ""), 404);
    assert_eq!(status(&get(&server, "/git/h/x.git/git-upload-pack", "")), 405);
}

#[test]
fn a_large_file_reaches_a_client_whole_and_the_end_is_quiet() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    let package = site.deb_of("st-large", "1.0", "", &"0123456789abcdef".repeat(500_000));
    let id = site.snapshot();
    let mut server = site.serve();
    let path = format!("/snap/{id}/deb/debian/pool/main/s/st-large/st-large_1.0_amd64.deb");
    let mut stream = server.connect();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let content = std::fs::read(package).expect("there");
    assert!(answer.ends_with(&content));
    let mut idle = server.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("taken");
    idle.read_exact(&mut [0; 12]).expect("answered");
    let started = Instant::now();
    assert_eq!(server.terminate(), 0);
    assert!(started.elapsed() < Duration::from_secs(4), "an idle connection does not delay the end");
}

#[test]
fn the_page_the_status_and_the_figures_are_served() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    site.write_config_with(&format!("max_age: 1s\nmetrics: {}\n", site.text("mirror.prom")));
    let told = site.run(&["status"]).is(1).out;
    assert!(told.contains("source debian never - not synchronised yet"), "{told}");
    site.deb("st-a", "1.0", "");
    let id = site.snapshot();
    site.run(&["promote", &id, "--channel", "stable"]).is(0);
    let server = site.serve();
    let page = get(&server, "/", "");
    assert!(page.contains("Content-Type: text/html") && page.contains("Content-Security-Policy"), "{page}");
    assert!(page.contains(&id[..16]) && page.contains("1 packages"), "{page}");
    let status: serde_json::Value = serde_json::from_str(body(&get(&server, "/status.json", ""))).expect("JSON");
    assert_eq!(status["channels"][1]["snapshot"], id.as_str());
    assert_eq!(status["sources"]["debian"]["well"], true);
    let figures = get(&server, "/metrics", "");
    assert!(figures.contains("stacktira_mirror_source_well{source=\"debian\"} 1"), "{figures}");
    assert_eq!(std::fs::read_to_string(site.path("mirror.prom")).expect("written"), body(&figures));

    // Nothing is synchronised any more: the channel gets old, and a sync that fails is told.
    std::thread::sleep(Duration::from_millis(2100));
    assert!(site.run(&["status"]).is(1).out.contains("TOO OLD"));
    site.snapshot();
    std::fs::rename(site.path("debs"), site.path("gone")).expect("ours");
    site.run(&["sync"]).is(69);
    let told = site.run(&["status"]).is(1).out;
    assert!(told.contains("source debian") && told.contains("FAILED"), "{told}");
    assert!(get(&server, "/", "").contains("class=\"bad\""));
}
