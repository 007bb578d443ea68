"""Weights from the network, checkpoints and modules of the user's own."""

import argparse
import functools
import hashlib
import http.server
import json
import pickle
import sys
import threading
import types

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

import catalogue
import models
import weights

PIXELS = torch.rand(2, 3, 32, 32)
NETWORK = """
from torch import nn

print("ran the file")

def tiny():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    network.input_size = 32
    return network

def number():
    return 3

def fails():
    return nn.Linear(4)
"""


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """The folder where torch keeps weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def server(tmp_path):
    """A folder, and the URL under which a server on this machine offers it."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if "half" not in self.path:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 500)

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as offered:
        threading.Thread(target=offered.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{offered.server_port}"
        offered.shutdown()


@pytest.fixture
def slim(monkeypatch):
    """Stand-ins of slim's networks: tiny, with the right number of classes."""

    def network(architecture):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))

    monkeypatch.setitem(sys.modules, "slim", types.SimpleNamespace(network=network))
    return network


@pytest.fixture
def resnet(tmp_path):
    """A small network of timm's with 7 classes, and a file of its weights."""
    network = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    return network, tmp_path / "seven.pth"


# Downloads


def test_download_with_the_digest_in_its_name_is_kept(server, tmp_path):
    folder, url = server
    digest = hashlib.sha256(b"right").hexdigest()[:8]
    (folder / f"net-{digest}.pth").write_bytes(b"right")
    file = tmp_path / "new" / f"net-{digest}.pth"
    weights.download("net", f"{url}/{file.name}", file)
    assert file.read_bytes() == b"right"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("net-00000000.pth", "SHA-256"),
        ("half.safetensors", "500 of 1000 bytes"),
        ("absent.pth", "404"),
    ],
)
def test_wrong_half_and_missing_downloads_leave_no_file(server, tmp_path, name, reason):
    folder, url = server
    (folder / "net-00000000.pth").write_bytes(b"wrong")
    file = tmp_path / "new" / name
    with pytest.raises(OSError, match=reason) as error:
        weights.download("net", f"{url}/{name}", file)
    assert list(file.parent.iterdir()) == []
    for part in (f"{url}/{name}", f"as {name} ", str(file.parent)):
        assert part in str(error.value)


def test_no_network_is_named_with_both_servers(checkpoints, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)
    with pytest.raises(OSError, match="no network") as error:
        models.load_model("senet154")
    for part in ("data.lip6.fr", "senet154-c7b49a05.pth", "legacy_senet154", str(checkpoints)):
        assert part in str(error.value)


# Other copies of the same weights


def offer(monkeypatch, files):
    """Answer downloads with files by the end of their URLs; other servers do not answer."""

    def fetch(url, part):
        for end, network in files.items():
            if url.endswith(end):
                torch.save(network.state_dict(), part)
                return
        raise OSError("no answer")

    monkeypatch.setattr(weights, "_fetch", fetch)
    monkeypatch.setattr(weights, "digits", lambda file: None)


@pytest.mark.parametrize(
    ("name", "file", "build"),
    [
        ("densenet121", "densenet121-a639ec97.pth", torchvision.models.densenet121),
        (
            "se_resnet50",
            "v0.1-cadene/se_resnet50-ce0d4300.pth",
            functools.partial(timm.create_model, "legacy_seresnet50"),
        ),
        (
            "se_resnext50_32x4d",
            "legacy_se_resnext50_32x4d-f3651bad.pth",
            functools.partial(timm.create_model, "legacy_seresnext50_32x4d"),
        ),
    ],
)
def test_other_copy_is_taken_where_the_server_does_not_answer(
    checkpoints, monkeypatch, caplog, name, file, build
):
    network = build().eval()
    offer(monkeypatch, {file: network})
    model = models.load_model(name)
    pixels = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(model.network(pixels), network(pixels))
    assert "no answer" in caplog.text
    assert f"taking {catalogue.ELSEWHERE[name]}'s copy" in caplog.text
    assert list(model.digests) == [file.rpartition("/")[2]]
    models.load_model(name)  # it is there now


