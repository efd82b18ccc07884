"""The application as ``monai-deploy package`` takes it; folders come from the environment or the command line."""

import sys

from monai_ddad.deploy.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
