"""The scripts of the protocols: from images to table, and their command lines."""

from dataclasses import fields

import PIL.Image
import pytest
from conftest import ROOT, rows_of
from shell_commands import commands_of, parsed

from suite.attack.settings import Attack
from suite.networks.protocols import SOURCES, TARGETS, expand_protocols


def test_protocol_goes_from_images_to_a_table_with_all_columns(succeed, tmp_path):
    small = {"NUM_IMAGES": "2", "NUM_STEPS": "2"}
    for command in commands_of("protocol_paper.sh", tmp_path, DEMO="1", **small):
        succeed(command)
    table = tmp_path / "efficientnet_lite0" / "table.csv"
    rows = rows_of(table)
    made = [(row["attack"], row["gamma"]) for row in rows]
    assert made == [("FGSM", "0.5"), ("PGD", "1"), ("PGD", "0.5")]
    assert {"efficientnet_lite1", "efficientnet_lite2"} <= {c.split()[0] for c in rows[0]}
    assert PIL.Image.open(table.with_suffix(".png")).size[0] > 500


PROTOCOLS = ["paper", "paper_curves", "transferattack", "ta_bench", "tpami"]


def of(script, commands):
    return [args for name, args in commands if name == script]


def attacks(commands):
    """Return the options of each attack by source, and the name in its folder."""
    crafted = of("attack_iter", commands)
    return {(*args.arch, args.output_dir.parent.name): args for args in crafted}


@pytest.mark.parametrize("full", [{"DEMO": "1"}, {"DATA": "images", "ATTACKS": "MI SGM"}])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocol_fetches_selects_attacks_and_evaluates(tmp_path, protocol, full):
    commands = parsed(protocol, tmp_path, **full)
    names = [name for name, _ in commands]
    assert names[:3] == ["fetch_weights", "select_images", "attack_iter"]
    assert names[-1] == "evaluate"
    fetched = expand_protocols(commands[0][1].names)
    crafted = of("attack_iter", commands)
    evaluated = of("evaluate", commands)
    for args in crafted + evaluated:
        assert set(expand_protocols(args.arch)) <= set(fetched)
    made = {args.output_dir for args in crafted}
    assert {folder for args in evaluated for folder in args.input_dir} == made
    selected = {args.output_dir for args in of("select_images", commands)}
    assert {args.input_dir for args in crafted} == selected == {a.nat_dir for a in evaluated}
    if "DEMO" in full:
        assert set(fetched) == {f"efficientnet_lite{n}" for n in range(3)}


@pytest.mark.parametrize("protocol", ["transferattack", "ta_bench", "tpami"])
def test_protocol_s_default_networks_are_its_lists(tmp_path, protocol):
    commands = parsed(protocol, tmp_path, DATA="images")
    sources = dict.fromkeys(args.arch[0] for args in of("attack_iter", commands))
    name = protocol.replace("_", "-")
    assert (*sources, *TARGETS[name]) == (*SOURCES[name], *TARGETS[name])
    assert commands[-1][1].arch == [name]


def test_gammas_are_the_paper_s(tmp_path):
    few = {"ATTACKS": "FGSM+SGM PGD SGM MI+DI+SGM"}
    made = attacks(parsed("paper", tmp_path, DATA="images", **few))
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


def test_paper_s_attacks_are_of_one_step_and_of_several_alone_and_together(tmp_path):
    made = attacks(parsed("paper", tmp_path, DATA="images", SOURCES="resnet18"))
    tried = {(a.num_steps, a.momentum, a.di_prob, a.ti_kernel, a.gamma[0]) for a in made.values()}
    several = [(10, m, d, t) for m, d, t in [(0, 0, 1), (1, 0, 1), (0, 0.5, 1), (0, 0, 15)]]
    combined = [(*how, gamma) for how in [*several, (10, 1, 0.5, 1)] for gamma in (1, 0.2)]
    one = [(1, 0, 0, 1, 1), (1, 0, 0, 1, 0.5), (1, 0, 0.5, 1, 1), (1, 0, 0, 15, 1)]
    assert tried == {*combined, *one}


def test_gammas_are_ta_bench_s(tmp_path):
    made = attacks(parsed("ta_bench", tmp_path, DATA="images"))
    gammas = [0.2, 0.2, 0.4, 0.2, 0.4, 0.6, 0.1, 0.4]  # configs/sgm.py, in the order of the sources
    for source, gamma in zip(SOURCES["ta-bench"], gammas, strict=True):
        args = made[source, "SGM"]
        assert args.gamma == [gamma]
        assert (args.epsilon, args.num_steps, args.step_size) == (8, 100, 1)


def test_ta_bench_s_images_have_the_source_s_size_and_are_made_once(tmp_path):
    commands = parsed("ta_bench", tmp_path, DATA="images")
    selected = of("select_images", commands)
    made = [(args.size, args.resize, args.bicubic, args.all) for args in selected]
    whole = [(384, 384, True, True), (None, 224, False, True), (None, 224, True, True)]
    assert sorted(made, key=str) == whole


