"""`python -m rollout_studio.app`: the command line where its script is not on the path (`launch.py` starts it so)."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
