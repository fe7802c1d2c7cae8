import sys

from rawservers.cli import main

sys.exit(main())
