"""Runs a program at a terminal and talks to it as a person does; prints the status that it ends with."""
import os
import pty
import select
import signal
import sys

signal.alarm(60)
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])

seen = b""


def expect(text):
    """Waits for a text, forgets everything up to its end, and gives what came before it."""
    global seen
    while text not in seen:
        if not select.select([terminal], [], [], 10)[0]:
            sys.exit(f"{text!r} does not come; there is {seen!r}")
        try:
            data = os.read(terminal, 4096)
        except OSError:
            data = b""
        if not data:
            sys.exit(f"{text!r} does not come before the end; there is {seen!r}")
        seen += data
    before, seen = seen.split(text, 1)
    return before


def enter(text):
    os.write(terminal, text + b"\r")
    # What is typed is shown by the terminal itself.
    expect(b"\r\n")


expect(b"> ")
enter(b"echo one; echo two")
expect(b"one\r\ntwo\r\n> ")
if "document" not in sys.argv:
    enter(b"sh -c 'exit 3'")
    expect(b"[status 3]\r\n> ")
    # A shell that is about to start a program would wait for its end before it minds Ctrl-C.
    enter(b"echo begun; while :; do sleep 0.01; done")
    expect(b"begun\r\n")
    os.write(terminal, b"\x03")
    expect(b"[status 130]\r\n> ")
enter(b"echo still here")
expect(b"still here\r\n> ")
# At the prompt it takes back what is typed, and nothing else.
for _ in range(2):
    os.write(terminal, b"echo never ")
    expect(b"echo never ")
    os.write(terminal, b"\x03")
    expect(b"\r\n> ")
    enter(b"echo typed anew")
    before = expect(b"typed anew\r\n> ")
    if before:
        sys.exit(f"{before!r} comes before it")
enter(b"false")
expect(b"> ")
os.write(terminal, b"\x04")
_, status = os.waitpid(pid, 0)
print("status", os.waitstatus_to_exitcode(status))
