"""Run as a script: becomes the given command, which the kernel will kill when the process that asked for it ends.

Usage: launch.py PARENT_PID NAMESPACE_PID USER_ID GROUP_ID COMMAND... The mounts that NAMESPACE_PID sees are joined; "-"
there and for the two ids keeps what the caller has. It imports the standard library only, and runs under `python -I
-S`, so that it costs 20 to 50 ms. It exists because `preexec_fn` runs Python between fork and exec, which is unsafe
(and, from Python 3.12 on, warned of) in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, namespace_pid, user_id, group_id, *command = sys.argv[1:]
    if namespace_pid != "-":
        join_mounts(namespace_pid)
    if user_id != "-":
        os.setgroups([])
        os.setgid(int(group_id))
        os.setuid(int(user_id))
    # An ignored signal or a blocked one would stay so in the server: Python ignores SIGPIPE, `&` in a shell SIGINT.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        # After the change of user, which clears it; exec keeps it.
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
        if os.getppid() != int(parent_pid):
            sys.exit("the process that asked for this one has ended")
    os.execv(command[0], command)


def join_mounts(pid: str) -> None:
    """Join the mount namespace of a process; as another user than root its user namespace first, which allows that."""
    working_folder = os.getcwd()
    libc = ctypes.CDLL(None, use_errno=True)
    for kind in ("mnt",) if os.geteuid() == 0 else ("user", "mnt"):
        with open(f"/proc/{pid}/ns/{kind}") as namespace:
            if libc.setns(namespace.fileno(), 0) != 0:
                sys.exit(f"setns({kind}): {os.strerror(ctypes.get_errno())}")
    # Joining leaves the process in the root folder.
    os.chdir(working_folder)


if __name__ == "__main__":
    main()
