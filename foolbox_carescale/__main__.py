"""``python -m foolbox_carescale`` is ``carescale``."""

import sys

from foolbox_carescale.cli import main

sys.exit(main())
