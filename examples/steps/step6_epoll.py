"""Many clients in one thread: the kernel tells which sockets have input (epoll), and only those are read.

python3 examples/steps/step6_epoll.py 2323
"""

import select
import socket
import sys
from types import SimpleNamespace

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening on", server.getsockname())
epoll = select.epoll()
epoll.register(server, select.EPOLLIN)
clients: dict[int, SimpleNamespace] = {}  # by descriptor

while True:
    for fd, _ in epoll.poll():
        if fd == server.fileno():
            sock, peer = server.accept()
            clients[sock.fileno()] = SimpleNamespace(sock=sock, received=b"")
            epoll.register(sock, select.EPOLLIN)
            continue
        client = clients[fd]
        try:
            data = client.sock.recv(10000)
            *lines, client.received = (client.received + data).split(b"\n")
            for line in lines:
                client.sock.sendall(b"you said: " + line.rstrip(b"\r") + b"\r\n")
        except ConnectionError:  # the client has reset it
            data = b""
        if not data:
            clients.pop(fd).sock.close()  # which takes it out of the epoll set
