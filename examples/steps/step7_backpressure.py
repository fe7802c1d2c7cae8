"""Nothing blocks: send what the kernel takes, keep the rest, and meanwhile do not read that client (back-pressure).

python3 examples/steps/step7_backpressure.py 2323
"""

import select
import socket
import sys
from contextlib import suppress
from types import SimpleNamespace

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening on", server.getsockname())
epoll = select.epoll()
epoll.register(server, select.EPOLLIN)
clients: dict[int, SimpleNamespace] = {}

while True:
    for fd, _ in epoll.poll():
        if fd == server.fileno():
            sock, peer = server.accept()
            sock.setblocking(False)
            clients[sock.fileno()] = SimpleNamespace(sock=sock, received=b"", unsent=b"")
            epoll.register(sock, select.EPOLLIN)
            continue
        client = clients[fd]
        try:
            if not client.unsent:  # back-pressure
                if not (data := client.sock.recv(10000)):
                    raise ConnectionError  # closed, which is treated alike
                *lines, client.received = (client.received + data).split(b"\n")
                client.unsent = b"".join(b"you said: " + line.rstrip(b"\r") + b"\r\n" for line in lines)
            with suppress(BlockingIOError):  # the send buffer is full
                sent = client.sock.send(client.unsent)
                client.unsent = client.unsent[sent:]
            epoll.modify(fd, select.EPOLLOUT if client.unsent else select.EPOLLIN)
        except ConnectionError:
            clients.pop(fd).sock.close()
