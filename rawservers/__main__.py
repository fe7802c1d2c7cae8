"""The command `rawservers`, also as `python3 -m rawservers`."""

import sys
from signal import SIG_BLOCK, SIGALRM, SIGHUP, SIGUSR1, SIGUSR2, pthread_sigmask


def main() -> int:
    """Run the command line. A reload that is requested during the imports is put off, until the server can."""
    pthread_sigmask(SIG_BLOCK, {SIGHUP, SIGUSR1, SIGUSR2, SIGALRM})
    from rawservers import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
