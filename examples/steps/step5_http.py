"""HTTP/1.0 by hand (RFC 1945): one request, up to its empty line; one response; then the server closes.

python3 examples/steps/step5_http.py 8080
"""

import socket
import sys

PAGES = {"/": "<h1>Hello</h1>\n", "/about": "<p>A server of 35 lines.</p>\n"}


def respond(head: bytes) -> bytes:
    words = head.decode("latin-1").split("\r\n")[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        status, page = "400 Bad Request", "<p>What?</p>\n"
    elif words[0] != "GET":
        status, page = "501 Not Implemented", "<p>Only GET.</p>\n"
    elif words[1] not in PAGES:
        status, page = "404 Not Found", "<p>Not here.</p>\n"
    else:
        status, page = "200 OK", PAGES[words[1]]
    return f"HTTP/1.0 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n\r\n{page}".encode()


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening on", server.getsockname())

while True:
    sock, peer = server.accept()
    head = b""
    while b"\r\n\r\n" not in head and (data := sock.recv(1000)):
        head += data
    print(peer, head.split(b"\r\n")[0])
    sock.sendall(respond(head))
    sock.close()
