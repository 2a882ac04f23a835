//! A real Consul agent for tests, where the machine has one.
//!
//! `STACKTIRA_CONSUL` names the binary or a Debian package with it, else it is looked for on PATH. Tests that
//! find none are skipped, and say so on stderr.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A single server with memory only, on ports of its own; it is killed when this value is dropped.
#[derive(Debug)]
pub struct RealConsul {
    child: Child,
    binary: PathBuf,
    port: u16,
    https: u16,
    dir: tempfile::TempDir,
}

impl RealConsul {
    /// Starts an agent with `extra` configuration and waits until it leads. `None`, with the reason on stderr,
    /// where there is no Consul.
    pub fn start(extra: &Value) -> Option<RealConsul> {
        RealConsul::launch(extra, false)
    }

    /// Starts an agent that speaks https and wants a certificate of its callers; see [`RealConsul::file`]. Its own
    /// certificate is for `server.dc1.consul`, `localhost` and 127.0.0.1.
    pub fn start_tls() -> Option<RealConsul> {
        RealConsul::launch(&json!({}), true)
    }

    fn launch(extra: &Value, tls: bool) -> Option<RealConsul> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let binary = match find(dir.path()) {
            Ok(binary) => binary,
            Err(reason) => {
                skipped(&reason);
                return None;
            }
        };
        if tls {
            for arguments in [
                &["tls", "ca", "create"] as &[&str],
                &["tls", "cert", "create", "-server"],
                &["tls", "cert", "create", "-client"],
                &["tls", "ca", "create", "-domain", "other"],
            ] {
                let made = Command::new(&binary).args(arguments).current_dir(dir.path()).output();
                assert!(made.is_ok_and(|o| o.status.success()), "consul {arguments:?} failed");
            }
        }
        // A port may be taken between its choice and its use.
        for _ in 0..3 {
            let [http, lan, wan, server, https] = free_ports();
            let mut config = json!({
                "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "node_name": "real1", "disable_update_check": true,
                "ports": {"http": http, "dns": -1, "grpc": -1, "serf_lan": lan, "serf_wan": wan, "server": server},
            });
            if tls {
                config["ports"]["https"] = json!(https);
                config["ca_file"] = json!(dir.path().join("consul-agent-ca.pem"));
                config["cert_file"] = json!(dir.path().join("dc1-server-consul-0.pem"));
                config["key_file"] = json!(dir.path().join("dc1-server-consul-0-key.pem"));
                config["verify_incoming_https"] = json!(true);
            }
            if let (Some(config), Some(extra)) = (config.as_object_mut(), extra.as_object()) {
                config.extend(extra.clone());
            }
            let file = dir.path().join("config.json");
            std::fs::write(&file, config.to_string()).expect("a temporary file can be written");
            let mut child = Command::new(&binary)
                .args(["agent", "-dev", "-config-file"])
                .arg(&file)
                .env_clear()
                .env("HOME", dir.path())
                .current_dir(dir.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the binary was just found");
            if leads(&mut child, http) {
                return Some(RealConsul { child, binary, port: http, https, dir });
            }
            end(&mut child);
        }
        panic!("{} did not become leader of itself", binary.display());
    }

    /// Returns `https://127.0.0.1:PORT` of an agent that was started with TLS.
    pub fn https_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.https)
    }

    /// Returns a file of an agent that was started with TLS: `consul-agent-ca.pem`, `dc1-client-consul-0.pem`,
    /// `dc1-client-consul-0-key.pem`, and `other-agent-ca.pem` of an authority that signed nothing.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Saves the state as a file (`save`), or goes back to what was saved (`restore`).
    pub fn snapshot(&self, verb: &str) {
        let done = Command::new(&self.binary)
            .args(["snapshot", verb])
            .arg(format!("-http-addr={}", self.url()))
            .arg(self.file("snapshot"))
            .output()
            .expect("the binary runs already");
        assert!(done.status.success(), "snapshot {verb}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Returns `http://127.0.0.1:PORT`, for `CONSUL_HTTP_ADDR`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for RealConsul {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    drop(child.kill());
    drop(child.wait());
}

#[expect(clippy::print_stderr, reason = "a skipped test must say why, and the test harness has no other way")]
fn skipped(reason: &str) {
    eprintln!("skipped: no real Consul: {reason}");
}

fn find(dir: &Path) -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("STACKTIRA_CONSUL").filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        if path.extension().is_some_and(|e| e == "deb") {
            let unpacked = Command::new("dpkg-deb").arg("-x").arg(&path).arg(dir).status();
            let binary = dir.join("usr/bin/consul");
            return match unpacked {
                Ok(status) if status.success() && binary.is_file() => Ok(binary),
                _ => Err(format!("{} cannot be unpacked", path.display())),
            };
        }
        return if path.is_file() { Ok(path) } else { Err(format!("{} is no file", path.display())) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("consul"))
        .find(|path| path.is_file())
        .ok_or_else(|| "neither STACKTIRA_CONSUL nor PATH has one".to_owned())
}

fn free_ports() -> [u16; 5] {
    // All are held until all are chosen, so that they differ.
    [0; 5]
        .map(|_: u16| TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port is free"))
        .map(|socket| socket.local_addr().expect("a bound socket has an address").port())
}

fn leads(child: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if child.try_wait().map_or(true, |status| status.is_some()) {
            return false;
        }
        if get(port, "/v1/kv/ready")
            .is_some_and(|answer| answer.starts_with("HTTP/1.1 404") || answer.contains(" 403 "))
            && get(port, "/v1/catalog/nodes").is_some_and(|answer| answer.contains(" 200 "))
        {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: consul\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    Some(answer)
}