def test_other_copies_are_of_known_networks():
    for name in catalogue.ELSEWHERE:
        source = catalogue.find(name)
        assert "data.lip6.fr" in source.url
        assert source.alternative.url.startswith("https://")


@pytest.mark.parametrize("name", ["inceptionv4", "inceptionresnetv2"])
def test_tensors_of_the_other_copy_stand_in_the_same_order(name):
    ours = catalogue.find(name).build(None).state_dict()
    theirs = catalogue.find(catalogue.ELSEWHERE[name]).build(None).state_dict()
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 2  # the classifier's


# Short names


def test_short_name_takes_the_converted_file(checkpoints, slim):
    network = slim("inception_v3")
    file = checkpoints / "inc_v3_ens3.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    model = models.load_model("inc_v3_ens3")
    pixels = torch.rand(2, 3, 299, 299)
    torch.testing.assert_close(model(pixels), network(2 * pixels - 1))
    assert model.digests == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", ["inc_v3_ens3", "inc_v3_ens4"])
def test_short_name_without_any_weights_says_what_to_do(checkpoints, name):
    with pytest.raises(OSError, match=r"python convert_slim.py CHECKPOINT") as error:
        models.load_model(name)
    assert str(checkpoints / f"{name}.safetensors") in str(error.value)


def test_short_name_falls_back_to_timm_and_says_how_it_differs(checkpoints, monkeypatch, caplog):
    network = timm.create_model("inception_v3").eval()
    file = checkpoints / "inception_v3.tf_adv_in1k.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    model = models.load_model("inc_v3_adv")
    pixels = torch.rand(1, 3, 299, 299)
    torch.testing.assert_close(model(pixels), network(2 * pixels - 1))
    assert "taking timm/inception_v3.tf_adv_in1k instead" in caplog.text
    assert "average pools count the padding" in caplog.text


@pytest.mark.parametrize("content", ["truncated", "shapes"])
def test_unusable_converted_file_is_named(checkpoints, slim, content):
    file = checkpoints / "inc_v4.safetensors"
    safetensors.torch.save_file(nn.Linear(3, 10).state_dict(), file)
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="inc_v4.safetensors: not usable as weights"):
        models.load_model("inc_v4")


def test_short_names_without_files_name_both_ways(checkpoints, monkeypatch):
    offer(monkeypatch, {})
    with pytest.raises(OSError, match="convert_slim.py") as error:
        models.load_model("incres_v2_ens")
    assert "timm/inception_resnet_v2.tf_ens_adv_in1k" in str(error.value)


def test_paper_stands_for_its_ten_targets():
    assert len(set(models.PAPER_TARGETS)) == 10
    assert set(models.PAPER_TARGETS) <= set(catalogue.names())


# Checkpoints


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "module.", "safetensors"])
def test_checkpoint_in_each_form(resnet, tmp_path, form):
    network, file = resnet
    tensors = network.state_dict()
    if form == "module.":
        options = argparse.Namespace(lr=0.1)
        tensors = {f"module.{key}": tensor for key, tensor in tensors.items()}
        torch.save({"state_dict": tensors, "epoch": 3, "args": options}, file)
    elif form == "safetensors":
        file = tmp_path / "seven.safetensors"
        safetensors.torch.save_file(tensors, file)
    elif form != "plain":
        torch.save({form: tensors, "epoch": 3}, file)
    model = models.load_model("timm/resnet10t.c3_in1k", checkpoint=file)
    assert model(PIXELS).shape == (2, 7)
    assert all(map(torch.equal, model.network.state_dict().values(), network.state_dict().values()))
    assert model.digests == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "torchvision/resnet18", "xception"])
def test_number_of_classes_comes_from_the_checkpoint(tmp_path, name):
    network = catalogue.find(name).build(None, 11)
    torch.save(network.state_dict(), tmp_path / "eleven.pth")
    model = models.load_model(name, checkpoint=tmp_path / "eleven.pth")
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 11)


def test_keys_and_shapes_that_do_not_fit_are_one_error(resnet):
    network, file = resnet
    tensors = network.state_dict()
    tensors["conv1.0.weight"] = torch.zeros(2, 3, 5, 5)
    tensors["head.weight"] = tensors.pop("fc.weight")
    torch.save(tensors, file)
    with pytest.raises(ValueError, match="does not fit this network") as error:
        models.load_model("timm/resnet10t", checkpoint=file)
    for part in (
        str(file),
        "conv1.0.weight is 2x3x5x5, not 24x3x3x3",
        "missing fc.weight",
        "unexpected head.weight",
    ):
        assert part in str(error.value)


