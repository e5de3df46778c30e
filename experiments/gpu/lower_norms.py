"""The norms of `norms` for the lower orders."""

from __future__ import annotations

from .norms import LOWER_ORDERS, check_order
from .report import Report
from .setting import Setting


def check(report: Report, setting: Setting) -> None:
    """Check eta and the points in float32, order by order."""
    for p in () if setting.tiny else LOWER_ORDERS:
        check_order(report, setting, p)
