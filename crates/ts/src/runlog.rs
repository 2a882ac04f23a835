//! The output of runs: two files per run that the child itself writes, bounded from outside.
//!
//! The child needs nobody to drain a pipe, so it survives its leader with its output. What keeps the
//! files small are holes: the oldest part of a file that grows too large is deallocated under the child's
//! feet (offsets stay, so readers are not confused), and when the run has ended what is left is copied
//! into a plain file. Finished runs are pruned, oldest first; the newest of a queue is always kept.
//!
//! Bounds per `TS_DIR` (24 MiB in all): 8 MiB for finished runs and 12 MiB for running ones, shared by
//! the queues that are there; the rest is for what a child writes between two looks.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Whence, lseek};

use crate::dir::{Places, StateDir};

const FINISHED_BYTES: u64 = 8 << 20;
const RUNNING_BYTES: u64 = 12 << 20;
const MAX_STREAM_BYTES: u64 = 4 << 20;
const MIN_STREAM_BYTES: u64 = 64 << 10;
/// Finished runs whose output is kept, per queue.
pub(crate) const RUNS: usize = 50;
/// Finished runs are pruned after each run that has said more than a little, and after every so many others: that
/// lets them exceed their bound by 1 MiB at most.
pub(crate) const PRUNE_EVERY: u64 = 16;
pub(crate) const LITTLE_BYTES: u64 = 64 << 10;
const LEADER_LOG_BYTES: u64 = 64 << 10;
const BLOCK: u64 = 4096;

/// The two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Stream {
    pub(crate) const BOTH: [Stream; 2] = [Stream::Out, Stream::Err];

    fn suffix(self) -> &'static str {
        match self {
            Stream::Out => "out",
            Stream::Err => "err",
        }
    }
}

/// Returns where the output of a run is.
pub(crate) fn path(runs: &Path, run: u64, stream: Stream) -> PathBuf {
    runs.join(format!("{run}.{}", stream.suffix()))
}

fn parse_name(name: &std::ffi::OsStr) -> Option<(u64, Stream)> {
    let (run, suffix) = name.to_str()?.split_once('.')?;
    let stream = Stream::BOTH.into_iter().find(|stream| stream.suffix() == suffix)?;
    Some((run.parse().ok()?, stream))
}

/// Returns the number of the newest run whose output is there.
pub(crate) fn last_run(runs: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(runs) else { return 0 };
    entries.flatten().filter_map(|entry| parse_name(&entry.file_name())).map(|(run, _)| run).max().unwrap_or(0)
}

/// The output files of a run that goes on, as its leader holds them.
#[derive(Debug)]
pub(crate) struct RunLog {
    files: Vec<(PathBuf, File)>,
    limit: u64,
}

impl RunLog {
    /// Makes the files of a new run.
    pub(crate) fn create(places: &Places, run: u64) -> std::io::Result<RunLog> {
        let mut files = Vec::new();
        for stream in Stream::BOTH {
            let path = path(&places.runs(), run, stream);
            let create = || OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path);
            let file = match create() {
                // The numbers of a lost page may come again.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    std::fs::remove_file(&path)?;
                    create()?
                }
                other => other?,
            };
            files.push((path, file));
        }
        Ok(RunLog { files, limit: stream_limit(&places.root) })
    }

    /// Opens the files of a run that somebody else started.
    pub(crate) fn adopt(places: &Places, run: u64) -> RunLog {
        let open = |stream| {
            let path = path(&places.runs(), run, stream);
            let file = OpenOptions::new().read(true).append(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
            Some((path, file))
        };
        RunLog { files: Stream::BOTH.into_iter().filter_map(open).collect(), limit: stream_limit(&places.root) }
    }

    /// Returns a handle for the child.
    pub(crate) fn handle(&self, stream: Stream) -> Option<std::io::Result<File>> {
        let index = Stream::BOTH.iter().position(|each| *each == stream)?;
        self.files.get(index).map(|(_, file)| file.try_clone())
    }

    /// Appends words of ours to the child's stderr.
    pub(crate) fn say(&self, text: &str) {
        if let Some((_, file)) = self.files.last() {
            // The disk may be full; the status says the same.
            let _ = (&*file).write_all(format!("ts: {text}\n").as_bytes());
        }
    }

    pub(crate) fn paths(&self) -> Vec<&Path> {
        self.files.iter().map(|(path, _)| path.as_path()).collect()
    }

    /// Returns how much the run has said.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|(_, file)| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Deallocates the oldest part of what has grown too large.
    pub(crate) fn trim(&self) {
        for (_, file) in &self.files {
            let Ok(metadata) = file.metadata() else { continue };
            if metadata.blocks() * 512 <= self.limit {
                continue;
            }
            let end = (metadata.len().saturating_sub(self.limit / 2)) / BLOCK * BLOCK;
            let Ok(length) = i64::try_from(end) else { continue };
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            if length > 0 && fallocate(file, flags, 0, length) == Err(Errno::EOPNOTSUPP) {
                // A file system without holes: better no old output than a full disk. The child appends,
                // so it goes on at the new end.
                let _ = file.set_len(0);
            }
        }
    }

    /// Turns files with holes into plain files of what is left. The child has ended.
    pub(crate) fn finish(self) {
        for (path, file) in &self.files {
            // Without space for the copy the file with its hole is as good.
            let _ = compact(path, file);
        }
    }
}

