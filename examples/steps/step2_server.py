"""A server for one client: bind, listen, accept. The accepted connection is a second socket.

python3 examples/steps/step2_server.py 2323
"""

import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
print("listening on", server.getsockname())

sock, peer = server.accept()
print("connected:", peer)
data = sock.recv(1000)
print("received:", data)
sock.sendall(b"you said: " + data)
sock.close()
server.close()
