#!/usr/bin/env python3
"""Measures one process from the moment it is asked for, without a shell in between, whose own forks take as long as a
small tool does.

  spawn.py run ANSWER COMMAND...      runs it, its answer goes to the file; prints microseconds that passed, and
                                      microseconds on a processor
  spawn.py ask REQUEST COMMAND...     writes the line to its input and reads a line; prints microseconds that passed,
                                      most memory in KiB, bytes of the answer, microseconds on a processor
"""

import os
import shutil
import sys
import time


def spawn(command, files):
    actions = [(os.POSIX_SPAWN_DUP2, own, theirs) for theirs, own in files.items()]
    begin = time.monotonic()
    return begin, os.posix_spawn(shutil.which(command[0]) or command[0], command, os.environ, file_actions=actions)


def passed(begin):
    return int((time.monotonic() - begin) * 1e6)


def run(name, command):
    with open(name, "wb") as answer:
        begin, pid = spawn(command, {1: answer.fileno()})
        _, status, used = os.wait4(pid, 0)
        print(passed(begin), int((used.ru_utime + used.ru_stime) * 1e6))
    return os.waitstatus_to_exitcode(status)


def ask(request, command):
    # Closed in the process when it starts, but for what it gets as input and output.
    theirs, requests = os.pipe()
    answers, own = os.pipe()
    begin, pid = spawn(command, {0: theirs, 1: own})
    os.close(theirs)
    os.close(own)
    os.write(requests, request.encode() + b"\n")
    answer = []
    while not answer or not answer[-1].endswith(b"\n"):
        answer.append(os.read(answers, 1 << 20))
        if not answer[-1]:
            return "it ended without an answer"
    took = passed(begin)
    with open(f"/proc/{pid}/status") as status:
        memory = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    os.close(requests)
    _, _, used = os.wait4(pid, 0)
    print(took, memory, sum(map(len, answer)), int((used.ru_utime + used.ru_stime) * 1e6))
    return 0


sys.exit({"run": run, "ask": ask}[sys.argv[1]](sys.argv[2], sys.argv[3:]))