fn compact(path: &Path, file: &File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    let data = next_data(file, 0)?.unwrap_or(length);
    if data == 0 || length == 0 {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    let copied = (|| {
        let _ = std::fs::remove_file(&temporary);
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(new, "[ts: {data} bytes of older output dropped]")?;
        let mut reader: &File = file;
        reader.seek(SeekFrom::Start(data))?;
        std::io::copy(&mut reader.take(length - data), &mut new)?;
        std::fs::rename(&temporary, path)
    })();
    if copied.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    copied
}

/// Returns the first offset from `from` on that is not in a hole; `None` at the end.
fn next_data(file: &File, from: u64) -> std::io::Result<Option<u64>> {
    let offset = i64::try_from(from).map_err(std::io::Error::other)?;
    match lseek(file.as_fd(), offset, Whence::SeekData) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

fn stream_limit(root: &StateDir) -> u64 {
    let queues = root.queues().map_or(1, |queues| queues.len().max(1) as u64);
    (RUNNING_BYTES / 2 / queues).clamp(MIN_STREAM_BYTES, MAX_STREAM_BYTES)
}

/// Removes the output of old finished runs until the rest fits; `running` tells a queue's run that goes on.
pub(crate) fn prune(root: &StateDir, running: impl Fn(&Places) -> Option<u64>) {
    let mut finished: Vec<(i64, u64, PathBuf)> = Vec::new();
    for queue in root.queues().unwrap_or_default() {
        let places = root.queue(&queue);
        let live = running(&places);
        let newest = last_run(&places.runs());
        let Ok(entries) = std::fs::read_dir(places.runs()) else { continue };
        let mut runs: Vec<(u64, i64, u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let (run, _) = parse_name(&entry.file_name())?;
                let metadata = entry.metadata().ok()?;
                Some((run, metadata.mtime(), metadata.blocks() * 512, entry.path()))
            })
            .filter(|(run, ..)| Some(*run) != live && *run != newest)
            .collect();
        runs.sort_by_key(|(run, ..)| std::cmp::Reverse(*run));
        for (index, (_, mtime, bytes, path)) in runs.into_iter().enumerate() {
            if index >= RUNS * 2 {
                let _ = std::fs::remove_file(path);
            } else {
                finished.push((mtime, bytes, path));
            }
        }
    }
    finished.sort_by_key(|(mtime, ..)| std::cmp::Reverse(*mtime));
    let mut total = 0;
    for (_, bytes, path) in finished {
        total += bytes;
        if total > FINISHED_BYTES {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens the log of a queue's background leaders, started over when it has grown.
pub(crate) fn leader_log(places: &Places) -> std::io::Result<File> {
    let path = places.leader_log();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.len() > LEADER_LOG_BYTES {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Reads the output of one run as it grows.
#[derive(Debug)]
pub(crate) struct Reader {
    run: u64,
    parts: Vec<(Stream, PathBuf, Option<File>, u64)>,
    /// Why something is left out, other than that its reader has gone away.
    failure: Option<std::io::Error>,
}

impl Reader {
    pub(crate) fn new(places: &Places, run: u64) -> Reader {
        let part = |stream| (stream, path(&places.runs(), run, stream), None, 0);
        Reader { run, parts: Stream::BOTH.into_iter().map(part).collect(), failure: None }
    }

    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// Whether any of the files is there.
    pub(crate) fn exists(&self) -> bool {
        self.parts.iter().any(|(_, path, ..)| path.exists())
    }

    /// Hands on what is new, a bounded part of it, and returns how much that was. A sink that would block
    /// is passed over; a stream whose reader has gone away is left out from then on.
    pub(crate) fn copy(&mut self, out: &mut dyn Sink, err: &mut dyn Sink) -> u64 {
        let mut copied = 0;
        let failure = &mut self.failure;
        self.parts.retain_mut(|(stream, path, file, at)| {
            if file.is_none() {
                *file = crate::dir::open_read(path).ok();
            }
            let Some(file) = file else { return true };
            let sink: &mut dyn Sink = match stream {
                Stream::Out => &mut *out,
                Stream::Err => &mut *err,
            };
            match copy_part(file, at, sink) {
                Ok(count) => copied += count,
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::BrokenPipe {
                        failure.get_or_insert(error);
                    }
                    return false;
                }
            }
            true
        });
        copied
    }

    /// Takes the reason for which something was not handed on.
    pub(crate) fn take_failure(&mut self) -> Option<std::io::Error> {
        self.failure.take()
    }
}

/// Where output is shown.
pub(crate) trait Sink: Write {
    /// Whether a page can be written without waiting for whoever reads.
    fn ready(&self) -> bool {
        true
    }
}

impl Sink for Vec<u8> {}

/// A stream of this process.
#[derive(Debug)]
pub(crate) struct Shown<F: AsFd> {
    fd: F,
    /// Whether the writer may wait: not while it leads a queue.
    pub(crate) patient: bool,
}

impl<F: AsFd> Shown<F> {
    pub(crate) fn new(fd: F) -> Shown<F> {
        Shown { fd, patient: false }
    }
}

impl<F: AsFd> Write for Shown<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(nix::unistd::write(&self.fd, bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<F: AsFd> Sink for Shown<F> {
    fn ready(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
        self.patient || poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

fn copy_part(file: &mut File, at: &mut u64, sink: &mut dyn Sink) -> std::io::Result<u64> {
    // A pipe that polls as writable takes a page without blocking.
    let mut buffer = [0u8; 4096];
    // A file system without holes starts the file over instead.
    if file.metadata()?.len() < *at {
        *at = 0;
    }
    let mut copied = 0;
    while copied < 1 << 20
        && sink.ready()
        && let Some(data) = next_data(file, *at)?
    {
        *at = data;
        file.seek(SeekFrom::Start(*at))?;
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        sink.write_all(&buffer[..count])?;
        *at += count as u64;
        copied += count as u64;
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::QueueName;

    fn queue() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().expect("scratch directory");
        let places = StateDir::at(dir.path().to_owned()).queue(&QueueName::parse("q").expect("a name"));
        places.prepare().expect("ours");
        (dir, places)
    }

    fn fill(log: &RunLog, bytes: usize) {
        let mut file = log.handle(Stream::Out).expect("there").expect("can be shared");
        for _ in 0..bytes / 65536 {
            file.write_all(&[b'x'; 65536]).expect("written");
        }
        file.write_all(b"the end\n").expect("written");
    }

    fn shown(places: &Places, run: u64) -> Vec<u8> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(places, run);
        while reader.copy(&mut out, &mut err) > 0 {}
        out
    }

    #[test]
    fn old_output_goes_and_the_tail_stays() {
        let (_dir, places) = queue();
        let log = RunLog::create(&places, 1).expect("made");
        fill(&log, 9 << 20);
        log.trim();
        let blocks = std::fs::metadata(path(&places.runs(), 1, Stream::Out)).expect("there").blocks();
        assert!(blocks * 512 <= MAX_STREAM_BYTES);
        let tail = shown(&places, 1);
        assert!(tail.len() >= 1 << 20 && tail.ends_with(b"the end\n") && !tail.contains(&0));
        log.finish();
        let whole = std::fs::read(path(&places.runs(), 1, Stream::Out)).expect("there");
        assert!(whole.starts_with(b"[ts: ") && whole.ends_with(b"the end\n"));
    }

    #[test]
    fn finished_runs_are_pruned_and_the_newest_is_kept() {
        let (_dir, places) = queue();
        for run in 1..=8 {
            let log = RunLog::create(&places, run).expect("made");
            fill(&log, 3 << 20);
            log.finish();
        }
        prune(&places.root, |_| None);
        let bytes: u64 = std::fs::read_dir(places.runs())
            .expect("there")
            .flatten()
            .map(|entry| entry.metadata().expect("there").blocks() * 512)
            .sum();
        assert!(bytes <= FINISHED_BYTES + MAX_STREAM_BYTES, "{bytes}");
        assert!(path(&places.runs(), 8, Stream::Out).exists());
        assert!(!path(&places.runs(), 1, Stream::Out).exists());
        assert_eq!(last_run(&places.runs()), 8);
    }

    #[test]
    fn a_reader_hands_on_each_byte_once() {
        let (_dir, places) = queue();
        let log = RunLog::create(&places, 1).expect("made");
        let mut reader = Reader::new(&places, 1);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for part in ["a", "b", ""] {
            log.handle(Stream::Out).expect("there").expect("shared").write_all(part.as_bytes()).expect("written");
            reader.copy(&mut out, &mut err);
        }
        log.say("oops");
        reader.copy(&mut out, &mut err);
        assert_eq!((out.as_slice(), err.as_slice()), (b"ab".as_slice(), b"ts: oops\n".as_slice()));
    }
}
