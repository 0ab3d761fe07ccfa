"""A lock on a file that is the operating system's, and so ends with the processes that hold it, however they end."""

import errno
import fcntl
import os
from pathlib import Path

from nlnet.distributed import print_once


def open_locked(path: Path) -> tuple[int, bool]:
    """The descriptor of a file, which is made where there is none, and whether it is locked by it now.

    The lock is held until every copy of the descriptor is closed; a process that is started does not inherit it unless
    it is handed over. The file is open for reading only, where the file system locks such a file: a disk with a file
    open for writing cannot be remounted read-only. Raises OSError.
    """
    access = os.O_RDONLY
    while True:
        descriptor = os.open(path, access | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor, True
        except BlockingIOError:
            return descriptor, False
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                print_once(f"note: {path}: no locks on this disk ({error.strerror}); start no second run here")
                return descriptor, True
            os.close(descriptor)
            if error.errno != errno.EBADF or access == os.O_RDWR:  # NFS wants it open for writing
                raise
            access = os.O_RDWR
