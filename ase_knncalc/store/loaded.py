"""Models that were read already: one in memory for each file, however many calculators use it.

A model is immutable and its arrays are read-only, so that all may share it. A file is known again
by where it is, its inode, size and time of change.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from ase_knncalc.model import KNNModel

# Models that are kept; the one that was asked for longest ago goes first.
_MOST = 8
# s. A file that was changed just now may change again without its time telling.
_SETTLED = 2.0

Key = tuple[str, int, int, int, int]

_lock = threading.Lock()
_models: OrderedDict[Key, KNNModel] = OrderedDict()


def loaded(path: Path, read: Callable[[], KNNModel]) -> KNNModel:
    """The model of a file, without its baseline; ``read`` is called where it is not known."""
    key = _key(path)
    with _lock:
        if key is not None and key in _models:
            _models.move_to_end(key)
            return _models[key]
    # Not under the lock: other files need not wait, and errors leave nothing behind.
    model = read()
    if key is not None and key == _key(path) and time.time() - key[-1] / 1e9 > _SETTLED:
        with _lock:
            model = _models.setdefault(key, model)
            while len(_models) > _MOST:
                _models.popitem(last=False)
    return model


def clear_cache() -> None:
    """Forget all models that were read, so that their memory is free once nobody uses them."""
    with _lock:
        _models.clear()


def _key(path: Path) -> Key | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return os.path.realpath(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _after_fork() -> None:
    # The parent's other threads, one of which may have held it, do not exist in the child.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
