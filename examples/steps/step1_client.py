"""A client: its end of a connection has an ephemeral port, which the kernel chooses. An empty line ends it.

python3 examples/steps/step1_client.py 127.0.0.1 2323
"""

import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])

sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
sock.connect((host, port))
print("connected:", sock.getsockname(), "->", sock.getpeername())

while line := input("> "):
    sock.sendall(line.encode() + b"\r\n")
    data = sock.recv(1000)
    if not data:
        print("the server has closed the connection")
        break
    print(data.decode(), end="")

sock.close()