def test_error_lists_ten_keys_at_most(resnet):
    with pytest.raises(ValueError, match=r"and \d+ more") as error:
        models.load_model("resnet18", checkpoint=resnet[1])
    assert str(error.value).count("; ") == 10  # between ten keys and the number of the others


class RunsCode:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("pickle", "run code"),
        ("old pickle", "run code"),
        ("truncated", "not usable"),
        ("truncated safetensors", "not usable"),
        ("list", "no state dict"),
        ("network", "run code"),
        ("absent", "no such file"),
    ],
)
def test_unusable_checkpoints_are_refused(resnet, tmp_path, capsys, content, reason):
    network, file = resnet
    if content == "pickle":
        torch.save({"state_dict": network.state_dict(), "epoch": RunsCode()}, file)
    elif content == "old pickle":
        file.write_bytes(pickle.dumps({"fc.weight": RunsCode()}))
    elif content == "truncated":
        file.write_bytes(file.read_bytes()[:100_000])
    elif content == "truncated safetensors":
        file = tmp_path / "seven.safetensors"
        safetensors.torch.save_file(network.state_dict(), file)
        file.write_bytes(file.read_bytes()[:100_000])
    elif content == "list":
        torch.save([1, 2], file)
    elif content == "network":
        torch.save(network, file)
    else:
        file.unlink()
    with pytest.raises((ValueError, OSError), match=reason) as error:
        models.load_model("timm/resnet10t", checkpoint=file)
    assert str(file) in str(error.value)
    assert "this ran" not in capsys.readouterr().out


# Modules from a file


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(NETWORK)
    return file


def test_function_of_a_file_gives_the_network(code, tmp_path):
    model = models.load_model(f"{code}:tiny")
    assert model.input_size == (3, 32, 32)
    torch.testing.assert_close(model(PIXELS), model.network(PIXELS))
    assert model.digests == {str(code): hashlib.sha256(code.read_bytes()).hexdigest()}

    network = models.load_model(f"{code}:tiny").network
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    model = models.load_model(f"{code}:tiny", checkpoint=tmp_path / "tiny.pth")
    torch.testing.assert_close(model(PIXELS), network(PIXELS))
    assert list(model.digests) == [str(code), str(tmp_path / "tiny.pth")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.py:tiny", "no such file"),
        ("nets.py:absent", "has no function absent"),
        ("nets.py:number", "returns int, not an nn.Module"),
        ("nets.py:fails", "nets.py, line 15: TypeError"),
        ("nets.py", "lacks the function to call"),
        ("broken.py:tiny", "broken.py, line 1: SyntaxError"),
    ],
)
def test_function_that_gives_no_network(code, name, reason):
    (code.parent / "broken.py").write_text("def tiny(:\n")
    with pytest.raises((ValueError, OSError), match=reason):
        models.load_model(f"{code.parent}/{name}")


@pytest.mark.parametrize("size", ["'large'", "0", "(1, 32, 32)", "(3, 32, 32, 32)"])
def test_input_size_that_is_none(code, size):
    code.write_text(NETWORK.replace("input_size = 32", f"input_size = {size}"))
    with pytest.raises(ValueError, match="input_size can't be"):
        models.load_model(f"{code}:tiny")


# The scripts


def test_ensemble_takes_each_checkpoint_by_its_name(run, natural, tmp_path):
    thousand = timm.create_model("resnet10t")
    torch.save(thousand.state_dict(), tmp_path / "own.pth")
    command = (
        "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 "
        "--arch efficientnet_lite0 timm/resnet10t --checkpoint timm/resnet10t={t}/own.pth"
    )
    status, _, err = run(command, i=natural, o=tmp_path / "out", t=tmp_path)
    assert status == 0, err
    digests = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    own = tmp_path / "own.pth"
    assert digests[str(own)] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert len(digests) == 2


