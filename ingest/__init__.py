"""From a list of clips to committed shards."""

from .clips import Clip
from .errors import ClipError, IngestError, ListError, PlanError, SampleError
from .lists import ClipList, read_list
from .plan import Plan, make_plan
from .run import IngestConfig, IngestResult, ingest, read_and_plan

__all__ = [
    "Clip",
    "ClipList",
    "ClipError",
    "IngestConfig",
    "IngestError",
    "IngestResult",
    "ListError",
    "Plan",
    "PlanError",
    "SampleError",
    "ingest",
    "make_plan",
    "read_and_plan",
    "read_list",
]
