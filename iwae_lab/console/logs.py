"""The package's messages, on stderr and in the log of a run."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from iwae_lab.console.output import Lossy, keep_output_from_failing, lossy_text

__all__ = ["log_file", "log_to_console"]

log = logging.getLogger("iwae_lab")


def log_to_console() -> None:
    """Show the package's messages on stderr, without Lightning's routine ones."""
    keep_output_from_failing()
    no_news = (
        "isinstance.treespec|smaller than the logging interval|"
        "without CUDA graph"  # of a copy of Adam, on a CPU beside a GPU
    )
    warnings.filterwarnings("ignore", f".*({no_news})")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    if not log.handlers:
        console = logging.StreamHandler()
        console.setLevel(logging.INFO)
        log.addHandler(console)


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write our messages, Lightning's and warnings to `path` too."""
    file = Lossy(path, "a")
    text = lossy_text(file)
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    sources = [log, logging.getLogger("pytorch_lightning"), logging.getLogger("py.warnings")]
    logging.captureWarnings(True)
    for source in sources:
        source.addHandler(handler)
    try:
        yield
    finally:
        for source in sources:
            source.removeHandler(handler)
        logging.captureWarnings(False)
        text.close()
        if file.lost:
            log.warning("%s: %s; some lines are lost", path, file.lost.strerror)
