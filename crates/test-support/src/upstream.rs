//! An upstream on loopback: a directory over HTTP, with faults on demand and a record of what was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with a path.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers this status so many times, then as it should.
    Status(u16, usize),
    /// Other bytes of the same length.
    Garbage,
    /// Other bytes.
    Content(Vec<u8>),
    /// Only so many bytes, and a length that says the same.
    Truncated(usize),
    /// The whole length is promised, but the connection ends after so many bytes; so many times.
    Cut(usize, usize),
    /// Nothing after so many bytes, until the server is dropped.
    Stall(usize),
    /// So many bytes, then one every 20 ms.
    Drip(usize),
    /// Elsewhere.
    Redirect(String),
    /// Never said to be the same, whatever is asked.
    NoValidators,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Path with its slash.
    pub path: String,
    /// Headers by lower-case name.
    pub headers: HashMap<String, String>,
    /// The status that was answered.
    pub status: u16,
}

struct Shared {
    root: PathBuf,
    faults: Mutex<Vec<(String, Fault)>>,
    asked: Mutex<Vec<Asked>>,
    stop: AtomicBool,
}

/// The server; dropped, it ends.
pub struct Upstream {
    address: String,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Serves a directory.
    #[must_use]
    pub fn serve(root: &Path) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            faults: Mutex::default(),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stop.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || {
                    let _ = connection(stream, &shared);
                });
            }
        });
        Upstream { address, shared }
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Paths that contain `part` go wrong from now on.
    pub fn fault(&self, part: &str, fault: Fault) {
        self.shared.faults.lock().expect("not poisoned").push((part.to_owned(), fault));
    }

    /// Everything is right again.
    pub fn mend(&self) {
        self.shared.faults.lock().expect("not poisoned").clear();
    }

    /// Returns what was asked since the last time.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().expect("not poisoned"))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

fn connection(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header == "\r\n" {
                break;
            }
            if let Some((name, value)) = header.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let (status, keep) = answer(&mut writer, shared, &path, &headers)?;
        shared.asked.lock().expect("not poisoned").push(Asked { path, headers, status });
        if !keep {
            return Ok(());
        }
    }
}

/// Takes the fault of a path; those that happen only so many times count down.
fn fault(shared: &Shared, path: &str) -> Option<Fault> {
    let mut faults = shared.faults.lock().expect("not poisoned");
    let (index, _) = faults.iter().enumerate().find(|(_, (part, _))| path.contains(part.as_str()))?;
    let fault = faults[index].1.clone();
    if let Fault::Status(_, left) | Fault::Cut(_, left) = &mut faults[index].1 {
        *left -= 1;
        if *left == 0 {
            faults.remove(index);
        }
    }
    Some(fault)
}

fn decode(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => {
                let (high, low) = (hex(rest.next()).unwrap_or(0), hex(rest.next()).unwrap_or(0));
                bytes.push(u8::try_from(high * 16 + low).expect("two digits"));
            }
            byte => bytes.push(byte),
        }
    }
    bytes
}

fn answer(
    writer: &mut TcpStream,
    shared: &Shared,
    path: &str,
    headers: &HashMap<String, String>,
) -> std::io::Result<(u16, bool)> {
    let fault = fault(shared, path);
    let file = shared.root.join(String::from_utf8_lossy(&decode(path)).trim_start_matches('/'));
    let mut content = match &fault {
        Some(Fault::Status(status, _)) => {
            write!(writer, "HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\n\r\n")?;
            return Ok((*status, true));
        }
        Some(Fault::Redirect(to)) => {
            write!(writer, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")?;
            return Ok((302, true));
        }
        Some(Fault::Content(bytes)) => bytes.clone(),
        _ => match std::fs::read(&file) {
            Ok(content) => content,
            Err(_) => {
                write!(writer, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                return Ok((404, true));
            }
        },
    };
    match &fault {
        Some(Fault::Garbage) => content.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::Truncated(length)) => content.truncate(*length),
        _ => {}
    }
    let sum = content.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let etag = format!("\"{:x}-{sum:x}\"", content.len());
    let validators = !matches!(fault, Some(Fault::NoValidators));
    if validators && headers.get("if-none-match") == Some(&etag) {
        write!(writer, "HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\n\r\n")?;
        return Ok((304, true));
    }
    let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let start: usize = range.unwrap_or(0);
    if start > 0 && start >= content.len() {
        write!(writer, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")?;
        return Ok((416, true));
    }
    let body = &content[start..];
    let status = if start > 0 { 206 } else { 200 };
    write!(writer, "HTTP/1.1 {status} OK\r\nContent-Length: {}\r\n", body.len())?;
    if validators {
        write!(writer, "ETag: {etag}\r\n")?;
    }
    if start > 0 {
        write!(writer, "Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len())?;
    }
    writer.write_all(b"\r\n")?;
    match fault {
        Some(Fault::Cut(length, _)) if length < body.len() => {
            writer.write_all(&body[..length])?;
            return Ok((status, false));
        }
        Some(Fault::Stall(length)) => {
            writer.write_all(&body[..length.min(body.len())])?;
            // Until the client hangs up.
            let _ = writer.try_clone()?.read(&mut [0; 16]);
            return Ok((status, false));
        }
        Some(Fault::Drip(length)) => {
            let (now, later) = body.split_at(length.min(body.len()));
            writer.write_all(now)?;
            for byte in later {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                writer.write_all(&[*byte])?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        _ => writer.write_all(body)?,
    }
    Ok((status, true))
}
