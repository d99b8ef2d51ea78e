"""Sends its input through TLS and shows the answers, up to the server's close_notify; without that it fails."""
import socket
import ssl
import sys

host, port, version, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, "TLSv1_" + version[-1])
with socket.create_connection((host, int(port)), timeout=20) as plain:
    with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
        tls.sendall(sys.stdin.buffer.read())
        while data := tls.recv(65536):
            sys.stdout.buffer.write(data)
        print("farewell in", tls.version(), file=sys.stderr)
