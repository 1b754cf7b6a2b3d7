"""The small process that stands between this program and one engine, so that nothing stays behind.

Runs as ``python -I -S guard.py CONTROL_FD PARENT_PID`` with the standard library only: it must
start in a few tens of milliseconds and stay near 10 MB, because there is one per engine.

Why a process of its own: the engine must end when its parent does, also on ``kill -9``, together
with everything that it started, in whatever session. Only an ancestor that survives the parent can
see to that, and only a child subreaper gets to see descendants that left the process group. A
``preexec_fn`` could set a death signal, but it is not safe in a program with threads, and reaches
the engine alone.

The control socket, whose other end only the parent holds, carries:

* to the guard: the length of the launch message and a newline, the message (`Guard.read_launch`),
  then any number of ``stop SECONDS`` lines. Its end means that the parent is gone.
* from the guard: ``started PID`` or ``failed ERRNO``, then ``exited CODE`` or ``signalled NUMBER``
  as soon as the engine ends. Its end means that the engine and all its descendants are gone.
"""

import ctypes
import os
import select
import signal
import sys
import time

# Values of <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# What is left behind by an engine, or by a killed parent, gets this long between TERM and KILL: the
# promise is that all is gone within 2 s.
LEFTOVER_GRACE_S = 1.0
# A TERM from outside (not from the parent, which says how long) leaves the engine this long.
TERM_GRACE_S = 10.0
# Python's resource trackers end by themselves as soon as those they work for are gone, and remove
# what these left in shared memory: they get this long after the end of all others.
TRACKER_GRACE_S = 1.0
TRACKER = b"multiprocessing.resource_tracker"
# How often descendants that are to end are looked for again; longer once KILL does not help at once
# (a process in uninterruptible sleep).
SWEEP_S = 0.02
SLOW_SWEEP_S = 0.5


def prctl(option: int, value: int) -> None:
    """Call Linux's prctl; elsewhere there is none, and the process group is all that is ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3)


def read_children() -> dict[int, list[int]]:
    """Read every process's children from /proc; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return children
    for name in names:
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError:
            continue  # it ended meanwhile
        try:
            stat = os.read(fd, 1024)
        except OSError:
            continue
        finally:
            os.close(fd)
        # "pid (command) state ppid ...", where the command may hold spaces and brackets.
        fields = stat[stat.rfind(b")") + 1 :].split(None, 2)
        if len(fields) > 1:
            children.setdefault(int(fields[1]), []).append(int(name))
    return children


def list_descendants(root: int) -> list[int]:
    """Process ids below `root`, parents before children."""
    children = read_children()
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found.extend(below)
        pending.extend(below)
    return found


def is_tracker(pid: int) -> bool:
    """Tell whether a process is a resource tracker of Python's multiprocessing."""
    try:
        fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY)
    except OSError:
        return False  # it ended meanwhile
    try:
        return TRACKER in os.read(fd, 4096)
    except OSError:
        return False
    finally:
        os.close(fd)


