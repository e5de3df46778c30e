"""Run ``experiments.gpu.check``."""

import sys

from .check import main

sys.exit(main())