def test_target_with_other_weights_than_the_source_is_no_white_box(run, natural, tmp_path, caplog):
    network = models.load_model("efficientnet_lite0").network
    torch.save(network.state_dict(), tmp_path / "own.pth")
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    assert run(attack, i=natural, o=tmp_path / "out")[0] == 0
    command = "evaluate --input-dir {o} --arch efficientnet_lite0"
    assert "white-box" in run(command, o=tmp_path / "out")[2]
    caplog.clear()
    command += " --checkpoint {t}/own.pth"
    status, _, err = run(command, o=tmp_path / "out", t=tmp_path)
    assert status == 0
    assert "white-box" not in err


def test_paper_names_the_ten_targets(run, natural, monkeypatch):
    loaded = []
    load_model = models.load_model

    def record(name, **options):
        loaded.append(name)
        return load_model("efficientnet_lite1")

    monkeypatch.setattr(models, "load_model", record)
    status, out, _ = run("evaluate --input-dir {i} --arch paper resnet152", i=natural)
    assert status == 0
    assert loaded == list(models.PAPER_TARGETS)
    assert all(name in out for name in models.PAPER_TARGETS)


def test_digest_of_a_module_s_file_stands_in_run_json(run, natural, code, tmp_path):
    code.write_text(NETWORK.replace("Linear(3, 5)", "Linear(3, 1000)"))
    command = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 --arch {c}:tiny"
    status, _, err = run(command + " --json --branches 2", i=natural, o=tmp_path / "out", c=code)
    assert status == 0, err
    digests = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    assert digests == {str(code): hashlib.sha256(code.read_bytes()).hexdigest()}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("own.pth", "each file needs its network's name"),
        ("resnet18=own.pth", "each file needs its network's name"),
        ("resnet34=a.pth resnet34=b.pth", "A network has one file"),
    ],
)
def test_checkpoint_of_an_unclear_network_is_refused(run, tmp_path, given, reason):
    for command in (
        "attack_iter --input-dir {i} --output-dir {i}/o",
        "evaluate --input-dir {i}",
        "select_images --input-dir {i} --output-dir {i}/o",
    ):
        command += f" --arch resnet34 resnet50 --checkpoint {given}"
        status, _, err = run(command, i=tmp_path)
        assert status == 2
        assert reason in err


def test_networks_of_an_ensemble_must_have_the_same_classes(run, natural, code, tmp_path):
    command = "attack_iter --input-dir {i} --output-dir {o} --arch efficientnet_lite0 {c}:tiny"
    status, _, err = run(command + " --hooks branch", i=natural, o=tmp_path / "out", c=code)
    assert status == 1
    assert "they must agree" in err


def test_labels_beyond_the_classes_are_refused(run, natural, code, tmp_path):
    command = "attack_iter --input-dir {i} --output-dir {o} --arch {c}:tiny"
    status, _, err = run(command, i=natural, o=tmp_path / "out", c=code)
    assert status == 1
    assert "the source has 5 classes only" in err


def test_list_shows_what_is_on_this_machine(run, checkpoints):
    status, before, _ = run("models --list inc_v3*")
    assert status == 0
    assert "convert_slim.py" in before
    assert " here" not in before
    (checkpoints / "inc_v3_ens3.safetensors").touch()
    lines = run("models --list inc_v3*")[1].splitlines()
    assert [line.split()[0] for line in lines if " here" in line] == ["inc_v3_ens3"]
    assert "299x299" in lines[0]


def test_list_without_a_match_is_an_error(run):
    status, _, err = run("models --list resnet9999")
    assert status == 1
    assert "no network's name matches resnet9999" in err


def test_list_has_every_name_of_every_library_and_builds_none(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network was built")

    catalogue.find("resnet18")  # imports the libraries
    monkeypatch.setattr(nn.Conv2d, "__init__", refuse)
    names = list(catalogue.names())
    assert len(names) == len(set(names))
    assert "torchvision/resnet50@IMAGENET1K_V2" in names
    assert "timm/inception_v3.tf_adv_in1k" in names
    assert not [name for name in names if name.endswith(".in22k")]
    for name in names:
        source = catalogue.find(name)
        assert source.file is not None, name
        assert len(source.input_size) == 3
