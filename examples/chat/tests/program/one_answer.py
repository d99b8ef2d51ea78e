"""A client that knows of no lines: it sends what is typed as it is, reads once, and shows what that was."""

import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as server:
    for line in sys.stdin:
        message = line.rstrip("\n")
        server.sendall(message.encode())
        if message == "q":
            break
        answer = server.recv(1024)
        # Whole characters only: a client that decodes each piece would fail otherwise.
        print(len(answer), answer.decode("utf-8").replace("\n", "|"), flush=True)
