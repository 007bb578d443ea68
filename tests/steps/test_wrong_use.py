"""What is wrong is said at once, in one line."""

import PIL.Image
import pytest
from conftest import ROOT, shell


@pytest.mark.parametrize("step", ["attack_iter", "select_images", "evaluate"])
def test_help_and_wrong_arguments_are_answered_before_large_imports(step):
    done = shell(f"python {step}.py --help", ROOT, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "scipy", "matplotlib"})
    assert shell(f"python {step}.py --no-such-option", ROOT).returncode == 2


ATTACK = "attack_iter --input-dir {x}/good --output-dir {x}/o"
EVALUATE = "evaluate --input-dir {x}/row2"


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("attack_iter --input-dir {x}/no --output-dir {x}/o", 1, "no such folder: {x}/no"),
        ("attack_iter --input-dir {x}/empty --output-dir {x}/o", 1, "no images in {x}/empty"),
        ("attack_iter --input-dir {x}/bad --output-dir {x}/o", 1, "no readable image in {x}/bad"),
        ("attack_iter --input-dir {x}/row --output-dir {x}/o", 1, "has no row for a.png"),
        ("attack_iter --input-dir {x}/good --output-dir {x}/good", 2, "is the input folder"),
        ("attack_iter --input-dir {x}/good --output-dir {x}/good/a.png", 1, "{x}/good/a.png"),
        ("attack_iter --input-dir {x}/good", 2, "are required: --output-dir"),
        (f"{ATTACK} --gamma 0", 2, "it needs --branches"),
        (f"{ATTACK} --gamma 1.5", 2, "1.5 is not between 0 and 1"),
        (f"{ATTACK} --gamma 1 0.5", 2, "2 gammas do not go with 1 networks"),
        (f"{ATTACK} --gamma 0.5 --branches [", 1, "'[' is not a regular expression"),
        (f"{ATTACK} --epsilon -1", 2, "-1 is not a number"),
        (f"{ATTACK} --hooks relu --gamma 0.5", 1, "no released hooks for efficientnet_lite0"),
        (f"{ATTACK} --di-resize 0.9", 2, "0.9 is not a number of 1 or more"),
        (f"{ATTACK} --ti-kernel 4", 2, "4 is not an odd whole number"),
        (f"{ATTACK} --arch resnet51", 1, "unknown network resnet51: did you mean resnet50"),
        ("evaluate --input-dir {x}/no", 1, "no such folder: {x}/no"),
        ("evaluate --input-dir {x}/good", 1, "{x}/good has no labels"),
        ("evaluate --input-dir {x}/good --gallery {x}/g.png", 2, "--gallery needs --nat-dir"),
        ("evaluate --input-dir {x}/good --gallery-dir {x}", 2, "is none of --input-dir"),
        (f"{EVALUATE} --quality", 2, "--quality needs --nat-dir"),
        (f"{EVALUATE} --baseline elsewhere", 2, "elsewhere is none of --input-dir"),
        (f"{EVALUATE} --output {{x}}/r.xls", 2, "does not end in .txt or .csv"),
        (f"{EVALUATE} --plot {{x}}/r.svg", 2, "does not end in .png or .pdf"),
        (f"{EVALUATE} --answers {{x}}/a.json", 2, "a.json does not end in .csv"),
        (f"{EVALUATE} --published paper paper", 2, "two files are called paper"),
        (f"{EVALUATE} --nat-dir {{x}}/good", 1, "{x}/good has no b.png"),
        (f"{EVALUATE} --arch vgg20_bn", 1, "did you mean vgg19_bn"),
        ("select_images --input-dir {x}/good --output-dir {x}/o", 1, "{x}/good has no labels"),
        ("select_images --input-dir {x}/row2 --output-dir {x}/o --resize 9", 2, "less than --size"),
    ],
)
def test_bad_input_gets_one_clear_line(run, tmp_path, command, status, message):
    for folder in ("empty", "bad", "row", "good", "row2"):
        (tmp_path / folder).mkdir()
    for folder, name in [("row", "a.png"), ("good", "a.png"), ("row2", "b.png")]:
        PIL.Image.new("RGB", (32, 32)).save(tmp_path / folder / name)
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n then nothing")
    (tmp_path / "row" / "labels.csv").write_text("filename,label\n")
    (tmp_path / "row2" / "labels.csv").write_text("filename,label\nb.png,1\n")
    got, out, err = run(command, x=tmp_path)
    assert (got, out) == (status, "")
    assert message.format(x=tmp_path) in err.splitlines()[-1]
    assert "usage:" not in err
