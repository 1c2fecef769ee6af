"""A small disk of a server's own, which can be filled to its last byte: a tmpfs in a mount namespace of its own.

Invariant: nothing outside the server and `SmallDisk.root` sees it, and nothing has to be unmounted: it is gone when the
last process in its namespace has ended, which no process does later than the one that made it, even if that is killed.
"""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from embedded.process import ServerError, plain_environment

_MOUNT_DISK = Path(__file__).with_name("mount_disk.py")
_PROBE_BYTES = 1 << 20
_BALLAST = "ballast"
_CHUNK = bytes(1 << 16)


class SmallDisk:
    """Mounted over `folder`, with what lies in it copied, for `user` (user id, group id), with room for `size_bytes`.

    A process started by `launch(..., namespace=disk.namespace)` sees it at `folder`.

    Raises:
        ServerError: this machine does not allow it.
    """

    def __init__(self, folder: Path, size_bytes: int, user: tuple[int, int]) -> None:
        # Through /proc/PID/root a symbolic link would lead back out.
        folder = folder.resolve()
        command = [sys.executable, "-I", "-S", str(_MOUNT_DISK), str(folder), str(size_bytes), *map(str, user)]
        # Its standard input ends with this process, however that ends.
        self._holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=plain_environment(),
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if (said := self._holder.stdout.readline().decode().strip()) != "mounted":
            self.close()
            raise ServerError(f"no disk of its own for a server: {said}")
        self.root = Path(f"/proc/{self._holder.pid}/root", folder.relative_to("/"))
        try:
            shutil.copytree(folder, self.root, dirs_exist_ok=True)
            if os.geteuid() == 0:
                for path in self.root.rglob("*"):
                    os.chown(path, *user)
        except BaseException:
            self.close()
            raise

    @property
    def namespace(self) -> int:
        """The pid of a process that is in it."""
        return self._holder.pid

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def fill(self) -> None:
        """Leave no block free, by a ballast file."""
        with (self.root / _BALLAST).open("ab", buffering=0) as ballast:
            while True:
                try:
                    ballast.write(_CHUNK)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

    def free(self) -> None:
        """Take the ballast away."""
        (self.root / _BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; it is gone when the processes that use it are."""
        self._holder.communicate()


@cache
def why_no_small_disk() -> str | None:
    """What keeps this machine from a small disk ("mount tmpfs: Operation not permitted"), or None if nothing."""
    if sys.platform != "linux":
        return "a disk of its own for a server needs Linux"
    with tempfile.TemporaryDirectory() as folder:
        try:
            disk = SmallDisk(Path(folder), _PROBE_BYTES, (os.geteuid(), os.getegid()))
        except (ServerError, OSError) as error:
            return str(error)
        disk.close()
    return None