class Guard:
    """Runs one engine and ends it; everything happens in `run`'s one loop."""

    def __init__(self, control: int, parent: int) -> None:
        self.control = control
        self.parent = parent
        self.pid = os.getpid()
        self.received = b""
        self.parent_gone = False
        self.deadline: float | None = None
        self.engine = 0
        self.status: int | None = None
        self.wakeup, self.signalled = os.pipe()

    def run(self) -> int:
        """Run the engine to its end and clear up; returns its exit code (128 + n for signal n)."""
        self.prepare()
        launch = self.read_launch()
        if launch is None or not self.start(*launch):
            return 127
        self.watch()
        self.clear_up()
        if self.status is None:
            return 128 + signal.SIGKILL
        code = os.waitstatus_to_exitcode(self.status)
        return code if code >= 0 else 128 - code

    def prepare(self) -> None:
        """Make this process the one that inherits orphans and that ends with its parent."""
        os.set_inheritable(self.control, False)
        for fd in (self.wakeup, self.signalled):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.signalled, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)  # the number arrives at the wake-up pipe
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent decides what Ctrl-C means
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        # The control socket's end says the same, unless a fork of the parent still holds it. The
        # signal also comes when merely the thread that started us ends, so it is not TERM.
        prctl(PR_SET_PDEATHSIG, signal.SIGUSR2)
        self.parent_gone = os.getppid() != self.parent

    def read_launch(self) -> tuple[str, list[bytes], dict[bytes, bytes]] | None:
        """Read working directory, arguments and environment; None when the parent ended first.

        They come through the socket so that the engine's variables (``LD_PRELOAD``, secrets) touch
        neither this process nor any command line. Fields are separated by NUL, which none can hold:
        directory, number of arguments, the arguments, then ``NAME=value`` each.
        """
        while b"\n" not in self.received:
            if not self.receive():
                return None
        length, _, self.received = self.received.partition(b"\n")
        while len(self.received) < int(length):
            if not self.receive():
                return None
        message, self.received = self.received[: int(length)], self.received[int(length) :]
        cwd, count, *fields = message.split(b"\0")
        argv, variables = fields[: int(count)], fields[int(count) :]
        env: dict[bytes, bytes] = {}
        for variable in variables:
            name, _, value = variable.partition(b"=")
            env[name] = value
        return os.fsdecode(cwd), argv, env

    def receive(self) -> bool:
        """Take in what the parent sent; False once it is gone."""
        try:
            data = os.read(self.control, 65536)
        except ConnectionError:
            data = b""
        self.received += data
        self.parent_gone = self.parent_gone or not data
        return bool(data)

    def report(self, line: str) -> None:
        """Tell the parent, if there is one."""
        try:
            os.write(self.control, line.encode() + b"\n")
        except OSError:
            self.parent_gone = True

    def start(self, cwd: str, argv: list[bytes], env: dict[bytes, bytes]) -> bool:
        """Start the engine in its own session; False (and reported) when it cannot be executed."""
        failed, failed_in_child = os.pipe()
        # A signal between fork and exec must wait for the engine's own handlers, not run ours.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        self.engine = os.fork()
        if self.engine == 0:
            self.become_engine(cwd, argv, env, failed_in_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.close(failed_in_child)
        error = os.read(failed, 16)  # closed, and so empty, on a successful exec
        os.close(failed)
        if error:
            os.waitpid(self.engine, 0)
            self.report(f"failed {error.decode()}")
            return False
        self.report(f"started {self.engine}")
        return True

    def become_engine(
        self, cwd: str, argv: list[bytes], env: dict[bytes, bytes], failed: int
    ) -> None:
        """Turn the forked child into the engine; never returns."""
        error = 0
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self.pid:
                os._exit(127)
            signal.set_wakeup_fd(-1)
            for number in range(1, signal.NSIG):
                # Python itself ignores SIGPIPE and SIGXFSZ, which exec would hand down.
                if signal.getsignal(number) not in (signal.SIG_DFL, None):
                    signal.signal(number, signal.SIG_DFL)
            if cwd:
                os.chdir(cwd)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.execvpe(argv[0], argv, env)
        except OSError as failure:
            error = failure.errno or 0
        finally:
            os.write(failed, str(error).encode())
            os._exit(127)

    def watch(self) -> None:
        """Wait until the engine ends, its time to stop is over, or the parent is gone."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        self.read_orders()  # may have come with the launch message
        while self.reap() and self.status is None and not self.parent_gone:
            left = None if self.deadline is None else self.deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            for fd, _ in poll.poll(None if left is None else left * 1000 + 1):
                if fd == self.wakeup:
                    self.on_signals()
                elif self.receive():
                    self.read_orders()

    def on_signals(self) -> None:
        """Act on the signals that arrived; SIGCHLD has done its work by ending the poll."""
        try:
            numbers = os.read(self.wakeup, 4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers:
            self.begin_stop(TERM_GRACE_S)
        if signal.SIGUSR2 in numbers and os.getppid() != self.parent:
            self.parent_gone = True

    def read_orders(self) -> None:
        """Carry out the complete lines received; the shortest of several graces counts."""
        while b"\n" in self.received:
            line, _, self.received = self.received.partition(b"\n")
            self.begin_stop(float(line.split()[1]))

    def begin_stop(self, grace_s: float) -> None:
        """Ask the engine to end; it has its own helpers to end in its own order."""
        deadline = time.monotonic() + grace_s
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
        if grace_s > 0:
            self.send(self.engine, signal.SIGTERM)

    def reap(self) -> bool:
        """Collect what has ended, orphans included; False when there is no child left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.engine:
                self.status = status
                code = os.waitstatus_to_exitcode(status)
                self.report(f"exited {code}" if code >= 0 else f"signalled {-code}")

    def clear_up(self) -> None:
        """End whatever is left: TERM unless the time is over, then KILL until nothing is."""
        # A process that started others cannot lose them: an orphan becomes our child. So there is
        # nothing left exactly when we have no child.
        is_late = self.deadline is not None and time.monotonic() >= self.deadline
        kill_at = time.monotonic() + (0 if is_late else LEFTOVER_GRACE_S)
        slow_at = kill_at + LEFTOVER_GRACE_S
        # When there was last anything but trackers: a killed process of gigabytes is seconds in ending.
        busy_at = kill_at
        asked: set[int] = set()
        while self.reap():
            now = time.monotonic()
            for pid in list_descendants(self.pid) or [-self.engine]:  # without /proc: the group
                if now >= kill_at:
                    if not is_tracker(pid):
                        busy_at = now
                    elif now < busy_at + TRACKER_GRACE_S:
                        continue
                    self.send(pid, signal.SIGKILL)
                elif pid not in asked:
                    asked.add(pid)
                    self.send(pid, signal.SIGTERM)
            time.sleep(SWEEP_S if now < slow_at else SLOW_SWEEP_S)

    def send(self, pid: int, number: int) -> None:
        """Send a signal to a process that may have ended."""
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # ended, or changed its user: then its own parent's end is all we can do


def main() -> int:
    """Run the guard of the parent named on the command line."""
    return Guard(int(sys.argv[1]), int(sys.argv[2])).run()


if __name__ == "__main__":
    sys.exit(main())
