"""How documents are run and their answers held against what was printed: what is told apart, and what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_answers import Bindings, NotReadable, compared, updated
from doc_blocks import Block, Document, Unusable, extract, run
from doc_commands import missing_operations
from doc_scenes import SCENES
from doc_stage import Runner
from processes import expect

RUNNER = Path(__file__).with_name("doc_blocks.py")
BACKUP, OTHER = "backup_2026-11-24_01-26-55", "backup_2026-11-24_02-00-00-2"
DIGEST = "a" * 64
B = "B=http://127.0.0.1:8000\n"
# Answers whatever is asked, as far as staging looks at answers.
SERVICE = f"""#!{sys.executable}
import http.server, json, os
host, port = os.environ["VECTORKEEP__SERVER__LISTEN"].split(":")
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps({{"id": "x", "result": {{"id": "{BACKUP}"}}, "path": self.path}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "service"
    path.write_text(SERVICE)
    path.chmod(0o755)
    return path


def agrees(shown, printed) -> bool:
    return not compared("json", json.dumps(shown), json.dumps(printed), Bindings())


@pytest.mark.parametrize(("shown", "printed"), [
    ({"records": 3}, {"records": 3}),
    ({"id": BACKUP}, {"id": OTHER}),
    ({"duration_ms": 3, "stored_bytes": 5}, {"duration_ms": 4, "stored_bytes": 6}),
    ({"at": "2026-11-24T01:02:03Z"}, {"at": "2026-11-25T01:02:03.5Z"}),
    ({"a": 1, "…": "…"}, {"a": 1, "b": 2}),
    (["…", {"name": "b"}, "…"], [{"name": "a"}, {"name": "b"}, {"name": "c"}]),
    ({"distance": 0.29289323}, {"distance": 0.29289322}),
])
def test_what_differs_at_each_run_agrees(shown, printed):
    assert agrees(shown, printed)


@pytest.mark.parametrize(("shown", "printed"), [
    ({"records": 3}, {"records": 4}),
    ({"records": 3}, {"records": "3"}),
    ({"ok": True}, {"ok": 1}),
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1, "b": 2, "…": "…"}, {"a": 1}),
    ({"id": BACKUP}, {"id": "backup"}),
    ({"freed_bytes": 0}, {"freed_bytes": 1}),
    ([1, 2], [1]),
    (["…", {"name": "d"}], [{"name": "a"}, {"name": "b"}]),
    ({"status": "pass"}, {"status": "fail"}),
])
def test_everything_else_does_not(shown, printed):
    assert not agrees(shown, printed)


def test_one_identifier_stands_for_one():
    bindings = Bindings()
    assert not compared("json", json.dumps({"a": BACKUP}), json.dumps({"a": OTHER}), bindings)
    assert not compared("json", json.dumps({"a": BACKUP}), json.dumps({"a": OTHER}), bindings)
    assert compared("json", json.dumps({"a": BACKUP}), json.dumps({"a": BACKUP}), bindings)
    assert compared("json", json.dumps({"source": DIGEST, "target": DIGEST}), json.dumps({"source": "b" * 64, "target": "c" * 64}), bindings)


def test_backups_of_two_services_may_have_one_name():
    bindings = Bindings()
    assert not compared("json", json.dumps({"a": BACKUP}), json.dumps({"a": OTHER}), bindings)
    assert not compared("json", json.dumps({"b": OTHER}), json.dumps({"b": OTHER}), bindings)
    assert compared("json", json.dumps({"a": DIGEST, "b": "b" * 64}), json.dumps({"a": DIGEST, "b": DIGEST}), bindings)


def test_an_update_keeps_what_is_left_out():
    shown = json.dumps({"id": BACKUP, "records": 1, "…": "…"})
    printed = json.dumps({"id": OTHER, "records": 2, "more": 3})
    assert json.loads(updated("json", shown, printed)) == {"id": OTHER, "records": 2, "…": "…"}
    assert updated("text", "…\nlast", "first\nsecond\nlast") == "…\nlast"


def test_text_is_compared_line_by_line():
    assert not compared("text", f"{BACKUP}: 1\n…\nend", f"{OTHER}: 1\nx\ny\nend", Bindings())
    assert compared("text", f"{BACKUP}: 1", f"{OTHER}: 2", Bindings())
    with pytest.raises(NotReadable):
        compared("json", "{}", "not json", Bindings())


def block(commands: str, info: str = "bash test", above: str = "") -> str:
    return f"{above}```{info}\n{commands}\n```\n"


@pytest.mark.parametrize(("text", "why"), [
    (f"```bash test\n{B}open", "line 1 is not closed"),
    ("```json answer\n{}\n```\n" + block(B + "true"), "line 1 does not follow"),
    (block(B + "true") + "# A heading\n```json answer\n{}\n```", "does not follow"),
    (block("true"), "does not begin with the line"),
    (block("\n" + B + "true"), "does not begin with the line"),
    (block("B=http://127.0.0.1:8001"), "does not begin with the line"),
    (block("true", "ruby test"), "in none of"),
    (block(B + "true", above="<!-- scene: flood -->\n"), "flood"),
    (block(B + "true", above="<!-- scene: empty -->\n\n"), "not directly above"),
])
def test_a_document_that_is_not_whole_is_refused(text, why):
    with pytest.raises(Unusable, match=why):
        extract(text)


