"""FAISS, loaded where it is needed: which package is missing or twice there is said in one line."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import UnibrivlError


@cache
def load_faiss() -> Any:
    """Return the module `faiss`; looking for packages takes a millisecond, as long as a search, and is done once.

    Raises:
        UnibrivlError: it is not installed, or two packages of it are.
    """
    if all(_is_installed(name) for name in ("faiss-cpu", "faiss-gpu")):
        raise UnibrivlError(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other; uninstall one of them"
        )
    try:
        import faiss
    except ImportError as e:
        raise UnibrivlError(
            "FAISS is not installed: run pip install 'unibrivl[cpu]' (or 'unibrivl[gpu]'; not both)"
        ) from e
    return faiss


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
