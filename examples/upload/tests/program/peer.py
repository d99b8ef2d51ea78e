"""The document's wire, spoken by sockets alone: post|name|size, and then so many bytes.

peer.py send HOST:PORT FILE...     sends files, each header by itself
peer.py serve                      stores what one client sends, in model; says where it listens
"""

import os
import socket
import sys
import time


def send(address, names):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for name in names:
            size = os.path.getsize(name)
            connection.sendall("post|{}|{}".format(name, size).encode())
            # Digits may follow: the header has to be received by itself.
            time.sleep(1)
            with open(name, "rb") as file:
                while block := file.read(10_000):
                    connection.sendall(block)
            time.sleep(1)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"", "there is no answer"


def serve():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("127.0.0.1:{}".format(listener.getsockname()[1]), flush=True)
        listener.settimeout(20)
        connection, _ = listener.accept()
    connection.settimeout(20)
    with connection, connection.makefile("rb") as stream:
        # The sizes are known, so that nothing depends on how the bytes come.
        sizes = {name: os.path.getsize(name) for name in os.listdir(".") if os.path.isfile(name)}
        while begin := stream.read(5):
            assert begin == b"post|", begin
            name = b""
            while not name.endswith(b"|"):
                name += stream.read(1)
            name = name[:-1].decode()
            number = str(sizes[name]).encode()
            assert stream.read(len(number)) == number
            with open(os.path.join("model", name), "ab") as file:
                file.write(stream.read(sizes[name]))


if sys.argv[1] == "send":
    send(sys.argv[2], sys.argv[3:])
else:
    serve()
