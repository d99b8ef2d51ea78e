"""CPython's own socketserver: `python3 sockets.py serial|threading|forking echo|line|sink|chat|datagram`."""

import socketserver
import sys
import threading

members = {}
lock = threading.Lock()


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())


class Sink(socketserver.BaseRequestHandler):
    def handle(self):
        total = 0
        buffer = bytearray(65536)
        while count := self.request.recv_into(buffer):
            total += count
        self.request.sendall(b"%d\n" % total)


class Chat(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        with lock:
            members[self] = self.request
        try:
            for line in self.rfile:
                with lock:
                    for member, request in members.items():
                        if member is not self:
                            request.sendall(line)
        finally:
            with lock:
                del members[self]


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(data, self.client_address)


MIXINS = {
    "serial": (),
    "threading": (socketserver.ThreadingMixIn,),
    "forking": (socketserver.ForkingMixIn,),
}
MODES = {"echo": Echo, "line": Line, "sink": Sink, "chat": Chat, "datagram": Datagram}


def main():
    mixin, mode = sys.argv[1:]
    base = socketserver.UDPServer if mode == "datagram" else socketserver.TCPServer

    class Server(*MIXINS[mixin], base):
        daemon_threads = True
        # The default of 5 loses connections of every load here.
        request_queue_size = 1024

    with Server(("127.0.0.1", 0), MODES[mode]) as server:
        print("listening on %s:%d" % server.server_address, flush=True)
        server.serve_forever()


main()
