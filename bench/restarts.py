#!/usr/bin/env python3
"""Losses of restarts, counted at the clients.

    cargo build --release --bin echo
    python3 bench/restarts.py target/release/echo > bench/RESULTS-restarts.md

Each request has a connection of its own: the client connects, waits 0, 2 or 4 ms, sends a line, and expects the same line and
then the end. Meanwhile the server is restarted, as often as --restarts says: either one server hands over (in turn by its path
and by SIGUSR2), or the two servers behind HAProxy end in turn by SIGTERM and start again. A request fails if anything but the
right answer comes: a refusal, a reset, an end without an answer, silence for 20 seconds, and over TLS an end without
close_notify.

It needs Python 3.8, and haproxy and openssl where they are to be measured. Everything stays on the loopback interface.
"""

import argparse
import glob
import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

BETWEEN = (0.0, 0.002, 0.004)
SILENCE = 20


def ask(address, context, between, number):
    """Makes one request, and returns its time without the pause, or raises an error."""
    began = time.monotonic()
    with socket.create_connection(address, SILENCE) as stream:
        if context:
            stream = context.wrap_socket(stream, server_hostname="localhost", suppress_ragged_eofs=False)
        if between:
            time.sleep(between)
        line = b"request %d\n" % number
        stream.sendall(line)
        answer = b""
        while chunk := stream.recv(4096):
            answer += chunk
        stream.close()
    if answer != line:
        raise ValueError(f"the answer is {answer!r}")
    return time.monotonic() - began - between


