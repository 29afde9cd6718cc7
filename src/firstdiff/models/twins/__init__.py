"""Ports of a checkpoint made by rule: renamed, transposed, fused, stacked, split, scaled; right ones and damaged ones.

What the audit and the map are measured on. numpy alone: a twin is a tree of parameters, nothing that runs. Each
knows which reference parameters every one of its own was made of.
"""

from firstdiff.models.twins.modules import port_modules
from firstdiff.models.twins.rules import Geometry, Kind, Rules
from firstdiff.models.twins.twin import Twin, parameters, twin

__all__ = ["Geometry", "Kind", "Rules", "Twin", "parameters", "port_modules", "twin"]
