#!/usr/bin/env python3
"""sync_before_answer.py BINARY

Shows with strace that a write is answered only after the data file was synced: starts the service under strace with
durability = "always", sends writes one after the other, and looks between each request and its answer for a
successful fdatasync of the store's data file that began after the last write to that file. Needs strace.
"""
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import free_ports

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
WRITES = 30
READY_SECONDS = 60


def call(port: int, method: str, path: str, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def wait_ready(port: int, process: subprocess.Popen) -> None:
    for _ in range(READY_SECONDS * 20):
        if process.poll() is not None:
            raise SystemExit("the service (or strace) ended before it was ready")
        try:
            if call(port, "GET", "/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit("the service is not ready in time")


class Event:
    """A finished call of one thread: when it began and ended, and its text."""

    def __init__(self, began: float, ended: float, text: str) -> None:
        self.began, self.ended, self.text = began, ended, text


def events(trace: Path) -> list[Event]:
    """All calls, those that strace shows in two halves put together."""
    found, open_calls = [], {}
    # Process ids of fewer than five digits are padded.
    line_form = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$")
    for line in trace.read_text(errors="replace").splitlines():
        match = line_form.match(line)
        if not match:
            continue
        thread, at, text = match[1], float(match[2]), match[3]
        if text.endswith("<unfinished ...>"):
            open_calls[thread] = (at, text.removesuffix("<unfinished ...>"))
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)$", text):
            began, start = open_calls.pop(thread, (at, ""))
            found.append(Event(began, at, start + resumed[1]))
        else:
            found.append(Event(at, at, text))
    return sorted(found, key=lambda event: event.ended)


def main() -> None:
    binary = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as home:
        trace, port = Path(home) / "trace", free_ports(1)[0]
        environment = dict(
            {name: value for name, value in os.environ.items() if not name.startswith("VECTORKEEP")},
            VECTORKEEP__SERVER__LISTEN=f"127.0.0.1:{port}",
            VECTORKEEP__STORAGE__DATA_DIR=f"{home}/data",
            VECTORKEEP__STORAGE__DURABILITY="always",
            VECTORKEEP__REPOSITORY__URL=f"{home}/backups",
        )
        calls = "trace=recvfrom,read,sendto,write,writev,pwrite64,fdatasync,fsync,sync_file_range"
        command = ["strace", "-f", "-ttt", "-y", "-s", "2000", "-e", calls, "-o", str(trace), str(binary), "serve"]
        with open(f"{home}/log", "w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_ready(port, process)
            status, made = call(port, "POST", f"{DATABASE}/collections", {"name": "traced"})
            assert status == 200, made
            path = f"{DATABASE}/collections/{json.loads(made)['id']}"
            for number in range(WRITES):
                body = {"ids": [f"traced-write-{number:04}"], "embeddings": [[float(number), 1.0]]}
                status, text = call(port, "POST", f"{path}/{'upsert' if number % 2 else 'add'}", body)
                assert status in (200, 201), text
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
        judge(events(trace))


def judge(found: list[Event]) -> None:
    data_file = re.compile(r"/data/store[^/>]*/db>")
    is_call = lambda event, names: event.text.startswith(names)
    # It flushes neither the file's size nor a disk's cache: what sled calls stable by it may be gone after a power cut.
    ranges = [event.text for event in found if is_call(event, "sync_file_range(")]
    assert not ranges, f"sled synced a range and no file: {ranges[:3]}"
    checked, position = 0, 0
    for number in range(WRITES):
        marker = f"traced-write-{number:04}"
        asked = next((i for i in range(position, len(found))
                      if is_call(found[i], ("recvfrom(", "read(")) and marker in found[i].text), None)
        assert asked is not None, f"the trace does not show the request {marker}"
        answered = next((i for i in range(asked, len(found))
                         if is_call(found[i], ("sendto(", "write(", "writev(")) and "HTTP/1.1 20" in found[i].text), None)
        assert answered is not None, f"the trace does not show the answer to {marker}"
        between = [event for event in found[asked:answered] if data_file.search(event.text)]
        writes = [event for event in between if is_call(event, ("pwrite64(", "write("))]
        syncs = [event for event in between
                 if is_call(event, ("fdatasync(", "fsync(")) and event.text.rstrip().endswith("= 0")]
        assert writes, f"{marker}: nothing was written to the data file before the answer"
        last = max(event.ended for event in writes)
        answer = found[answered].began
        assert any(event.began >= last and event.ended <= answer for event in syncs), \
            f"{marker}: answered without a sync after the last write: {[event.text for event in between]}"
        checked, position = checked + 1, answered
    print(f"{checked} writes: each was answered after a successful fdatasync that began after its last write to the data file")


if __name__ == "__main__":
    main()
