"""What evaluate.py has found is printed and written, whatever else fails; inputs are left alone."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, bytes_of, rows_of
from small import ATTACK, EVALUATE

COMMAND = EVALUATE.replace("nat", "adv") + "ten --nat-dir {x}/nat"
FILES = {"--output": "r.csv", "--answers": "a.csv", "--plot": "p.png", "--gallery": "g.png"}
SELECT = "select_images --input-dir {x}/nat --output-dir {x}/out --arch {x}/nets.py:ten --size 8"
OPTIONS = " ".join(f"{option} {{x}}/{file}" for option, file in FILES.items())


@pytest.fixture
def attacked(succeed, folder):
    """The six images, attacked, in adv."""
    succeed(f"{ATTACK}ten", x=folder)
    return folder


@pytest.mark.parametrize("file", FILES.values())
def test_one_output_that_fails_costs_no_other(run, attacked, file):
    (attacked / file).mkdir()
    status, out, err = run(f"{COMMAND} {OPTIONS}", x=attacked)
    assert status == 1
    assert err.splitlines()[-1].endswith(f"error: can't write {attacked}/{file}: Is a directory")
    assert "Success in %" in out
    assert all((attacked / other).is_file() for other in FILES.values() if other != file)


def test_json_on_standard_output_is_the_file_s(succeed, attacked):
    out, _ = succeed(f"{COMMAND} --json --output {{x}}/r.json", x=attacked)
    assert out == (attacked / "r.json").read_text()


def test_each_failure_is_named_in_one_line(run, attacked):
    for file in ("r.csv", "p.png"):
        (attacked / file).mkdir()
    made = json.loads((attacked / "adv" / "run.json").read_text()) | {"epsilon": 1}
    (attacked / "adv" / "run.json").write_text(json.dumps(made))
    status, out, err = run(f"{COMMAND} {OPTIONS}", x=attacked)
    last = err.splitlines()[-1]
    assert (status, "Success in %" in out) == (1, True)
    assert all(words in last for words in ("r.csv", "p.png", "and run.json says epsilon 1/255"))


@pytest.mark.parametrize("command", [ATTACK + "ten", SELECT])
def test_closed_standard_output_is_an_error_of_each_step(run, folder, command, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    status, _, err = run(command, x=folder)
    assert (status, "can't write to standard output: it is closed" in err) == (1, True)


@pytest.mark.parametrize(
    ("redirection", "encoding", "status", "message"),
    [
        (">/dev/full", "utf-8", 1, "can't write to standard output: No space left on device"),
        (">&-", "utf-8", 1, "can't write to standard output: it is closed"),
        ("| true", "utf-8", 141, None),
        ("2>&-", "ascii", 0, None),
    ],
)
def test_files_are_written_wherever_the_table_goes(
    attacked, redirection, encoding, status, message
):
    odd = (attacked / "adv").rename(attacked / "adversarial ±")
    line = (
        f"'{sys.executable}' '{ROOT}/evaluate.py' --input-dir '{odd}' --output r.csv "
        f"--answers a.csv --arch '{attacked}/nets.py:ten' {redirection}; exit ${{PIPESTATUS[0]}}"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    shell = ["bash", "-c", line]
    done = subprocess.run(shell, cwd=attacked, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if message:
        assert done.stderr.splitlines()[-1] == f"evaluate.py: error: {message}"
    assert rows_of(attacked / "r.csv")[0]["folder"] == str(odd)
    assert (attacked / "a.csv").is_file()
    assert redirection.startswith((">", "|")) or "Success in %" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--output {x}/r.csv --answers {x}/r.csv", "r.csv is given twice"),
        ("--plot {x}/p.png --gallery {x}/nat/../p.png", "p.png is given twice"),
        ("--output {x}/adv/labels.csv", "labels.csv would be taken for a file of {x}/adv"),
        ("--answers {x}/nat/labels.csv", "labels.csv would be taken for a file of {x}/nat"),
        ("--output {x}/adv/run.json", "run.json would be taken for a file of {x}/adv"),
        ("--plot {x}/adv/0.png", "0.png would be taken for a file of {x}/adv"),
        ("--plot {x}/adv/plot.png", "plot.png would be taken for a file of {x}/adv"),
        ("--gallery {x}/link/1.png", "1.png would be taken for a file of {x}/adv"),
        ("--published {x}/mine.csv --output {x}/mine.csv", "mine.csv is given twice"),
    ],
)
def test_output_that_would_change_what_is_read_is_refused(run, attacked, options, message):
    (attacked / "mine.csv").write_text("source,attack,gamma,target,mean,std,from\n")
    (attacked / "link").symlink_to(attacked / "adv")
    before = bytes_of(attacked / "adv") | bytes_of(attacked / "nat")
    status, out, err = run(f"{COMMAND} {options}", x=attacked)
    assert (status, out) == (2, "")
    assert message.format(x=attacked) in err.splitlines()[-1]
    assert bytes_of(attacked / "adv") | bytes_of(attacked / "nat") == before


def test_figure_s_output_does_not_join_the_images(run, folder):
    status, _, err = run("figure1 --input-dir {x}/nat --plot {x}/nat/p.png", x=folder)
    assert (status, "p.png would be taken for a file of" in err) == (2, True)


def test_tables_beside_the_images_stay_possible(succeed, attacked):
    for _ in range(2):
        succeed(f"{COMMAND} --output {{x}}/adv/results.csv --plot {{x}}/p.png", x=attacked)


def test_what_a_killed_evaluation_left_is_removed(succeed, attacked):
    for file in FILES.values():
        (attacked / f".{file}.123.part").write_text("half")
    (attacked / ".other.csv.123.part").write_text("another program's")
    succeed(f"{COMMAND} {OPTIONS}", x=attacked)
    assert [file.name for file in attacked.glob(".*.part")] == [".other.csv.123.part"]


def test_thread_that_can_not_be_started_is_one_line(run, attacked, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", start)
    status, out, err = run(f"{COMMAND} --workers 2", x=attacked)
    assert (status, out) == (1, "")
    assert "no thread can be started any more: --workers 0" in err.splitlines()[-1]
