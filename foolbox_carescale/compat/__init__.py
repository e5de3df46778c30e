"""Attacks under the signatures of other libraries, so that a script changes one import.

``AutoAttack`` is called as that of Croce & Hein; ``foolbox_carescale.compat.torchattacks`` has the
attacks that are called as those of torchattacks. They translate arguments and results, no more.
"""

from .autoattack import AutoAttack

__all__ = ["AutoAttack"]
