"""Run as a script: mounts a tmpfs that only it and what joins its namespace sees; ends when its standard input does.

Usage: mount_disk.py FOLDER BYTES USER_ID GROUP_ID. It prints "mounted" when the tmpfs, which belongs to that user, is
there. As root it makes a mount namespace, else a user namespace around it. It imports the standard library only, and
runs under `python -I -S`.
"""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x4000, 0x4_0000


def main() -> None:
    folder, size, user_id, group_id = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)

    def check(call: str, result: int) -> None:
        if result != 0:
            sys.exit(f"{call}: {os.strerror(ctypes.get_errno())}")

    if os.geteuid() == 0:
        check("unshare(CLONE_NEWNS)", libc.unshare(CLONE_NEWNS))
    else:
        check("unshare(CLONE_NEWUSER)", libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
        # Each id stays itself: PostgreSQL refuses to be root in there, too.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user_id} {user_id} 1")
        Path("/proc/self/gid_map").write_text(f"{group_id} {group_id} 1")
    # Else the mount would be seen outside, and would stay.
    check("mount --make-rprivate /", libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    options = f"size={size},mode=0700,uid={user_id},gid={group_id}"
    check("mount tmpfs", libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode()))
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
