"""A server for one client after another, which can be restarted at once: SO_REUSEADDR.

python3 examples/steps/step3_loop.py 2323
"""

import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
print("listening on", server.getsockname())

while True:
    sock, peer = server.accept()
    print("connected:", peer)
    while data := sock.recv(1000):
        print("received:", data)
        sock.sendall(b"you said: " + data)
    print("closed:", peer)
    sock.close()
