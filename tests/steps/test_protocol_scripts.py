"""The shell scripts: the protocols, the sweep of gamma and the demo."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from conftest import ROOT, SCRIPTS, rows_of

from suite.attack.settings import attack_of
from suite.networks.protocols import SOURCES, expand_protocols

# Stands in for the programs that the scripts start: it notes the command instead of running it.
# The weights of the networks in LACKING are not to be obtained.
NOTE = """#!/bin/sh
printf "'%s' " "${0##*/}" "$@" >>"$OUT/commands"; echo >>"$OUT/commands"
case ${0##*/},$1 in
    scontrol,*) echo host1; echo host2 ;;
    python,*fetch_weights.py)
        file=$4 status=0; shift 4
        case " $* " in *" unknown "*) exit 1 ;; esac
        for name in "$@"; do
            case " ${LACKING:-} " in
                *" $name "*) echo "lacking $name"; status=1 ;;
                *) echo "there $name" ;;
            esac
        done >"$file"
        exit $status ;;
esac
"""


@pytest.fixture
def noted(tmp_path):
    """Run a shell script; return what it started, each as a list of words, and its end."""

    def noted(script, *arguments, **environment):
        for name in ("python", "torchrun", "srun", "scontrol"):
            (tmp_path / name).write_text(NOTE)
            (tmp_path / name).chmod(0o755)
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        (tmp_path / "commands").unlink(missing_ok=True)
        done = subprocess.run(
            ["sh", str(ROOT / "scripts" / script), *arguments],
            cwd=tmp_path,
            env=os.environ | environment | {"PATH": path, "OUT": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        lines = (tmp_path / "commands").read_text().splitlines()
        return [shlex.split(line) for line in lines], done

    return noted


@pytest.fixture
def commands_of(noted, tmp_path):
    """Return a shell script's commands, each as the name of a Python script and its words."""

    def commands_of(script, **environment):
        started, done = noted(script, **environment)
        assert done.returncode == 0, done.stderr
        (tmp_path / "log").write_text(done.stderr)
        return [(Path(file).stem, *words) for _, file, *words in started]

    return commands_of


@pytest.fixture
def parsed(commands_of):
    """Return a protocol's commands as (script, options), which the scripts' own parsers took."""

    def parsed(protocol, **environment):
        found = []
        for name, *words in commands_of(f"protocol_{protocol}.sh", **environment):
            args = SCRIPTS[name].get_parser().parse_args(words)
            getattr(SCRIPTS[name], "check", lambda args: None)(args)
            found.append((name, args))
        return found

    return parsed


def test_protocol_goes_from_images_to_a_table_with_all_columns(succeed, tmp_path, commands_of):
    small = {"DEMO": "1", "NUM_IMAGES": "2", "NUM_STEPS": "2"}
    for command in commands_of("protocol_paper.sh", **small):
        succeed(shlex.join(command))
    table = tmp_path / "efficientnet_lite0" / "table.csv"
    rows = rows_of(table)
    made = [(row["attack"], row["gamma"]) for row in rows]
    assert made == [("FGSM+SGM", "0.5"), ("PGD", "1"), ("PGD+SGM", "0.5")]
    assert [row["baseline"].split("/")[-2:] for row in rows] == [[""], [""], ["PGD", "0"]]
    assert "| PGD+SGM | 0.5 |" in table.with_suffix(".md").read_text()
    assert {"efficientnet_lite1", "efficientnet_lite2"} <= {c.split()[0] for c in rows[0]}
    assert PIL.Image.open(table.with_suffix(".png")).size[0] > 500


def test_gamma_sweep_writes_table_and_plot(succeed, tmp_path, commands_of):
    two = {"GAMMAS": "1.0 0.5", "NUM_IMAGES": "2", "ATTACK": "--num-steps 2"}
    for command in commands_of("sweep_gamma.sh", **two):
        succeed(shlex.join(command))
    assert [row["gamma"] for row in rows_of(tmp_path / "table.csv")] == ["1", "0.5"]
    assert PIL.Image.open(tmp_path / "success_over_gamma.png").size[0] > 500


