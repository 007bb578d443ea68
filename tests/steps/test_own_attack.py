"""Anybody's attack, of a function in a file, through the script."""

import json

import numpy as np
import pytest
from conftest import bytes_of, example, pixels_of, run_json
from small import ATTACK, EVALUATE

PAGE = "docs/attacks.md"
FGSM = example(PAGE, "def fgsm(")
STEPS = " --epsilon 8 --num-steps 3 --step-size 2"
# Of a class of TransferAttack's shape, which returns the perturbation of a model that it loads.
TRANSFERATTACK = """
import torch

class VMIFGSM:
    def __init__(self, model_name, epsilon, alpha, epoch, decay, targeted=False):
        self.model = self.load_model(model_name)
        self.epsilon, self.alpha, self.epoch, self.decay = epsilon, alpha, epoch, decay

    def __call__(self, data, label):
        delta, momentum = torch.zeros_like(data, requires_grad=True), 0
        for _ in range(self.epoch):
            loss = torch.nn.CrossEntropyLoss()(self.model(data + delta), label)
            (gradient,) = torch.autograd.grad(loss, delta)
            momentum = self.decay * momentum + gradient / gradient.abs().mean((1, 2, 3), True)
            moved = (delta + self.alpha * momentum.sign()).clamp(-self.epsilon, self.epsilon)
            delta = torch.min(torch.max(moved, -data), 1 - data).detach().requires_grad_()
        return delta.detach()
"""


@pytest.fixture
def attacked(run, folder):
    """Return a function that attacks a tiny network; it writes adv, or raises what was said."""

    def attack(options, text="", to="adv"):
        (folder / "mine.py").write_text(text)
        command = ATTACK.replace("/adv", f"/{to}").replace(" --num-steps 2", "")
        status, out, err = run((command + "ten --gamma 0.5" + options).format(x=folder))
        if status:
            raise ValueError(f"{status} {err}")
        return out

    return attack


@pytest.mark.parametrize(
    ("function", "options", "built_in"),
    [
        ("fgsm", " --epsilon 8", " --epsilon 8 --num-steps 1 --step-size 8"),
        ("mifgsm", STEPS + " --momentum 1", STEPS + " --momentum 1"),
        ("linf_pgd", STEPS, STEPS),
        ("art_pgd", STEPS, STEPS),
        ("of_transferattack", STEPS + " --momentum 1", STEPS + " --momentum 1"),
    ],
)
def test_example_gives_the_built_in_attack_s_images(attacked, folder, function, options, built_in):
    (folder / "transferattack" / "gradient").mkdir(parents=True)
    (folder / "transferattack" / "gradient" / "vmifgsm.py").write_text(TRANSFERATTACK)
    code = example(PAGE, f"def {function}(")
    out = attacked(f"{options} --attack {{x}}/mine.py:{function}", code)
    assert out.startswith(f"{function}+SGM on ")
    attacked(built_in, to="built_in")
    attacked(f"{built_in} --gamma 1", to="plain")
    folders = (folder / each for each in ("built_in", "adv", "plain"))
    ours, theirs, plain = (np.stack(list(pixels_of(each).values())) for each in folders)
    assert (ours == theirs).mean() > 0.999
    assert (ours == plain).mean() < 0.99


def test_example_with_random_numbers_gives_the_same_twice(attacked, folder):
    options = f"{STEPS} --momentum 1 --variance 2 --attack {{x}}/mine.py:vmifgsm"
    for to in ("first", "second"):
        attacked(options, example(PAGE, "def vmifgsm("), to)
    assert bytes_of(folder / "first") == bytes_of(folder / "second")


def test_row_is_named_after_the_function(run, attacked, folder):
    attacked(" --attack {x}/mine.py:fgsm", FGSM)
    made = run_json(folder / "adv")
    assert (made["attack"], made["num_steps"]) == ("fgsm", None)
    _, out, _ = run((EVALUATE.replace("/nat", "/adv") + "ten --json").format(x=folder))
    assert json.loads(out)[0]["attack"] == "fgsm"


def test_interrupted_run_of_an_edited_attack_is_not_mixed(attacked, folder):
    attacked(" --attack {x}/mine.py:fgsm", FGSM)
    with pytest.raises(ValueError, match="(?s)1 .*was made with other settings .*mine.py"):
        attacked(" --attack {x}/mine.py:fgsm", FGSM + "\n# another")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(images + 2 * epsilon).clamp(0, 1)", "1 .*mine takes 0.png 16.00/255 away"),
        ("images + epsilon", "1 .*mine takes pixels of 0.png 8.00/255 out of"),
        ("images * float('nan')", "1 .*mine takes 0.png nan/255 away"),
        ("images + 'x'", r"1 .*mine.py, line 4: TypeError"),
        ("images[:, :1]", "1 .*mine returns a tensor of 6x1x32x32, not"),
        ("(images, labels)", "1 .*mine returns a tuple of 2, not adversarial pixels"),
        ("__import__('sys').exit(0)", "1 .*line 4: SystemExit: 0"),
    ],
)
def test_attack_that_fails_says_what_and_where(attacked, body, message):
    text = f"\n\ndef mine(model, images, labels, epsilon):\n    return {body}\n"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        attacked(" --epsilon 8 --attack {x}/mine.py:mine", text)


@pytest.mark.parametrize(
    ("signature", "options", "message"),
    [
        ("(model, images, labels, epsilon)", "--momentum 1", "2 .*mine does not ask for --mom"),
        ("(model, images, labels, epsilon)", "--targeted", "2 .*does not ask for --targeted"),
        ("(images, labels)", "", r"1 .*can't be called as function\(model, images, labels, eps"),
        ("(model, images, labels, epsilon, alpha)", "", "1 .*out of step_size, num_steps, .*alpha"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(attacked, signature, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        attacked(f" {options} --attack {{x}}/mine.py:mine", f"def mine{signature}: return images")


@pytest.mark.parametrize("name", ["fgsm", "{x}/mine:fgsm"])
def test_name_that_is_no_file_and_function_is_refused(attacked, name):
    with pytest.raises(ValueError, match="(?s)1 .*fgsm is not of the form path/to/file.py:FUNC"):
        attacked(f" --attack {name}")


def test_parameters_get_the_options_of_their_names(attacked, folder):
    text = """
import pathlib

def mine(model, images, labels, epsilon, step_size, num_steps=7, *, a=0.5, targeted, generators):
    drawn = [generator.initial_seed() for generator in generators]
    said = [epsilon * 255, step_size * 255, num_steps, a, int(targeted), len(set(drawn))]
    pathlib.Path(__file__).with_name("said").write_text(str([round(each, 3) for each in said]))
    return images
"""
    attacked(" --targeted --epsilon 8 --step-size -1 --attack {x}/mine.py:mine", text)
    assert (folder / "said").read_text() == "[8.0, 0.8, 10, 0.5, 1, 6]"


def test_missing_labels_are_what_the_source_answers(attacked, folder):
    text = """
def mine(model, images, labels, epsilon):
    assert (labels == model(images).argmax(1)).all()
    return images
"""
    (folder / "nat" / "labels.csv").unlink()
    attacked(" --attack {x}/mine.py:mine", text)


def test_network_left_in_training_mode_is_set_back(attacked, folder):
    text = """
def mine(model, images, labels, epsilon):
    assert not model.training
    model.train()
    return images
"""
    attacked(" --batch-size 2 --attack {x}/mine.py:mine", text)
