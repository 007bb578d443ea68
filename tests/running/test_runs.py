"""Attacks that are killed or fail: nothing is lost, and nothing is mixed."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import PIL.Image
import pytest
from conftest import ROOT, contents, run_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import filled

from suite.images import pictures
from suite.running import runs

KILLS = int(os.environ.get("KILLS", "1"))
OPTIONS = "--num-steps 60 --batch-size 2 --gamma 0.5 --rand-init --di-prob 0.5 --no-cuda"
ATTACK = "attack_iter --input-dir {nat}/nat --output-dir {adv} --arch {nat}/nets.py:ten"


def command(natural, adversarial):
    script, *options = ATTACK.format(nat=natural, adv=adversarial).split()
    return [sys.executable, str(ROOT / f"{script}.py"), *options, *OPTIONS.split()]


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    """Images of noise, of which three are grey, so that their files are smaller."""
    root = filled(tmp_path_factory.mktemp("natural"), size=128)
    for n in range(3):
        PIL.Image.new("RGB", (128, 128), "grey").save(root / "nat" / f"{n}.png")
    return root


@pytest.fixture(scope="module")
def undisturbed(natural, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(natural, folder), check=True, capture_output=True)
    return contents(folder)


def written(folder):
    """When the run began to write to its folder, or last did."""
    return (folder / "run.json").stat().st_mtime_ns if (folder / "run.json").exists() else None


def start(natural, folder):
    """Start a run, and wait until it writes to its folder."""
    before = written(folder)
    process = subprocess.Popen(
        command(natural, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background jobs, of which the tests may be one, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while written(folder) == before and process.poll() is None:
        time.sleep(0.01)
    return process


def test_killed_run_is_finished_by_the_same_command(natural, tmp_path, undisturbed):
    attempts, left = 0, [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] * KILLS
    while left:
        folder, number = tmp_path / str((len(left) - 1) // 3), left[0]  # each is interrupted thrice
        attempts += 1
        assert attempts <= 15 * KILLS
        process = start(natural, folder)
        time.sleep(random.uniform(0, 0.4))
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        if run_json(folder)["status"] == "done":  # it was faster
            shutil.rmtree(folder)
            continue
        left.pop(0)
        if number != signal.SIGKILL:
            assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
            assert err.splitlines()[-2:] == [
                f"{folder} is unfinished: the same command does the rest".encode(),
                b"attack_iter.py: stopped",
            ]
    print(f"{3 * KILLS} of {attempts} runs were interrupted")
    for folder in tmp_path.iterdir():
        subprocess.run(command(natural, folder), check=True, capture_output=True)
        assert contents(folder) == undisturbed


def test_full_disk_leaves_whole_files_and_one_line(natural, tmp_path, undisturbed):
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (40_000, 40_000))
    line = command(natural, tmp_path)
    done = subprocess.run(line, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"can't write {tmp_path}/" in done.stderr.splitlines()[-1]
    assert ".png: File too large" in done.stderr.splitlines()[-1]
    for name, content in contents(tmp_path).items():
        if name.endswith(".png"):
            assert content == undisturbed[name]
    subprocess.run(line, check=True, capture_output=True)
    assert contents(tmp_path) == undisturbed


@pytest.fixture
def attack(run, natural, tmp_path):
    """Attack into `tmp_path` with further options; return the exit status and what was said."""

    def attack(options=""):
        status, out, err = run(f"{ATTACK} --num-steps 1 {options}", nat=natural, adv=tmp_path)
        return status, out + err

    return attack


@pytest.fixture
def attacked(attack, tmp_path):
    """The output folder's files after a whole run."""
    assert attack("--batch-size 4")[0] == 0
    return contents(tmp_path)


def edit(folder, **changes):
    (folder / "run.json").write_text(json.dumps(run_json(folder) | changes))


def test_second_run_on_a_folder_is_refused_until_the_first_is_dead(attack, tmp_path):
    hold = (
        "import sys, pathlib, time; from suite.running import runs\n"
        "with runs.output_folder(pathlib.Path(sys.argv[1]), {}, False):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    line = [sys.executable, "-c", hold, str(tmp_path)]
    holder = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE)
    holder.stdout.readline()
    status, said = attack("--overwrite")
    assert (status, f"another run is writing to {tmp_path}" in said) == (1, True)
    holder.kill()
    holder.communicate()
    assert attack("--overwrite")[0] == 0


def test_other_settings_are_refused_and_named_unless_overwritten(attack, attacked, tmp_path):
    status, said = attack("--epsilon 8 --batch-size 2")
    assert status == 1
    assert "made with other settings (epsilon 16.0 there and 8.0 here)" in said
    assert contents(tmp_path) == attacked
    edit(tmp_path, device="cuda")
    status, said = attack("--no-cuda")
    assert (status, "(device 'cuda' there and 'cpu' here)" in said) == (1, True)
    assert attack("--epsilon 8 --overwrite")[0] == 0
    assert contents(tmp_path) != attacked


@pytest.mark.parametrize(
    "damage",
    [lambda f: os.truncate(f, 3000), lambda f: PIL.Image.new("RGB", (5, 5)).save(f), Path.unlink],
    ids=["truncated", "resized", "deleted"],
)
def test_damaged_image_is_made_again_and_a_whole_folder_left_alone(
    attack, attacked, tmp_path, damage
):
    damage(min(tmp_path.glob("*.png")))
    for whole in (False, True):
        status, said = attack("--batch-size 4")
        assert (status, "nothing was left to do" in said) == (0, whole)
        assert contents(tmp_path) == attacked


def test_resumed_run_keeps_to_its_batch_size(attack, attacked, tmp_path):
    min(tmp_path.glob("*.png")).unlink()
    assert attack()[0] == 0
    made = run_json(tmp_path)
    assert (made["options"]["batch_size"], made["batch_size"]) == (None, 4)
    del attacked["run.json"]
    assert {name: contents(tmp_path)[name] for name in attacked} == attacked


def test_unfinished_folder_is_not_evaluated(run, attacked, tmp_path):
    edit(tmp_path, status="running")
    status, _, err = run("evaluate --input-dir {adv}", adv=tmp_path)
    assert (status, f"the run in {tmp_path} is not finished" in err) == (1, True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("run.json", text, "{}/run.json is not") for text in ("", "{", "[]", "\x00")]
    + [("mine.png", "mine", "{} has images, but no run.json")],
)
def test_folder_of_unknown_origin_is_refused_and_kept(attack, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    status, said = attack()
    assert (status, words.format(tmp_path) in said) == (1, True)
    assert (tmp_path / name).read_text() == text


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
KEYS = ("status", "options", "weights", "source", "attack", "gamma", "epsilon", "targeted")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.dictionaries(st.sampled_from(KEYS), json_values))
def test_random_run_json_is_parsed_or_refused(tmp_path, content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / "run.json").write_bytes(text)
    try:
        run = runs.read_run(tmp_path)
        runs.run_settings(run)
    except ValueError as error:
        assert str(tmp_path) in str(error)


def test_folder_removed_meanwhile_is_one_line(attack, tmp_path, monkeypatch):
    write = pictures.Writer.write

    def remove_first(writer, pixels, file):
        shutil.rmtree(file.parent, ignore_errors=True)
        write(writer, pixels, file)

    monkeypatch.setattr(pictures.Writer, "write", remove_first)
    status, said = attack()
    assert status == 1
    assert f"can't write {tmp_path}/0.png: No such file" in said