def test_transferattack_puts_all_on_top_of_momentum(tmp_path):
    made = attacks(parsed("transferattack", tmp_path, DATA="images"))
    assert len(made) == 12
    for (_, attack), args in made.items():
        assert args.epsilon == 16
        assert args.momentum == (0 if attack in ("FGSM", "PGD") else 1)
        assert args.gamma == [0.2 if "SGM" in attack else 1]
        assert (args.num_steps, args.step_size) == ((1, 16) if attack == "FGSM" else (10, 1.6))


def test_published_numbers_of_transferattack_have_a_run_each(tmp_path):
    made = {}
    for args in attacks(parsed("transferattack", tmp_path, DATA="images")).values():
        known = {field.name for field in fields(Attack)}
        settings = {name: value for name, value in vars(args).items() if name in known}
        made[Attack(**settings).name, args.gamma[0]] = vars(args)
    for row in rows_of(ROOT / "data" / "published" / "transferattack.csv"):
        args = made[row["attack"], float(row["gamma"])]
        names = (row.keys() & args.keys()) - {"attack", "gamma"}
        settings = {name: row[name] for name in names if row[name]}
        assert settings == {name: f"{args[name]:g}" for name in settings}


def test_published_numbers_stand_beside_those_protocols_that_have_some(tmp_path):
    for protocol, names in (("paper", ["paper", "paper_rerun"]), ("ta_bench", None)):
        (tmp_path / protocol).mkdir()
        commands = parsed(protocol, tmp_path / protocol, DEMO="1")
        found = commands[-1][1].published
        assert names is None if found is None else [file.stem for file in found] == names


def test_tpami_scales_inception_s_batch_norms_and_starts_at_random(tmp_path):
    commands = parsed("tpami", tmp_path, DATA="images", SEEDS="0 1")
    crafted = of("attack_iter", commands)
    assert len(crafted) == 12
    assert all(args.rand_init for args in crafted)
    made = attacks(commands)
    assert made["inceptionv3", "SGM"].gamma == [0.6]
    assert made["inceptionv3", "SGM"].branches == r"Mixed.*\.bn"
    assert made["inceptionv3", "PGD"].branches is None
    assert made["tpami/mixer_b16_224", "SGM"].gamma == [0.775]
    sizes = {args.output_dir: args.size for args in of("select_images", commands)}
    assert sizes[made["inceptionv3", "SGM"].input_dir] == 299


@pytest.mark.parametrize("protocol", ["paper", "transferattack", "ta_bench", "tpami"])
def test_one_step_is_of_epsilon(tmp_path, protocol):
    made = attacks(parsed(protocol, tmp_path, DEMO="1", NUM_STEPS="1", EPSILON="7"))
    assert {(a.num_steps, a.step_size, a.epsilon) for a in made.values()} == {(1, 7, 7)}


def test_several_seeds_change_what_is_random_and_nothing_else(tmp_path):
    several = {"ATTACKS": "PGD MI+DI SGM", "SEEDS": "3 4 5"}
    commands = parsed("paper", tmp_path, DEMO="1", **several)
    seeds = {}
    for args in of("attack_iter", commands):
        assert not args.rand_init
        seeds.setdefault(args.output_dir.parent.name, []).append(args.seed)
    assert seeds == {"PGD": [3], "MI+DI": [3, 4, 5], "SGM": [3]}
    log = (tmp_path / "log").read_text()
    assert log.count("nothing random: one run is enough, with seed 3") == 2
    assert "MI+DI on" not in log


@pytest.mark.parametrize(
    "extra", ["--rand-init", "--variance 2", "--admix 1", "--block-shuffle 1", "--di-prob 1"]
)
def test_every_random_option_is_repeated_with_each_seed(tmp_path, extra):
    several = {"ATTACKS": "PGD", "SEEDS": "0 1", "EXTRA": extra}
    commands = parsed("paper", tmp_path, DEMO="1", **several)
    assert len(of("attack_iter", commands)) == 2


def test_curves_go_over_gamma_steps_and_epsilon(tmp_path):
    commands = parsed("paper_curves", tmp_path, DATA="images", SOURCES="densenet201")
    tables = {args.output.stem: len(args.input_dir) for args in of("evaluate", commands)}
    assert tables == {"gammas": 10, "steps": 12, "epsilons": 10}
    crafted = of("attack_iter", commands)
    gammas = [args.gamma[0] for args in crafted[:10]]
    assert gammas == [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    steps = {(args.num_steps, args.step_size) for args in crafted[10:22]}
    assert steps == {(1, 16), *((n, 2) for n in (2, 5, 10, 20, 50))}
    epsilons = {(args.epsilon, args.step_size) for args in crafted[22:]}
    assert epsilons == {(e, e / 8) for e in (2, 4, 8, 16, 32)}


def test_unknown_part_of_an_attack_s_name_is_refused(tmp_path):
    with pytest.raises(AssertionError, match=r"PGD\+XX: no attack has a part XX"):
        parsed("paper", tmp_path, DEMO="1", ATTACKS="PGD+XX")
