"""``python -m neuroattn`` is ``neuroattn``."""

import sys

from neuroattn.cli.main import main

sys.exit(main())
