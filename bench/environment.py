"""Where a figure was measured: stored with every result."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "unibrivl",
    "torch",
    "torchaudio",
    "torchvision",
    "timm",
    "faiss-cpu",
    "av",
    "soundfile",
    "numpy",
    "pillow",
)


def environment() -> dict[str, object]:
    """Return processor, cores, memory, system and package versions; no name of the machine."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
