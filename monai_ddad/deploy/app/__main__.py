"""Entry point of the packaged application; folders come from the environment or the command line."""

import sys

from monai_ddad.deploy.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
