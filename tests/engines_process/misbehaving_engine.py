"""An engine that misbehaves at the level of processes; standard library only, ready in 50 ms.

Answers 200 to any request on ``--socket`` or ``--port``. Ends with 0 on SIGTERM.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

SLEEP = [sys.executable, "-I", "-S", "-c"]
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket")
    parser.add_argument("--port", type=int)
    parser.add_argument("--print", action="append", default=[], dest="lines")
    parser.add_argument("--print-env", help="print this variable")
    parser.add_argument("--exit", type=int, help="exit at once")
    parser.add_argument("--exit-after", type=float, help="exit with 1 once it was up so long")
    parser.add_argument("--kill-self", type=int, help="die by this signal at once")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="503 so long")
    parser.add_argument("--read", help="read this file again and again while it loads")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--grandchild", help="start a stubborn one; write its pid into this file")
    parser.add_argument("--daemon", help="start a stubborn one in its own session; likewise")
    parser.add_argument("--flood", type=int, default=0, help="so many bytes without a newline")
    parser.add_argument("--close-output", action="store_true")
    parser.add_argument("--mute-when", help="stop answering once this file exists")
    parser.add_argument("--busy-when-mute", action="store_true")
    parser.add_argument("--dump-env", help="write the environment into this file")
    parser.add_argument("--count-starts", help="append a line to this file at each start")
    parser.add_argument("--ready-from-start", type=int, default=0, help="exit 1 in earlier starts")
    return parser.parse_args()


class Engine:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.loaded_at = time.monotonic() + args.load_seconds

    def serve(self) -> None:
        if self.args.socket:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.args.socket)
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.args.port))
        listener.listen(16)
        threading.Thread(target=self.load, daemon=True).start()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def load(self) -> None:
        while self.args.read and time.monotonic() < self.loaded_at:
            pathlib.Path(self.args.read).read_bytes()
            time.sleep(0.02)

    def answer(self, connection: socket.socket) -> None:
        connection.recv(65536)
        if self.args.mute_when and os.path.exists(self.args.mute_when):
            while self.args.busy_when_mute:
                pass
            time.sleep(600)
        status = b"200 OK" if time.monotonic() >= self.loaded_at else b"503 Loading"
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        connection.close()


def start_others(args: argparse.Namespace) -> None:
    if args.grandchild:
        child = subprocess.Popen([*SLEEP, STUBBORN])
        pathlib.Path(args.grandchild).write_text(str(child.pid))
    if args.daemon:
        # Started by a process that ends at once, in a session of its own: an orphan.
        script = (
            "import os, subprocess, sys;"
            "p = subprocess.Popen(sys.argv[2:], start_new_session=True);"
            "open(sys.argv[1], 'w').write(str(p.pid)); os._exit(0)"
        )
        subprocess.run([*SLEEP, script, args.daemon, *SLEEP, STUBBORN], check=True)


def main() -> int:
    args = parse_args()
    if args.print_env:
        args.lines.append(f"{args.print_env} is {os.environ[args.print_env]}")
    for line in args.lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    starts = 1
    if args.count_starts:
        with open(args.count_starts, "a+") as file:
            file.write("start\n")
            file.seek(0)
            starts = len(file.readlines())
    if args.dump_env:
        dump = b"\0".join(b"%b=%b" % item for item in os.environb.items())
        pathlib.Path(args.dump_env).write_bytes(dump)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if args.ignore_term else lambda *_: os._exit(0))
    start_others(args)
    if args.flood:
        sys.stdout.buffer.write(b"\xff\x00z" * (args.flood // 3))
        sys.stdout.flush()
    if args.close_output:
        os.close(1)
        os.close(2)
    if args.kill_self:
        os.kill(os.getpid(), args.kill_self)
    if args.exit is not None:
        return args.exit
    if starts < args.ready_from_start:
        return 1
    if args.exit_after is not None:
        threading.Timer(args.exit_after, lambda: os._exit(1)).start()
    Engine(args).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
