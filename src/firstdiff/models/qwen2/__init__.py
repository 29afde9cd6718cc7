"""Qwen2 and Qwen2.5, the model that the ports of this folder compute. See README.md.

Importing this imports no framework; `subject` imports the one it is asked for.
"""

from firstdiff.models.qwen2.config import PUBLISHED, TINY, Qwen2Config, RopeScaling
from firstdiff.models.qwen2.ports import PORTS, subject

__all__ = ["PORTS", "PUBLISHED", "TINY", "Qwen2Config", "RopeScaling", "subject"]
