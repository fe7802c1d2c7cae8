"""The services of telnet_services.py over the real core, each on a free port.

python3 -m tests.servers.telnet_services_server
"""

import logging
from functools import partial

from rawservers import Config, Deadline, ListenConfig, add_service, serve
from rawservers.telnet.service import LineService
from rawservers.telnet.session import Session
from tests.servers.telnet_services import calculate, login

ANSWERS: dict[str, LineService] = {"calculator": calculate, "login": login}


for name, answer in ANSWERS.items():
    add_service(name, partial(Session, service=answer, longest_line=4096), deadlines={Deadline.IDLE: "telnet_idle_time"})

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    serve(Config(listen=tuple(ListenConfig(name, "127.0.0.1:0") for name in ANSWERS)))
