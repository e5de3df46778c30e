"""``python -m foolbox_carescale`` is ``carescale``."""

import sys

from .cli import main

sys.exit(main())
