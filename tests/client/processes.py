"""What object_store.py starts and stops: an S3 server, a proxy that spoils answers, the service. Only by process id."""

import collections
import contextlib
import fcntl
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START_SECONDS, CALL_SECONDS, END_SECONDS = 60, 300, 30
PORTS = range(10_240, 32_000)
# Files whose locks say that a port is taken, until this process ends.
CLAIMS = []


class Failed(Exception):
    """Something is not as it must be."""


def expect(condition, what: str) -> None:
    if not condition:
        raise Failed(what)


def equal(found, wanted, what: str) -> None:
    expect(found == wanted, f"{what}: {str(found)[:600]}, expected {str(wanted)[:600]}")


def until(what: str, seconds: float, look, pause: float = 0.1):
    """What `look` gives as soon as that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            if found := look():
                return found
        time.sleep(pause)
    raise Failed(f"{what}: not within {seconds} s")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on and that no other check on this machine gets while this process lives: a service may
    be started on its port later, and again. Below those that the system gives to clients: none takes one meanwhile."""
    directory = Path(tempfile.gettempdir(), "vectorkeep-ports")
    directory.mkdir(exist_ok=True)
    found = []
    # Not the generator that checks seed.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            return found
        claim = (directory / str(port)).open("w")
        with contextlib.suppress(OSError), socket.socket() as listener:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            listener.bind(("127.0.0.1", port))
            CLAIMS.append(claim)
            found.append(port)
    raise Failed(f"no {count} free ports from {PORTS.start} to {PORTS.stop}")


def http_call(port: int, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
    """Status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


class Process:
    """Something that runs until it is stopped."""

    def __init__(self, log: Path) -> None:
        self.log, self.process = log, None

    def spawn(self, command: list, environment: dict) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def alive(self) -> bool:
        code = self.process.poll()
        expect(code is None, f"{self.process.args[0]} ended with {code}: {self.tail()}")
        return True

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2_000:]

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_SECONDS)


class ObjectServer(Process):
    """SeaweedFS with one identity, on the same ports and directory whenever it is started."""

    PARTS = ("master", "volume", "filer", "s3")

    def __init__(self, weed: str, home: Path, key_id: str, secret: str) -> None:
        super().__init__(home / "weed.log")
        self.weed, self.home = weed, home
        ports = free_ports(2 * len(self.PARTS))
        self.ports = dict(zip(self.PARTS, zip(ports[::2], ports[1::2])))
        (home / "objects").mkdir()
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "check", "credentials": [{"accessKey": key_id, "secretKey": secret}], "actions": actions}
        (home / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def port(self) -> int:
        return self.ports["s3"][0]

    def start(self) -> None:
        command = [self.weed, "server", f"-dir={self.home}/objects", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        for name, (plain, grpc) in self.ports.items():
            command += [f"-{name}.port={plain}", f"-{name}.port.grpc={grpc}"]
        command += [f"-s3.config={self.home}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
                    "-volume.max=100", "-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false",
                    f"-filer.localSocket={self.home}/filer.sock", f"-s3.localSocket={self.home}/s3.sock"]
        self.spawn(command, dict(os.environ))
        until("the S3 server", START_SECONDS, lambda: self.alive() and self.ask("s3", "/healthz")[0] == 200)
        until("its volumes", START_SECONDS, lambda: json.loads(self.ask("master", "/dir/status")[2])["Topology"]["DataCenters"])

    def ask(self, name: str, path: str):
        return http_call(self.ports[name][0], "GET", path)

    def make_bucket(self, name: str) -> None:
        master, filer = ("127.0.0.1:{}.{}".format(*self.ports[part]) for part in ("master", "filer"))
        made = subprocess.run([self.weed, "shell", f"-master={master}", f"-filer={filer}"], text=True, capture_output=True,
                              input=f"s3.bucket.create -name {name}\n", timeout=START_SECONDS)
        expect(made.returncode == 0, f"the bucket was not made: {made.stdout}{made.stderr}")

    def stop(self, how: int = signal.SIGTERM) -> None:
        super().stop(how)
        for name, (_, grpc) in self.ports.items():
            Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock").unlink(missing_ok=True)

    @contextlib.contextmanager
    def hanging(self):
        """Takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


class Gate:
    """Lets so many of the requests that match through; those after them wait until it is opened."""

    def __init__(self, what: str, matches, through: int) -> None:
        self.what, self.matches, self.left = what, matches, through
        self.lock, self.waiting, self.opened, self.passes = threading.Lock(), threading.Event(), threading.Event(), False

    def open(self, passes: bool) -> None:
        """Those that wait go on, or never arrive."""
        self.passes = passes
        self.opened.set()

    def reached(self) -> None:
        """Waits until a request does."""
        expect(self.waiting.wait(CALL_SECONDS), f"no request {self.what} came that far")

    def goes_on(self, method: str, path: str) -> bool:
        if self.opened.is_set() or not self.matches(method, path):
            return True
        with self.lock:
            self.left -= 1
            if self.left >= 0:
                return True
        self.waiting.set()
        self.opened.wait()
        return self.passes


class Proxy:
    """Passes requests on to the S3 server and counts them; one of a chosen kind is spoiled or waits."""

    # Seconds that a late answer takes.
    late = 5.0

    def __init__(self, server: ObjectServer) -> None:
        self.fault, self.asked, self.port = None, collections.Counter(), free_ports(1)[0]
        self.gate = None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                proxy.count(self.command, self.path)
                if (gate := proxy.gate) is not None:
                    gate.goes_on(self.command, self.path)
                status, headers, answer = http_call(server.port, self.command, self.path, body, dict(self.headers))
                how = proxy.spoils(self.command, self.path)
                if how in ("close", "late"):
                    time.sleep(proxy.late if how == "late" else 0)
                    self.close_connection = True
                    return
                self.send_response_only(500 if how == "500" else status)
                length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(answer))
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("content-length", length)
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

            def log_message(self, *_) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_) -> None:
                """The service hangs up on late answers, and the server is killed."""

        self.listen = lambda: Server(("127.0.0.1", self.port), Handler)
        self.start()

    def start(self) -> None:
        self.listener = self.listen()
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def count(self, method: str, path: str) -> None:
        """By method and directory; a listing by what it lists. The bucket's repositories have paths of two names."""
        path, _, query = path.partition("?")
        listed = urllib.parse.parse_qs(query).get("prefix", [""])[0]
        names = listed.split("/") if listed else path.split("/")[2:]
        self.asked[f"{'LIST' if listed else method} {names[2] if len(names) > 2 else ''}"] += 1

    def spoil(self, method: str, part: str, how: str) -> None:
        """From now on: the answer to the next such request, which the server has already carried out."""
        self.fault = (method, part, how)

    def spoils(self, method: str, path: str) -> str | None:
        if self.fault is None or method != self.fault[0] or self.fault[1] not in path:
            return None
        how, self.fault = self.fault[2], None
        return how

    @contextlib.contextmanager
    def held(self, method: str, part: str, through: int):
        """Such requests wait after the first ones."""
        self.gate = Gate(f"{method} …{part}", lambda verb, path: verb == method and part in path, through)
        try:
            yield self.gate
        finally:
            self.gate.open(passes=True)
            self.gate = None

    def stop(self) -> None:
        """Nothing listens any more."""
        self.listener.shutdown()
        self.listener.server_close()
