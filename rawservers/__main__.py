"""The command, as `python3 -m rawservers` and as `rawservers`.

This file and __init__.py are also valid for versions of Python that are too old for the rest, for the sake of the message.
"""

import gc
import os
import signal
import sys

POSTPONED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


def main() -> int:
    """Run the command line of this process, and return the exit status: 130 after Ctrl-C before the server handles it.

    A reload that is requested during the imports is put off, until the server can.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  # a copy of the package, which was not installed, may meet an older one
        sys.stderr.write("rawservers needs Python 3.11 or later\n")
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, POSTPONED)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if it is ignored, as with nohup
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # at once, wherever the imports are
    gc.disable()  # collections during the imports would find next to nothing
    from rawservers import cli

    gc.freeze()  # nor would later ones, among what they have made
    gc.enable()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
