//! Starting a run's process, as cheaply as posix_spawn(3) does, with the run's identity on record before its exec.
//!
//! The child is cloned as by vfork(2): it shares our memory and we sleep until it has become the command or has
//! given up. It has descriptors of its own, so it holds the queue's lock with us until its exec closes it. In between it
//! makes plain system calls on what was prepared before (no allocation, no lock) and stores to the shared page. If
//! we are killed meanwhile, it goes on alone, as a forked child would.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Pid;

use crate::page::Rec;

/// Enough for the child's few calls in a build without optimisation too.
const STACK_BYTES: usize = 64 << 10;
/// Where a command is looked for when the job has no PATH, as execvp(3) does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
const SHELL: &CStr = c"/bin/sh";

/// What becomes a process.
pub(crate) struct Program<'a> {
    pub(crate) argv: &'a [OsString],
    /// The whole environment; of variables that are given twice the first counts.
    pub(crate) env: Vec<(&'a OsStr, &'a OsStr)>,
    pub(crate) cwd: &'a Path,
    pub(crate) umask: u32,
    pub(crate) stdin: OwnedFd,
    /// None: ours.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// Where the child writes down who it is.
    pub(crate) record: Option<&'a Rec>,
}

/// Why there is no process.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The working directory cannot be entered.
    Directory(std::io::Error),
    /// The program cannot be run.
    Program(std::io::Error),
}

impl Failure {
    pub(crate) fn source(&self) -> &std::io::Error {
        match self {
            Failure::Directory(source) | Failure::Program(source) => source,
        }
    }
}

/// All that the child needs, prepared by the parent.
struct Plan<'a> {
    /// The files to try, in turn.
    files: Vec<CString>,
    argv: Vec<*const c_char>,
    /// For a script without `#!`: a shell, whose script's place is filled in by the child.
    shell_argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: CString,
    umask: libc::mode_t,
    stdio: [Option<RawFd>; 3],
    record: Option<&'a Rec>,
    /// The child's answer: an error number, and whether it is the directory's.
    error: AtomicI32,
    directory: AtomicI32,
}

/// Starts the program in a process group of its own and returns its id.
pub(crate) fn spawn(program: Program<'_>) -> Result<Pid, Failure> {
    let prepare = || -> std::io::Result<_> {
        let strings = program.argv.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let pair = |(name, value): &(&OsStr, &OsStr)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
        let env = program.env.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        let cwd = CString::new(program.cwd.as_os_str().as_bytes())?;
        Ok((strings, env, cwd, files(&program)?))
    };
    let (strings, env, cwd, files) = prepare().map_err(Failure::Program)?;
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let argv = pointers(&strings);
    let rest = argv.get(1..).unwrap_or(&[]);
    let shell_argv = [SHELL.as_ptr(), std::ptr::null()].iter().chain(rest).copied().collect();
    let raw = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
    let mut plan = Plan {
        files,
        shell_argv,
        env: pointers(&env),
        argv,
        cwd,
        umask: program.umask,
        stdio: [Some(program.stdin.as_raw_fd()), raw(&program.stdout), raw(&program.stderr)],
        record: program.record,
        error: AtomicI32::new(0),
        directory: AtomicI32::new(0),
    };
    let pid = start(&mut plan).map_err(Failure::Program)?;
    match plan.error.load(SeqCst) {
        0 => Ok(pid),
        error => {
            let error = std::io::Error::from_raw_os_error(error);
            while nix::sys::wait::waitpid(pid, None) == Err(Errno::EINTR) {}
            Err(if plan.directory.load(SeqCst) == 0 { Failure::Program(error) } else { Failure::Directory(error) })
        }
    }
}

/// Returns the files that a command's name can mean, in the order of execvp(3).
fn files(program: &Program<'_>) -> std::io::Result<Vec<CString>> {
    let name = program.argv.first().map(|name| name.as_bytes()).filter(|name| !name.is_empty());
    let name = name.ok_or(std::io::ErrorKind::NotFound)?;
    if name.contains(&b'/') {
        return Ok(vec![CString::new(name)?]);
    }
    let path = program.env.iter().find(|(variable, _)| *variable == "PATH").map(|(_, value)| value.as_bytes());
    let places = path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':');
    let file = |place: &[u8]| CString::new(if place.is_empty() { name.to_vec() } else { [place, b"/", name].concat() });
    Ok(places.map(file).collect::<Result<_, _>>()?)
}

fn start(plan: &mut Plan<'_>) -> std::io::Result<Pid> {
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    // No handler may run in the child, where it would work on our memory.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = std::ptr::from_mut(plan).cast::<c_void>();
    // SAFETY: `become_program` has the type that clone(2) wants and gets `plan`, which this function borrows until clone
    // has returned; with CLONE_VFORK that is after the child's exec or end, so the child never outlives what it reads.
    // The stack is ours, large enough, aligned, and grows down from its end; nobody else uses it meanwhile. This process
    // has one thread, which sleeps, and all signals are blocked, so nothing but the child touches the memory.
    let (pid, error) = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity()).cast::<c_void>();
        (libc::clone(become_program, top, flags, argument), Errno::last())
    };
    before.thread_set_mask()?;
    if pid < 0 { Err(error.into()) } else { Ok(Pid::from_raw(pid)) }
}

