#!/usr/bin/env python3
"""Measures one process from the moment it is asked for until it has ended: posix_spawn and wait4, without a shell in
between, whose own forks take as long as a small tool does. All benchmarks that measure processes do it here.

  process.py run ANSWER COMMAND...      runs it, its answer goes to the file; prints microseconds that passed, and
                                        microseconds on a processor
  process.py ask REQUEST COMMAND...     writes the line to its input and reads a line; prints microseconds that passed,
                                        most memory in KiB, bytes of the answer, microseconds on a processor
  process.py note LABEL FILE COMMAND... runs it silently and adds a line to the file: label, seconds that passed, seconds
                                        of its own on a processor (user), most memory in MiB, with tabs between

As a module: `run` and what it returns, `Used`.
"""

import os
import shutil
import signal
import sys
import time
from typing import NamedTuple


class Used(NamedTuple):
    """What a process and those of its children for which it has waited took."""

    # Seconds that passed, seconds on a processor in all, and seconds thereof in its own code.
    wall: float
    cpu: float
    user: float
    # Most memory of the largest process, in MiB; not less than this interpreter has.
    peak: float
    # Its exit status, or the negative number of the signal that ended it.
    status: int


def start(command, files, env=None, cwd=None):
    """Starts it with these files ({0: a file of ours, ...}) and no other; returns the moment before, and its number."""
    actions = [(os.POSIX_SPAWN_DUP2, own if isinstance(own, int) else own.fileno(), theirs) for theirs, own in files.items()]
    program = shutil.which(command[0]) or command[0]
    env = dict(os.environ) if env is None else env
    here = os.open(".", os.O_RDONLY)
    try:
        if cwd:
            os.chdir(cwd)
        # Python ignores these, and what is ignored is inherited.
        restored = [signal.SIGPIPE, signal.SIGXFSZ]
        begin = time.monotonic()
        return begin, os.posix_spawn(program, command, env, file_actions=actions, setsigdef=restored)
    finally:
        os.fchdir(here)
        os.close(here)


def end(begin, pid):
    """Waits for its end."""
    _, status, used = os.wait4(pid, 0)
    wall = time.monotonic() - begin
    cpu = used.ru_utime + used.ru_stime
    return Used(wall, cpu, used.ru_utime, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))


def run(command, out=None, err=None, env=None, cwd=None, watch=None):
    """Runs it with an empty input. What it says goes to the files, or nowhere (its errors: where ours go); `watch` is
    called with its number while it runs."""
    with open(os.devnull, "r+b") as null:
        files = {0: null, 1: out or null}
        begin, pid = start(command, {**files, 2: err} if err else {**files, 2: 2}, env, cwd)
        if watch:
            watch(pid)
        return end(begin, pid)


def microseconds(seconds):
    return int(seconds * 1e6)


def run_and_print(name, *command):
    with open(name, "wb") as answer:
        used = run(command, out=answer)
    print(microseconds(used.wall), microseconds(used.cpu))
    return used.status


def ask_and_print(request, *command):
    # Closed in the process when it starts, but for what it gets as input and output.
    theirs, requests = os.pipe()
    answers, own = os.pipe()
    begin, pid = start(command, {0: theirs, 1: own, 2: 2})
    os.close(theirs)
    os.close(own)
    os.write(requests, request.encode() + b"\n")
    answer = []
    while not answer or not answer[-1].endswith(b"\n"):
        answer.append(os.read(answers, 1 << 20))
        if not answer[-1]:
            return "it ended without an answer"
    took = time.monotonic() - begin
    with open(f"/proc/{pid}/status") as status:
        memory = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    os.close(requests)
    used = end(begin, pid)
    print(microseconds(took), memory, sum(map(len, answer)), microseconds(used.cpu))
    return used.status


def run_and_note(label, name, *command):
    with open(name + ".err", "w+b") as err:
        used = run(command, err=err)
        err.seek(0)
        said = err.read()[-500:].decode(errors="replace")
    if used.status:
        return f"{label} ended with {used.status}: {said}"
    with open(name, "a") as file:
        file.write(f"{label}\t{used.wall:f}\t{used.user:f}\t{used.peak:f}\n")
    return 0


if __name__ == "__main__":
    sys.exit({"run": run_and_print, "ask": ask_and_print, "note": run_and_note}[sys.argv[1]](*sys.argv[2:]))
