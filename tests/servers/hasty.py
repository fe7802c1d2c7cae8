"""The servers with no patience: every deadline a second, for the tests of them."""

import sys
from typing import Any
from unittest import mock

from rawservers import cli
from rawservers.core.record import replace

CONFIGURE = cli.configure

if __name__ == "__main__":
    times: dict[str, Any] = dict.fromkeys(
        ("head_time", "body_time", "idle_time", "telnet_idle_time", "send_time", "linger_time"), 1.0
    )
    with mock.patch.object(cli, "configure", lambda *said: replace(CONFIGURE(*said), **times)):
        sys.exit(cli.main())
