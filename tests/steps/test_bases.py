"""The attacks with more passes a step, from the command line."""

import PIL.Image
import pytest
from conftest import bytes_of, run_json
from small import ATTACK, label

from suite.attack import pool
from suite.attack.sources import Sources
from suite.images.folders import list_images
from suite.images.labels import LABELS

ALL = (
    "--momentum 1 --nesterov --variance 2 --scales 2 --admix 2 --block-shuffle 2 --di-prob 0.5 "
    "--ti-kernel 3 --rand-init --gamma 0.5 --num-steps 3 --no-cuda"
)


@pytest.mark.parametrize("options", [f"{ALL} --targeted --loss logit", f"{ALL} --loss margin"])
def test_resumed_run_in_other_batches_gives_the_bytes_of_an_undisturbed_one(
    succeed, folder, options
):
    command = f"{ATTACK}ten {options} --batch-size"
    succeed(f"{command} 1", x=folder)
    whole = bytes_of(folder / "adv")
    for n in (0, 1, 2, 3, 5):
        (folder / "adv" / f"{n}.png").unlink()
    out, err = succeed(f"{command} 4", x=folder)
    assert run_json(folder / "adv")["batch_size"] == 4
    assert bytes_of(folder / "adv") == whole
    assert "24 gradient evaluations a step, of which PGD takes 1" in err
    assert "VNI-FGSM+SI+Admix+BSR+DI+TI" in out


def test_attack_s_name_is_in_the_table_and_repeats_are_recognised(succeed, folder):
    for seed in (1, 2):
        succeed(f"{ATTACK}ten --admix 1 --output-dir {{x}}/{seed} --seed {seed}", x=folder)
    table = "evaluate --input-dir {x}/1 {x}/2 --nat-dir {x}/nat --arch {x}/nets.py:ten"
    out, _ = succeed(table, x=folder)
    assert f"{folder}/1 +1 " in out


def test_without_labels_admix_takes_what_the_source_answers(succeed, folder):
    (folder / "nat" / "labels.csv").unlink()
    _, err = succeed(f"{ATTACK}ten --admix 1", x=folder)
    assert "6 images have no label" in err


def test_admix_with_more_images_is_another_run(run, succeed, folder):
    plain = f"{ATTACK}ten --output-dir {{x}}/plain --batch-size 6"
    admix = f"{ATTACK}ten --admix 1 --output-dir {{x}}/admix --batch-size 6"
    for command in (plain, admix):
        succeed(command, x=folder)
    PIL.Image.new("RGB", (32, 32)).save(folder / "nat" / "6.png")
    label(folder / "nat", range(7))
    succeed(plain, x=folder)
    status, _, err = run(admix, x=folder)
    assert (status, "was made with other settings (pool '" in err) == (1, True)


def test_images_that_admix_cannot_read_are_left_out(run, folder):
    (folder / "nat" / "2.png").write_bytes(b"broken")
    status, out, err = run(f"{ATTACK}ten --admix 1", x=folder)
    assert (status, "5\n" in out) == (1, True)
    assert "1 images were not readable: 2.png" in err
    assert sorted(bytes_of(folder / "adv")) == ["0.png", "1.png", "3.png", "4.png", "5.png", LABELS]


def test_pool_is_part_of_a_large_folder_that_the_seed_chooses(folder, monkeypatch):
    monkeypatch.setattr(pool, "LARGEST_POOL", 3)
    listed = list_images(folder / "nat")

    def read(seed):
        return pool.read_pool(listed, seed, Sources([]))

    chosen = {tuple(read(seed).labels.tolist()) for seed in range(20)}
    assert all(len(set(each)) == 3 and list(each) == sorted(each) for each in chosen)
    assert len(chosen) > 5
    assert read(0).pixels.shape == (3, 3, 32, 32)
    assert read(0).labels.equal(read(0).labels)


ONE, FROM_BEFORE = "--num-steps 1", "takes something from the step before"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--nesterov", 2, "it needs a --momentum above 0"),
        (f"--nesterov --momentum 1 {ONE}", 2, f"--nesterov {FROM_BEFORE}: {ONE} has none"),
        (f"--variance 20 {ONE}", 2, f"--variance {FROM_BEFORE}: {ONE} has none"),
        ("--admix 3 --admix-ratio 1", 2, "1 is not above 0 and below 1"),
        ("--admix 3 --admix-ratio 0", 2, "0 is not above 0 and below 1"),
        ("--scales 0", 2, "0 is not a whole number above 0"),
        ("--variance -1", 2, "-1 is not a whole number of 0 or more"),
        ("--variance 2 --variance-bound 0", 2, "0 is not a number above 0"),
        ("--loss hinge", 2, "invalid choice: 'hinge'"),
        ("--admix 1", 1, "of other classes, but all 6 are of one class"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(run, folder, options, status, message):
    label(folder / "nat", [4] * 6)
    got, out, err = run(f"{ATTACK}ten {options}", x=folder)
    assert (got, out) == (status, "")
    assert message in err.splitlines()[-1]
    assert not (folder / "adv").exists()


def test_images_of_several_sizes_are_refused_before_any_is_attacked(run, folder):
    for n in range(6, 20):
        PIL.Image.new("RGB", (32, 32), (n, 0, 0)).save(folder / "nat" / f"{n}.png")
    PIL.Image.new("RGB", (32, 40)).save(folder / "nat" / "x.png")
    (folder / "nat" / "labels.csv").unlink()
    status, _, err = run(f"{ATTACK}ten --admix 1 --batch-size 4", x=folder)
    assert (status, "x.png is 32 x 40 pixels, but" in err) == (1, True)
    assert not (folder / "adv").exists()
