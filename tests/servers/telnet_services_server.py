"""The services of telnet_services.py over the real core, each on a free port.

python3 -m tests.servers.telnet_services_server
"""

import logging

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Deadline, Protocol, ServiceSpec
from rawservers.daemon.worker import serve
from rawservers.services import SERVICES, Report, core_deadlines
from rawservers.settings import Config, ListenConfig
from rawservers.telnet.service import LineService
from rawservers.telnet.session import Session
from tests.servers.telnet_services import calculate, login

ANSWERS: dict[str, LineService] = {"calculator": calculate, "login": login}


def add(name: str, answer: LineService) -> None:
    def service(config: Config, clock: Clock, report: Report) -> ServiceSpec:
        def start(peer: Peer) -> Protocol:
            return Session(peer, answer, longest_line=config.longest_line)

        return ServiceSpec(name, start, {Deadline.IDLE: config.telnet_idle_time} | core_deadlines(config), report)

    SERVICES[name] = service


for name, answer in ANSWERS.items():
    add(name, answer)

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    serve(Config(listen=tuple(ListenConfig(name, "127.0.0.1:0") for name in ANSWERS)))
