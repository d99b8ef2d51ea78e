"""Runs a server at a terminal that shows its first line and then nothing more, as one that Ctrl-S has stopped;
prints its process number, its address and the status that it ends with."""
import os
import pty
import signal
import sys

signal.alarm(60)
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[1], sys.argv[1:])

seen = b""
while b"\n" not in seen:
    seen += os.read(terminal, 4096)
print(pid, seen.split()[2].decode(), flush=True)
_, status = os.waitpid(pid, 0)
print("status", os.waitstatus_to_exitcode(status))
