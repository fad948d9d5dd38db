"""Ctrl-C that arrives, whatever compiled libraries make of it."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 130
"""As shells have it: 128 and the number of the signal."""
_PATIENCE = 5.0  # seconds, doubled each time: what is being tidied up should come to its end


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """What runs inside ends with one line and exit code 130 when it is interrupted.

    Compiled libraries raise another error where Python interrupts them (pybind11: TypeError or
    ImportError), or only print it (callbacks of cffi). So any error after an interrupt counts as
    the interrupt, and one that has no effect is sent again. Where interrupts are ignored or
    handled by somebody else, as under ``nohup``, it stays so.

    Raises
    ------
    SystemExit
        With exit code 130, in place of what was raised after an interrupt.
    """
    asked, ended = threading.Event(), threading.Event()

    def insist() -> None:
        patience = _PATIENCE
        while not ended.wait(patience):
            if sys.platform == "win32":
                _thread.interrupt_main()
            else:  # a wait of the main thread ends, too
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            patience *= 2

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if not asked.is_set():
            asked.set()
            threading.Thread(target=insist, daemon=True).start()
        raise KeyboardInterrupt

    handled_here = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if handled_here:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException as e:
        code = e.code if isinstance(e, SystemExit) else 1
        # What came to its end in spite of an interrupt is whole.
        if not code or not (asked.is_set() or code == EXIT_CODE):
            raise
        ended.set()
        print(
            "knncalc: interrupted; labels in a cache and runs of a sampling are kept",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_CODE) from None
    finally:
        ended.set()
        if handled_here:
            signal.signal(signal.SIGINT, signal.default_int_handler)
