"""The services of services_telnet.py over the real core, each on a free port.

python3 -m tests.telnet_services_server
"""

import logging

from rawservers.core.connection import ServiceSpec
from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Deadline, Protocol
from rawservers.daemon.worker import serve
from rawservers.services import SERVICES, Report, ending
from rawservers.settings import Config, ListenConfig
from rawservers.telnet import session
from tests.services_telnet import calculate, login

ANSWERS: dict[str, session.LineService] = {"calculator": calculate, "login": login}


def add(name: str, answer: session.LineService) -> None:
    def start(peer: Peer) -> Protocol:
        return session.Session(peer, answer)

    def service(config: Config, clock: Clock, report: Report) -> ServiceSpec:
        return ServiceSpec(name, start, {Deadline.IDLE: config.telnet_idle_time} | ending(config), report)

    SERVICES[name] = service


for name, answer in ANSWERS.items():
    add(name, answer)

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    serve(Config(listen=tuple(ListenConfig(name, "127.0.0.1:0") for name in ANSWERS)))
