"""A connection is a stream of bytes. What is a line is for the server to find out: it keeps what has no end yet.

python3 examples/steps/step4_lines.py 2323
"""

import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))  # socket, SO_REUSEADDR, bind and listen
print("listening on", server.getsockname())

while True:
    sock, peer = server.accept()
    print("connected:", peer)
    received = b""
    while data := sock.recv(1000):
        print("received:", data)
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            sock.sendall(b"you said: " + line.rstrip(b"\r") + b"\r\n")
    print("closed:", peer)
    sock.close()
