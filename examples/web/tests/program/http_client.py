"""Asks a server at HOST:PORT for what it is expected to have, over one connection as far as that goes."""
import http.client
import sys

host, port = sys.argv[1].rsplit(":", 1)
has_files = len(sys.argv) > 2
connection = http.client.HTTPConnection(host, int(port), timeout=20)


def ask(method, path, status, body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == status, (method, path, answer.status, content)
    return answer, content


def ask_for_greetings():
    for _ in range(3):
        answer, content = ask("GET", "/any/path", 200)
        assert content == b"Hello, World", content
        assert answer.getheader("Content-Type") == "text/plain; charset=utf-8"
        assert not answer.will_close
        socket = connection.sock
        assert socket is not None
    answer, content = ask("HEAD", "/", 200)
    assert answer.getheader("Content-Length") == "12" and content == b""
    # A body that nobody has asked for, with a length and in chunks.
    assert ask("GET", "/", 200, body=b"x" * 1000)[1] == b"Hello, World"
    chunks = iter([b"GET / HTTP/1.1\r\n\r\n", b"x" * 1000])
    assert ask("GET", "/", 200, body=chunks)[1] == b"Hello, World"
    assert connection.sock is socket, "all of it over one connection"
    answer, _ = ask("GET", "/", 200, Connection="close")
    assert answer.will_close
    answer, _ = ask("POST", "/", 405, body=b"x" * 100000)
    assert answer.getheader("Allow") == "GET, HEAD" and answer.will_close
    ask("BREW", "/", 501)


def ask_for_files():
    answer, _ = ask("GET", "/sub", 301)
    answer, content = ask("GET", answer.getheader("Location"), 200)
    assert b"file.txt" in content
    answer, content = ask("GET", "/sub/file.txt", 200)
    assert content == b"0123456789"
    tag, date = answer.getheader("ETag"), answer.getheader("Last-Modified")
    assert ask("GET", "/sub/file.txt", 304, If_None_Match=tag)[1] == b""
    assert ask("GET", "/sub/file.txt", 304, If_Modified_Since=date)[1] == b""
    answer, content = ask("GET", "/sub/file.txt", 206, Range="bytes=2-4")
    assert content == b"234" and answer.getheader("Content-Range") == "bytes 2-4/10"
    ask("GET", "/sub/file.txt", 416, Range="bytes=10-")
    ask("GET", "/none", 404)


if has_files:
    ask_for_files()
else:
    ask_for_greetings()
print("done")
