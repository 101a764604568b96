"""How answers in a document are held against what was printed: what is told apart, and what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from readme_answers import Bindings, NotReadable, compared, updated
from readme_blocks import Unusable, extract
from readme_commands import missing_operations

RUNNER = Path(__file__).with_name("readme_blocks.py")
BACKUP, OTHER = "backup_2026-11-24_01-26-55", "backup_2026-11-24_02-00-00-2"
DIGEST = "a" * 64


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


def test_a_document_that_is_not_whole_is_refused():
    for text in ["no block", "```bash test\nopen", "```json answer\n{}\n```\n```bash test\ntrue\n```"]:
        with pytest.raises(Unusable):
            extract(text)


def test_every_operation_has_to_occur():
    described = {"paths": {"/backups": {"get": {}, "post": {}}, "/api/v2/version": {"get": {}}}}
    assert len(missing_operations(["curl $BASE_URL/backups"], described)) == 1
    assert not missing_operations(["curl -fsS $BASE_URL/backups", "curl -X POST \"$BASE_URL/backups?wait=true\""], described)


def ran(document: Path, text: str, *arguments: str) -> tuple[int, str]:
    """The exit status, and all that was said."""
    document.write_text(text, encoding="utf-8")
    environment = os.environ | {"BASE_URL": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, RUNNER, document, *arguments], env=environment, text=True, capture_output=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def document_of(*blocks: tuple[str, str]) -> str:
    return "\n".join(f"```bash test\n{commands}\n```\n\n```{answer}\n```" for commands, answer in blocks)


def test_blocks_share_one_shell_and_their_answers_are_compared(tmp_path):
    text = document_of(("n=3", "text answer"), ("echo {} '{\"n\": '$n'}'", 'json answer\n{"n": 3}'))
    assert ran(tmp_path / "d.md", text)[0] == 0
    status, said = ran(tmp_path / "d.md", text.replace('"n": 3', '"n": 4'))
    assert status == 1 and "d.md line 11: answer[0].n: shown 4, printed 3" in said


@pytest.mark.parametrize(("commands", "status"), [("exit 0", 1), ("exit 7", 7), ("echo seen; false", 1), ("echo $unset", 1)])
def test_a_block_that_does_not_come_to_its_end_fails_and_says_what_it_printed(tmp_path, commands, status):
    found, said = ran(tmp_path / "d.md", document_of((commands, "text answer"), ("echo never", "text answer")))
    assert found == status and "line 1: exit status" in said and "never" not in said
    assert ("seen" in said) == ("seen" in commands)


def test_what_a_failing_block_left_running_ends(tmp_path):
    text = document_of((f"sleep 60 & echo $! > {tmp_path}/pid; false", "text answer"))
    assert ran(tmp_path / "d.md", text)[0] == 1
    # The kill is a signal: it may take a moment.
    gone = f"for try in $(seq 100); do kill -0 $(cat {tmp_path}/pid) 2>/dev/null || exit 0; sleep 0.05; done; exit 1"
    assert subprocess.run(["bash", "-c", gone], timeout=30).returncode == 0


def test_an_update_writes_what_was_printed_and_nothing_when_a_block_fails(tmp_path):
    document, text = tmp_path / "d.md", document_of(("echo one; echo two", "text answer\nold"))
    assert ran(document, text, "--update")[0] == 0
    assert document.read_text() == text.replace("old", "one\ntwo") + "\n"
    assert ran(document, document.read_text())[0] == 0
    failing = text + "\n```bash test\nfalse\n```"
    assert ran(document, failing, "--update")[0] == 1
    assert document.read_text() == failing
