"""``python -m bio_rl``: the command ``bio-rl``, for where it is not on the path."""

import sys

from bio_rl.cli import main

sys.exit(main())