/// The child's life until it is the program.
extern "C" fn become_program(argument: *mut c_void) -> c_int {
    // SAFETY: `start` passes a pointer to a plan that lives, unmoved and otherwise unused, until we exec or end.
    let plan = unsafe { &mut *argument.cast::<Plan<'_>>() };
    let error = plan.carry_out();
    plan.error.store(error as c_int, SeqCst);
    // SAFETY: ends the process at once; unlike exit(3) it runs nothing of the parent's.
    unsafe { libc::_exit(127) }
}

impl Plan<'_> {
    /// Returns only if that fails.
    fn carry_out(&mut self) -> Errno {
        match self.settle() {
            Ok(()) => self.exec(),
            Err(error) => error,
        }
    }

    fn settle(&self) -> Result<(), Errno> {
        // SAFETY: system calls with plain numbers and a C string of the plan. SIGPIPE is ignored in this process; a
        // program expects the default.
        unsafe {
            for (target, fd) in (0..).zip(self.stdio) {
                if let Some(fd) = fd {
                    Errno::result(libc::dup2(fd, target))?;
                }
            }
            if let Err(error) = Errno::result(libc::chdir(self.cwd.as_ptr())) {
                self.directory.store(1, SeqCst);
                return Err(error);
            }
            Errno::result(libc::setpgid(0, 0))?;
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::umask(self.umask);
        }
        if let Some(record) = self.record {
            record.sign().map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        }
        SigSet::empty().thread_set_mask()
    }

    fn exec(&mut self) -> Errno {
        let mut failure = Errno::ENOENT;
        for file in &self.files {
            // SAFETY: all are C strings and null-terminated arrays of the plan.
            unsafe { libc::execve(file.as_ptr(), self.argv.as_ptr(), self.env.as_ptr()) };
            match Errno::last() {
                Errno::ENOEXEC => {
                    self.shell_argv[1] = file.as_ptr();
                    // SAFETY: as above.
                    unsafe { libc::execve(SHELL.as_ptr(), self.shell_argv.as_ptr(), self.env.as_ptr()) };
                    return Errno::last();
                }
                // Another place may have one that can be run.
                Errno::EACCES => failure = Errno::EACCES,
                Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT => {}
                error => return error,
            }
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use std::io::{Read, Seek};
    use std::os::unix::fs::PermissionsExt;

    /// Runs a command line to its end and returns its status and what it wrote.
    fn run(argv: &[&str], path: &str, cwd: &Path) -> Result<(i32, String), Failure> {
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let mut out = tempfile::tempfile().expect("scratch file");
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("there"));
        let pid = spawn(Program {
            argv: &argv,
            env: vec![("PATH".as_ref(), path.as_ref()), ("GREETING".as_ref(), "a=b".as_ref())],
            cwd,
            umask: 0o027,
            stdin: null(),
            stdout: Some(out.try_clone().expect("shared").into()),
            stderr: Some(null()),
            record: None,
        })?;
        let WaitStatus::Exited(_, status) = waitpid(pid, None).expect("ours") else { panic!("it was killed") };
        let mut text = String::new();
        out.rewind().and_then(|()| out.read_to_string(&mut text)).expect("readable");
        Ok((status, text))
    }

    #[test]
    fn a_program_gets_what_it_was_promised() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let script = "echo \"$GREETING $(pwd -P) $(umask) $#\"; cat; grep -E '^Sig(Blk|Ign)' /proc/self/status; \
                      read x x x x pgrp x < /proc/$$/stat; [ $pgrp = $$ ] || exit 1; exit 3";
        let (status, text) = run(&["sh", "-c", script, "x", "1", "2"], "/usr/bin:/bin", dir.path()).expect("it runs");
        let place = std::fs::canonicalize(dir.path()).expect("there");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((status, lines[0]), (3, &*format!("a=b {} 0027 2", place.display())), "{text}");
        let set = |line: &str| u64::from_str_radix(line.rsplit('\t').next().expect("a mask"), 16).expect("hexadecimal");
        assert_eq!(set(lines[1]), 0, "no signal is blocked: {text}");
        assert_eq!(set(lines[2]) >> (libc::SIGPIPE - 1) & 1, 0, "SIGPIPE is not ignored: {text}");
    }

    #[test]
    fn a_name_is_looked_up_as_execvp_does() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let place = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        for name in ["denied", "script"] {
            std::fs::create_dir(place(name)).expect("made");
            std::fs::write(place(name) + "/tool", "echo \"no interpreter $*\"; exit 5\n").expect("ours");
        }
        std::fs::set_permissions(place("script") + "/tool", PermissionsExt::from_mode(0o755)).expect("ours");
        let path = [place("none"), place("denied"), place("script")].join(":");
        let found = run(&["tool", "a", "b"], &path, dir.path()).expect("the last one can be run");
        assert_eq!(found, (5, "no interpreter a b\n".to_owned()));
        let kind = |argv: &[&str], path: &str, cwd: &Path| match run(argv, path, cwd) {
            Err(Failure::Program(error)) => error.kind(),
            other => panic!("{other:?}"),
        };
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        assert_eq!(kind(&["tool"], &place("denied"), dir.path()), PermissionDenied);
        assert_eq!(kind(&["tool"], &place("none"), dir.path()), NotFound);
        assert_eq!(kind(&[""], &path, dir.path()), NotFound);
        assert_eq!(kind(&["denied/tool"], &path, dir.path()), PermissionDenied);
        assert!(run(&["script/tool"], "", dir.path()).is_ok(), "a path is taken from the working directory");
        assert!(matches!(run(&["true"], "/bin", Path::new("/none")), Err(Failure::Directory(_))));
    }
}
