"""evaluate.py with published numbers beside ours."""

import json

import pytest
from small import ATTACK, EVALUATE

from evaluate import PUBLISHED_NAMES

HEADER = "source,attack,gamma,target,mean,std,from,num_steps\n"
COMMAND = EVALUATE.replace("nat", "adv")


@pytest.fixture
def evaluate(succeed, folder):
    """Evaluate adversarial images of gamma 0.3, of 2 steps, on two networks; return the output."""
    succeed(f"{ATTACK}ten --gamma 0.3", x=folder)
    return lambda options: succeed(f"{COMMAND}ten {{x}}/nets.py:thousand {options}", x=folder)[0]


def test_rates_have_what_was_published_of_the_same_run(evaluate, folder):
    net = f"{folder}/nets.py:ten"
    (row,) = json.loads(evaluate("--json"))
    ours = row["targets"][net]["success"]["rate"]
    far = 0 if ours >= 50 else 100
    for name, mean, std in (("near", ours, ""), ("far", far, 0.1), ("wide", far, 60)):
        line = f"{net},PGD,0.3,{net},{mean},{std},Table 3,2\n"
        (folder / f"{name}.csv").write_text(HEADER + line)
    files = "--published {x}/near.csv {x}/far.csv {x}/wide.csv"
    (row,) = json.loads(evaluate(f"--json {files}"))
    found = row["targets"][net]["published"]
    verdicts = {name: found[name]["verdict"] for name in found}
    assert verdicts == {"near": "agrees", "far": "differs", "wide": "agrees"}
    assert found["far"]["points"] == pytest.approx(ours - far)
    other = row["targets"][f"{folder}/nets.py:thousand"]["published"]["near"]
    assert other["verdict"] == "none published"


def test_numbers_of_this_repository_have_a_name(evaluate, folder):
    out = evaluate("--published paper transferattack")
    assert out.count("none published") == 2
    for name in ("paper", "transferattack"):
        assert f"{name}: none on {folder}/nets.py:ten\n" in out


def test_unknown_name_lists_those_there_are(run, folder):
    status, out, err = run(f"{COMMAND}ten --published papers", x=folder)
    assert (status, out) == (2, "")
    names = ", ".join(PUBLISHED_NAMES)
    assert f"papers is neither a file nor one of {names}" in err.splitlines()[-1]


def test_wrong_file_is_refused_before_the_work(run, folder):
    (folder / "own.csv").write_text(f"{HEADER}a,PGD,1,b,many,,Table 3,10\n")
    command = COMMAND.replace("{x}/adv", "{x}/nowhere")
    status, out, err = run(f"{command}ten --published {{x}}/own.csv", x=folder)
    assert (status, out) == (1, "")
    assert f"{folder}/own.csv, line 2: mean is 'many', not a number" in err.splitlines()[-1]
