"""The command line: ``carescale evaluate``, ``report`` and ``attacks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
