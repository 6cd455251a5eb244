"""Before torch is loaded: its threads sleep soon while they wait, since tests run several programs on few cores."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