def client(address, cafile, first, count, done, place, results):
    """Runs in a process of its own: a few threads share its requests."""
    context = None
    if cafile:
        context = ssl.create_default_context(cafile=cafile)
    failed, slowest, lock = [], 0.0, threading.Lock()
    numbers = iter(range(first, first + count))

    def work(between):
        nonlocal slowest
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                took = ask(address, context, between, number)
                with lock:
                    slowest = max(slowest, took)
            except Exception as error:
                with lock:
                    failed.append((number, between, f"{type(error).__name__}: {error}"))
            with lock:
                done[place] += 1

    threads = [threading.Thread(target=work, args=(between,)) for between in BETWEEN for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((failed, slowest))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Echo:
    """A server, and those that take over from it."""

    def __init__(self, program, port, folder, tls):
        self.command = [program, "serve", "--bind", f"127.0.0.1:{port}", "--mode", "line"]
        self.command += ["--max-per-peer", "10000", "--handover", f"{folder}/{port}"] + tls
        self.path, self.address = f"{folder}/{port}", ("127.0.0.1", port)
        self.start()

    def start(self):
        # A successor that SIGUSR2 starts writes to the same stdout, so the loop ends at the first address.
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        while "listening on" not in self.process.stdout.readline():
            if self.process.poll() is not None:
                sys.exit(f"{self.command} has ended")

    def pids(self):
        found = []
        for name in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                words = open(name, "rb").read().split(b"\0")
            except OSError:
                continue
            if self.path.encode() in words:
                found.append(int(name.split("/")[2]))
        return found

    def hand_over(self, number):
        (old,) = self.pids()
        before = self.process
        if number % 2:
            self.start()
        else:
            os.kill(old, signal.SIGUSR2)
        while old in self.pids():
            before.poll()
            time.sleep(0.005)

    def restart(self, number):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait() != 0:
            sys.exit("a server did not end in order")
        self.start()

    def stop(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGTERM)
        while self.pids():
            self.process.poll()
            time.sleep(0.01)


HAPROXY = """
global
    maxconn 2000
defaults
    mode tcp
    retries 10
    option redispatch 1
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    default-server check inter 100ms rise 1 fall 1
frontend front
    bind 127.0.0.1:{front}
    default_backend servers
backend servers
    balance roundrobin
    server one 127.0.0.1:{one}
    server other 127.0.0.1:{other}
"""


def haproxy(folder, front, one, other):
    config = f"{folder}/haproxy.cfg"
    with open(config, "w") as file:
        file.write(HAPROXY.format(front=front, one=one, other=other))
    return subprocess.Popen(["haproxy", "-db", "-f", config], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def measure(address, cafile, requests, restarts, restart):
    """Lets the clients ask, restarts meanwhile at equal shares of the requests, and gives what they have found."""
    processes = 4
    done, results = multiprocessing.Array("q", processes), multiprocessing.Queue()
    share = -(-requests // processes)
    clients = []
    for place in range(processes):
        args = (address, cafile, place * share, share, done, place, results)
        clients.append(multiprocessing.Process(target=client, args=args))
    began = time.monotonic()
    for process in clients:
        process.start()
    for number in range(restarts):
        while sum(done) < (number + 1) * requests // (restarts + 1):
            time.sleep(0.005)
        restart(number)
    under_restarts = sum(done)
    found = [results.get() for _ in clients]
    for process in clients:
        process.join()
    failed = [failure for failures, _ in found for failure in failures]
    return sum(done), under_restarts, failed, max(slowest for _, slowest in found), time.monotonic() - began


def run(kind, tls, options, folder):
    cafile = f"{folder}/cert.pem" if tls else None
    arguments = ["--tls-cert", cafile, "--tls-key", f"{folder}/key.pem"] if tls else []
    ports = [free_port() for _ in range(3)]
    if kind == "handover":
        servers = [Echo(options.program, ports[0], folder, arguments)]
        address, proxy, restart = servers[0].address, None, servers[0].hand_over
    else:
        servers = [Echo(options.program, port, folder, arguments) for port in ports[:2]]
        proxy = haproxy(folder, ports[2], *ports[:2])
        address, restart = ("127.0.0.1", ports[2]), lambda number: servers[number % 2].restart(number)
    context = ssl.create_default_context(cafile=cafile) if cafile else None
    until = time.monotonic() + 10
    while True:
        try:
            ask(address, context, 0, 0)
            break
        except (OSError, ValueError):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    result = measure(address, cafile, options.requests, options.restarts, restart)
    if proxy:
        proxy.terminate()
        proxy.wait()
    for server in servers:
        server.stop()
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", help="the program `echo`, built with --release")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--restarts", type=int, default=20)
    options = parser.parse_args()
    options.program = os.path.abspath(options.program)
    help_text = subprocess.run([options.program, "serve", "--help"], capture_output=True, text=True).stdout
    kinds = ["handover"] + (["rolling"] if shutil.which("haproxy") else [])
    secrecies = [False] + ([True] if "--tls-cert" in help_text and shutil.which("openssl") else [])
    version = ""
    if "rolling" in kinds:
        text = subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout
        version = ", HAProxy " + re.search(r"version (\d+\.\d+\.\d+)", text).group(1)
    print("# Losses of restarts\n")
    print("[`restarts.py`](restarts.py) counts the losses at the clients; its head says how. The command:\n")
    print("```sh\ncargo build --release --bin echo")
    print("python3 bench/restarts.py target/release/echo > bench/RESULTS-restarts.md\n```\n")
    print(f"{os.cpu_count()} processors, Linux {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()}{version}; "
          "`echo --mode line`, a thread for each connection.\n")
    print("| restarts | over | requests | restarts | lost | slowest answer | seconds |")
    print("|---|---|---|---|---|---|---|")
    lost = []
    with tempfile.TemporaryDirectory(prefix="ss") as folder:
        if True in secrecies:
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                 "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", "-subj", "/CN=localhost",
                 "-addext", "subjectAltName=DNS:localhost"],
                check=True, capture_output=True)
        for kind in kinds:
            for tls in secrecies:
                done, under, failed, slowest, took = run(kind, tls, options, folder)
                name = "handovers" if kind == "handover" else "rolling, two behind HAProxy"
                print(f"| {name} | {'TLS' if tls else 'TCP'} | {done:,} | {options.restarts} | {len(failed)} "
                      f"| {slowest * 1000:,.0f} ms | {took:.0f} |", flush=True)
                lost += failed
    for number, between, why in lost[:20]:
        print(f"request {number}, {between * 1000:.0f} ms after its connection: {why}", file=sys.stderr)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
