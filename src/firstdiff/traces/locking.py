"""Whether a file is being written. HDF5 holds an flock while it writes; it ends with the process."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.platform == "win32":

    def is_being_written(path: Path) -> bool:
        """Whether another process has ``path`` open for writing."""
        # Windows refuses to open such a file in the first place.
        try:
            path.open("rb").close()
        except PermissionError:
            return True
        return False

else:
    import fcntl

    def is_being_written(path: Path) -> bool:
        """Whether another process has ``path`` open for writing, where the file system has locks."""
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return False
        return False