def test_demo_ends_with_table_and_gallery(succeed, tmp_path, commands_of, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fewer = {"select_images": ("--num-images", "3"), "attack_iter": ("--num-steps", "1")}
    for command in commands_of("demo.sh"):
        out, _ = succeed(shlex.join((*command, *fewer.get(command[0], ()))))
    rows = rows_of(tmp_path / "demo" / "results.csv")
    assert [row["attack"] for row in rows] == ["PGD", *["PGD+SGM"] * 5]
    assert [row["gamma"] for row in rows] == ["1", "0.8", "0.6", "0.5", "0.4", "0.2"]
    assert [row["baseline"] for row in rows] == ["", *["demo/gamma_1.0"] * 5]
    assert "won  lost  p" in out
    for picture in ("gallery.png", "success_over_gamma.png"):
        assert PIL.Image.open(tmp_path / "demo" / picture).size[0] > 500


# But a part of others, and one that sets RUN itself.
WHOLE = {file.name for file in ROOT.glob("scripts/*.sh")} - {"protocol.sh", "slurm.sh"}


@pytest.mark.parametrize("script", sorted(WHOLE))
def test_all_steps_of_every_script_run_on_as_many_processes_as_run_says(noted, script):
    started, _ = noted(script, DEMO="1", RUN="torchrun --nproc-per-node 2")
    steps = {(words[0], words[1], words[3]) for words in started if words[0] == "torchrun"}
    names = ("select_images.py", "attack_iter.py", "evaluate.py")
    assert steps == {("torchrun", "--nproc-per-node", name) for name in names}
    others = {words[1] for words in started if words[0] == "python"}
    assert others <= {"scripts/fetch_weights.py"}


def test_sweep_on_two_processes_ends_with_its_table(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    fewer = {"GAMMAS": "0.5", "NUM_IMAGES": "2", "ATTACK": "--num-steps 1", "OMP_NUM_THREADS": "1"}
    run = {"RUN": "torchrun --nproc-per-node 2", "OUT": str(tmp_path), "PATH": path}
    done = subprocess.run(
        ["sh", "scripts/sweep_gamma.sh"],
        cwd=ROOT,
        env=os.environ | fewer | run,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(tmp_path / "table.csv")
    assert (row["attack"], row["images"]) == ("PGD+SGM", "2")
    assert (tmp_path / "gallery.png").is_file()


def test_slurm_s_nodes_and_gpus_run_any_of_the_scripts(noted):
    job = {"SLURM_JOB_NODELIST": "host[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "123456"}
    protocol = str(ROOT / "scripts" / "protocol_transferattack.sh")
    started, done = noted("slurm.sh", protocol, DEMO="1", SLURM_GPUS_ON_NODE="4", **job)
    assert done.returncode == 0, done.stderr
    steps = [words for words in started if words[0] == "srun"]
    assert {words[words.index("123456") + 1] for words in steps} == {
        *("select_images.py", "attack_iter.py", "evaluate.py")
    }
    several = "srun torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint"
    assert all(words[:9] == several.split() for words in steps)
    (end,) = {words[9] for words in steps}
    assert end == f"host1:{20000 + 123456 % 12000}"


def test_protocol_does_what_can_be_done_without_some_weights_and_names_them(noted):
    networks = {"SOURCES": "resnet18 resnet18+resnet50 resnet34", "TARGETS": "vgg19_bn resnet152"}
    lacking = {"DATA": "images", "LACKING": "resnet50 vgg19_bn", "ATTACKS": "PGD SGM"}
    started, done = noted("protocol_paper.sh", **networks, **lacking)
    assert done.returncode == 1
    end = "left out, since their weights could not be obtained (see above): resnet50 vgg19_bn"
    assert done.stderr.strip().splitlines()[-1] == end
    found = [(Path(file).stem, *words) for _, file, *words in started]
    options = {
        name: [
            SCRIPTS[step].get_parser().parse_args(words) for step, *words in found if step == name
        ]
        for name in ("select_images", "attack_iter", "evaluate")
    }
    sources = ["resnet18", "resnet34"]
    assert options["select_images"][0].arch == sources
    assert [args.arch for args in options["attack_iter"]] == [[s] for s in sources for _ in "12"]
    assert [args.arch for args in options["evaluate"]] == [["resnet152"]] * 2


def test_protocol_stops_at_a_wrong_name_before_it_runs_for_hours(noted, tmp_path):
    (tmp_path / "targets.txt").write_text("there vgg19\n")  # of an earlier run
    started, done = noted("protocol_paper.sh", DATA="images", TARGETS="vgg19 unknown")
    assert done.returncode == 1
    assert {words[1] for words in started} == {"scripts/fetch_weights.py"}


def test_protocol_without_any_target_does_nothing_and_fails(noted):
    started, done = noted("protocol_paper.sh", DATA="images", TARGETS="vgg19", LACKING="vgg19")
    assert done.returncode == 1
    assert {words[1] for words in started} == {"scripts/fetch_weights.py"}


def of(script, commands):
    return [args for name, args in commands if name == script]


def attacks(commands):
    """Return the options of each attack by source, and the name in its folder."""
    crafted = of("attack_iter", commands)
    return {(*args.arch, args.output_dir.parent.name): args for args in crafted}


@pytest.mark.parametrize("full", [{"DEMO": "1"}, {"DATA": "images", "ATTACKS": "MI SGM"}])
@pytest.mark.parametrize(
    "protocol", ["paper", "paper_curves", "transferattack", "ta_bench", "tpami"]
)
def test_protocol_fetches_selects_attacks_and_evaluates(parsed, protocol, full):
    commands = parsed(protocol, **full)
    names = [name for name, _ in commands]
    assert names[:4] == ["fetch_weights", "fetch_weights", "select_images", "attack_iter"]
    assert names[-1] == "evaluate"
    fetched = expand_protocols(commands[0][1].names + commands[1][1].names)
    crafted, evaluated = of("attack_iter", commands), of("evaluate", commands)
    assert all(set(expand_protocols(args.arch)) <= set(fetched) for args in crafted + evaluated)
    made = {args.output_dir for args in crafted}
    assert {folder for args in evaluated for folder in args.input_dir} == made
    selected = {args.output_dir for args in of("select_images", commands)}
    assert {args.input_dir for args in crafted} == selected == {a.nat_dir for a in evaluated}
    if "DEMO" in full:
        assert set(fetched) == {f"efficientnet_lite{n}" for n in range(3)}


@pytest.mark.parametrize("protocol", ["transferattack", "ta_bench", "tpami"])
def test_protocol_s_default_networks_are_its_lists(parsed, protocol):
    commands = parsed(protocol, DATA="images")
    sources = dict.fromkeys(args.arch[0] for args in of("attack_iter", commands))
    name = protocol.replace("_", "-")
    assert tuple(sources) == tuple(SOURCES[name])
    assert commands[-1][1].arch == [name]


def test_gammas_are_the_paper_s(parsed):
    made = attacks(parsed("paper", DATA="images", ATTACKS="FGSM+SGM PGD SGM MI+DI+SGM"))
    found = {key: args.gamma for key, args in made.items() if "SGM" in key[-1]}
    for source in SOURCES["paper"]:
        dense = source.startswith("densenet")
        assert found[source, "FGSM+SGM"] == [0.7 if dense else 0.5]
        assert found[source, "MI+DI+SGM"] == found[source, "SGM"] == [0.5 if dense else 0.2]
    assert found["resnet152", "densenet201", "SGM"] == [0.2, 0.5]
    assert made["resnet152", "densenet201", "SGM"].ensemble == "gradients"
    for key, args in made.items():
        assert (args.epsilon, args.rand_init) == (16, False)
        one = key[-1].startswith("FGSM")
        assert (args.num_steps, args.step_size) == ((1, 16) if one else (10, 2))
        assert args.gamma == [1] or "SGM" in key[-1]


def test_paper_s_attacks_are_of_one_step_and_of_several_alone_and_together(parsed):
    made = attacks(parsed("paper", DATA="images", SOURCES="resnet18"))
    tried = {(a.num_steps, a.momentum, a.di_prob, a.ti_kernel, a.gamma[0]) for a in made.values()}
    several = [(10, m, d, t) for m, d, t in [(0, 0, 1), (1, 0, 1), (0, 0.5, 1), (0, 0, 15)]]
    combined = [(*how, gamma) for how in [*several, (10, 1, 0.5, 1)] for gamma in (1, 0.2)]
    one = [(1, 0, 0, 1, 1), (1, 0, 0, 1, 0.5), (1, 0, 0.5, 1, 1), (1, 0, 0, 15, 1)]
    assert tried == {*combined, *one}


def test_gammas_are_ta_bench_s_and_images_of_the_source_s_size_are_made_once(parsed):
    commands = parsed("ta_bench", DATA="images")
    made = attacks(commands)
    gammas = [0.2, 0.2, 0.4, 0.2, 0.4, 0.6, 0.1, 0.4]  # configs/sgm.py, in the order of the sources
    for source, gamma in zip(SOURCES["ta-bench"], gammas, strict=True):
        args = made[source, "SGM"]
        assert (args.gamma, args.epsilon, args.num_steps, args.step_size) == ([gamma], 8, 100, 1)
    selected = of("select_images", commands)
    sizes = [(args.size, args.resize, args.bicubic, args.all) for args in selected]
    whole = [(384, 384, True, True), (None, 224, False, True), (None, 224, True, True)]
    assert sorted(sizes, key=str) == whole


def test_transferattack_puts_all_on_top_of_momentum(parsed):
    made = attacks(parsed("transferattack", DATA="images"))
    assert len(made) == 12
    for (_, attack), args in made.items():
        assert (args.epsilon, args.momentum) == (16, 0 if attack in ("FGSM", "PGD") else 1)
        assert args.gamma == [0.2 if "SGM" in attack else 1]
        assert (args.num_steps, args.step_size) == ((1, 16) if attack == "FGSM" else (10, 1.6))


def test_published_numbers_of_transferattack_have_a_run_each(parsed):
    crafted = of("attack_iter", parsed("transferattack", DATA="images"))
    made = {(attack_of(args).name, args.gamma[0]): vars(args) for args in crafted}
    for row in rows_of(ROOT / "data" / "published" / "transferattack.csv"):
        args = made[row["attack"], float(row["gamma"])]
        names = (row.keys() & args.keys()) - {"attack", "gamma"}
        settings = {name: row[name] for name in names if row[name]}
        assert settings == {name: f"{args[name]:g}" for name in settings}


@pytest.mark.parametrize(
    ("protocol", "names"), [("paper", ["paper", "paper_rerun"]), ("ta_bench", None)]
)
def test_published_numbers_stand_beside_those_protocols_that_have_some(parsed, protocol, names):
    found = parsed(protocol, DEMO="1")[-1][1].published
    assert (found and [file.stem for file in found]) == names


def test_tpami_scales_inception_s_batch_norms_and_starts_at_random(parsed):
    commands = parsed("tpami", DATA="images", SEEDS="0 1")
    crafted = of("attack_iter", commands)
    assert len(crafted) == 12
    assert all(args.rand_init for args in crafted)
    made = attacks(commands)
    sgm, plain = made["inceptionv3", "SGM"], made["inceptionv3", "PGD"]
    assert (sgm.gamma, sgm.branches, plain.branches) == ([0.6], r"Mixed.*\.bn", None)
    assert made["tpami/mixer_b16_224", "SGM"].gamma == [0.775]
    sizes = {args.output_dir: args.size for args in of("select_images", commands)}
    assert sizes[sgm.input_dir] == 299


@pytest.mark.parametrize("protocol", ["paper", "transferattack", "ta_bench", "tpami"])
def test_one_step_is_of_epsilon(parsed, protocol):
    made = attacks(parsed(protocol, DEMO="1", NUM_STEPS="1", EPSILON="7"))
    assert {(a.num_steps, a.step_size, a.epsilon) for a in made.values()} == {(1, 7, 7)}


def test_several_seeds_change_what_is_random_and_nothing_else(parsed, tmp_path):
    commands = parsed("paper", DEMO="1", ATTACKS="PGD MI+DI SGM", SEEDS="3 4 5")
    crafted = of("attack_iter", commands)
    assert not any(args.rand_init for args in crafted)
    seeds = [(args.output_dir.parent.name, args.seed) for args in crafted]
    assert sorted(seeds) == [("MI+DI", 3), ("MI+DI", 4), ("MI+DI", 5), ("PGD", 3), ("SGM", 3)]
    log = (tmp_path / "log").read_text()
    assert log.count("nothing random: one run is enough, with seed 3") == 2
    assert "MI+DI on" not in log


@pytest.mark.parametrize(
    "extra", ["--rand-init", "--variance 2", "--admix 1", "--block-shuffle 1", "--di-prob 1"]
)
def test_every_random_option_is_repeated_with_each_seed(parsed, extra):
    commands = parsed("paper", DEMO="1", ATTACKS="PGD", SEEDS="0 1", EXTRA=extra)
    assert len(of("attack_iter", commands)) == 2


def test_curves_go_over_gamma_steps_and_epsilon(parsed):
    commands = parsed("paper_curves", DATA="images", SOURCES="densenet201")
    tables = {args.output[0].stem: len(args.input_dir) for args in of("evaluate", commands)}
    assert tables == {"gammas": 10, "steps": 12, "epsilons": 10}
    crafted = of("attack_iter", commands)
    assert [args.gamma[0] for args in crafted[:10]] == [n / 10 for n in range(10, 0, -1)]
    steps = {(args.num_steps, args.step_size) for args in crafted[10:22]}
    assert steps == {(1, 16), *((n, 2) for n in (2, 5, 10, 20, 50))}
    epsilons = {(args.epsilon, args.step_size) for args in crafted[22:]}
    assert epsilons == {(e, e / 8) for e in (2, 4, 8, 16, 32)}


def test_unknown_part_of_an_attack_s_name_is_refused(parsed):
    with pytest.raises(AssertionError, match=r"PGD\+XX: no attack has a part XX"):
        parsed("paper", DEMO="1", ATTACKS="PGD+XX")
