"""One process at a time."""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["locked"]

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Let one process at a time work on `what`; a second one waits and says so.

    Where the file system has no locks, says so and continues without.
    """
    lock = FileLock(file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is using %s; waiting for it", what)
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter from old versions of filelock
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        log.warning("the file system of %s has no locks: do not start a second process on %s", file.parent, what)
    try:
        yield
    finally:
        lock.release()