def test_what_is_not_marked_is_not_run():
    text = block("cargo test", "bash") + block("a = 1", "python") + block(B + "true", above="<!-- scene: empty -->\n")
    assert [(one.line, one.scene) for one in extract(text)] == [(8, "empty")]


def test_every_operation_has_to_occur():
    described = {"paths": {"/backups": {"get": {}, "post": {}}, "/backups/{id}": {"get": {}}, "/api/v2/version": {"get": {}}}}
    assert missing_operations(["curl $B/backups"], described) == ["POST /backups", "GET /backups/{id}"]
    assert not missing_operations(["curl -fsS $B/backups", "curl -X POST \"$B/backups?wait=true\"\ncurl ${B}/backups/latest"], described)


def ran(binary: Path, text: str, *arguments) -> tuple[int, str]:
    """The exit status, and all that was said."""
    document = binary.with_name("d.md")
    document.write_text(text, encoding="utf-8")
    command = [sys.executable, RUNNER, binary, document, *arguments]
    done = subprocess.run(command, env=os.environ, text=True, capture_output=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def shown(commands: str, answer: str, kind: str = "text") -> str:
    return block(B + commands) + f"\nSee:\n\n```{kind} answer\n{answer}\n```\n"


def test_each_block_runs_alone(binary):
    text = shown("n=3; echo $n", "3")
    assert ran(binary, text)[0] == 0
    status, said = ran(binary, text + shown("echo $n", "3"))
    assert status == 1 and "d.md line 11: exit status 1" in said and "n: unbound variable" in said


def test_answers_are_compared(binary):
    text = shown("echo '{\"n\": 3}'", '{"n": 3}', "json")
    assert ran(binary, text)[0] == 0
    status, said = ran(binary, text.replace('{"n": 3}\n```', '{"n": 4}\n```'))
    assert status == 1 and "answer in line 8: answer[0].n: shown 4, printed 3" in said


def test_ports_become_free_ones_and_other_numbers_stay(binary):
    commands = """test $B != http://127.0.0.1:8"000"
other=127.0.0.1:8001
test $other = 127.0.0.1:8001 && test $other != "127.0.0.1:8""001"
curl -fsS $B/seen > answer
grep -q /seen answer && test -d . && echo 8000 records, port=8000 | sed "s/port=${B##*:}/the same/"
"""
    status, said = ran(binary, shown(commands, "8000 records, the same"))
    assert status == 0, said


@pytest.mark.parametrize("language", ["python", "bash"])
def test_other_languages_run_in_the_services_directory(binary, language):
    commands = {"python": "import os\nprint(os.path.exists('service.log'), 'port=8000' != 'port=' + '8000')", "bash": B + "ls service.log > /dev/null; echo True True"}
    text = block(commands[language], f"{language} test") + "```text answer\nTrue True\n```\n"
    status, said = ran(binary, text)
    assert status == 0, said


@pytest.mark.parametrize(("commands", "why"), [("exit 0", "ended before its last line"), ("exit 7", "exit status 7"), ("echo seen; false", "exit status 1"),
                                               ("echo $unset", "unbound"), ("false | true", "exit status 1")])
def test_a_block_that_does_not_come_to_its_end_fails_and_says_what_it_printed(binary, commands, why):
    status, said = ran(binary, block(B + commands))
    assert status == 1 and "d.md line 1" in said and why in said
    assert ("--- printed\nseen" in said) == ("seen" in commands)


def test_what_a_block_left_running_ends(binary, tmp_path):
    assert ran(binary, block(f"{B}sleep 60 & echo $! > {tmp_path}/pid"))[0] == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_scene_looks_at_what_the_block_left(binary, tmp_path, monkeypatch):
    def scene(stage):
        (stage.home / "broken").touch()
        yield
        expect(not (stage.home / "broken").exists(), "it is still broken")

    monkeypatch.setitem(SCENES, "broken", scene)
    home = tmp_path / "home"
    home.mkdir()
    runner = Runner(binary, home)
    outcomes = [run(runner, Document(tmp_path / "d.md", "", []), Block(1, "bash", commands, "broken")) for commands in ("rm broken", "true")]
    assert [outcome.failed for outcome in outcomes] == [None, "it is still broken"]


def test_operations_may_occur_in_any_of_the_documents(binary, tmp_path):
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps({"paths": {"/backups": {"get": {}}, "/jobs": {"get": {}}}}))
    other = tmp_path / "other.md"
    other.write_text(block(B + "curl -fsS $B/jobs"))
    text = block(B + "curl -fsS $B/backups")
    assert ran(binary, text, other, "--covers", described, "--list")[0] == 0
    status, said = ran(binary, text, "--covers", described, "--list")
    assert status == 1 and "GET /jobs" in said


def test_an_update_writes_what_was_printed_and_nothing_when_a_block_fails(binary):
    text, document = shown("echo one; echo two", "old"), binary.with_name("d.md")
    assert ran(binary, text, "--update")[0] == 0
    assert document.read_text() == text.replace("old", "one\ntwo")
    assert ran(binary, document.read_text())[0] == 0
    failing = text + block(B + "false")
    assert ran(binary, failing, "--update")[0] == 1
    assert document.read_text() == failing
