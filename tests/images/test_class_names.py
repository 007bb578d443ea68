"""Class folders that are counted by their sorted names: by the networks' names, or all of them."""

from types import SimpleNamespace

import PIL.Image
import pytest
from conftest import labels_of
from small import ATTACK, EVALUATE, SELECT
from test_label_files import make

from suite.images.folders import list_images
from suite.networks.answer_checks import by_class_names, refuse_other_classes
from suite.networks.cifar10 import CIFAR10_CLASSES
from suite.networks.classifier import Classifier, load_model

CIFAR10 = {"cifar10/resnet20": SimpleNamespace(class_names=CIFAR10_CLASSES)}
WITHOUT_HORSE = [name for name in CIFAR10_CLASSES if name != "horse"]


def folders(root, names):
    return list_images(make(root, *(f"{name}/a.png" for name in names)))


def labels(listed):
    return {image.path.parent.name: image.label for image in listed}


@pytest.mark.parametrize("change", [str, str.title, str.upper])
def test_folders_have_the_labels_of_the_network_s_names(tmp_path, caplog, change):
    names = [change(name) for name in WITHOUT_HORSE]
    listed = by_class_names(CIFAR10, folders(tmp_path, names))
    assert labels(listed) == {change(n): i for i, n in enumerate(CIFAR10_CLASSES) if n != "horse"}
    assert f"{tmp_path}: its folders get the classes of their names in cifar10" in caplog.text
    refuse_other_classes("cifar10/resnet20", 10, listed)


def test_whole_set_of_folders_has_the_labels_of_its_order(tmp_path, caplog):
    listed = folders(tmp_path, CIFAR10_CLASSES)
    before = labels(listed)
    caplog.clear()
    assert labels(by_class_names(CIFAR10, listed)) == before
    assert not caplog.messages


def test_folder_whose_name_is_no_class_is_refused_beside_others_that_are(tmp_path):
    with pytest.raises(
        ValueError, match=r"plane is not the name of one class of .* airplane to tr"
    ):
        by_class_names(CIFAR10, folders(tmp_path, ["plane", *CIFAR10_CLASSES[1:]]))


def test_networks_that_differ_in_a_class_are_refused(tmp_path):
    networks = CIFAR10 | {"other": SimpleNamespace(class_names=CIFAR10_CLASSES[::-1])}
    with pytest.raises(ValueError, match="airplane is class 9 of other, but 0 of another network"):
        by_class_names(networks, folders(tmp_path, CIFAR10_CLASSES))


@pytest.mark.parametrize("names", [("0", "2"), ("n01440764", "n01443537")])
def test_folders_that_say_their_class_are_not_looked_up(tmp_path, names):
    listed = folders(tmp_path, names)
    other = {"other": SimpleNamespace(class_names=(*names[::-1], "third"))}
    assert by_class_names(other, listed) == listed
    refuse_other_classes("other", 1000, listed)


def test_imagenet_s_names_are_known_where_they_are_not_two_classes(tmp_path):
    network = load_model("torchvision/squeezenet1_1", pretrained=False).accelerate()
    assert isinstance(network, Classifier)
    listed = folders(tmp_path, ["goldfish", "Great_White_Shark", "tench"])
    named = labels(by_class_names({"squeezenet": network}, listed))
    assert named == {"goldfish": 1, "Great_White_Shark": 2, "tench": 0}
    (tmp_path / "cardigan").mkdir()
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "cardigan" / "a.png")
    with pytest.raises(ValueError, match="cardigan is not the name of one class of squeezenet"):
        by_class_names({"squeezenet": network}, list_images(tmp_path))


@pytest.mark.parametrize("command", [ATTACK, EVALUATE, SELECT])
@pytest.mark.parametrize(("number", "status"), [(9, 1), (10, 0)])
def test_fewer_class_folders_than_classes_are_refused(run, folder, command, number, status):
    """No other number, however right the labels of the first folders may be."""
    for n in range(number):
        (folder / "nat" / f"class {n}").mkdir()
        (folder / "nat" / f"class {n}" / "a.png").write_bytes((folder / "nat/0.png").read_bytes())
    for file in (folder / "nat").glob("*.*"):
        file.unlink()
    found, _, err = run(f"{command}ten", x=folder)
    words = f"{folder}/nat has 9 class folders, but {folder}/nets.py:ten has 10 classes"
    assert (words in err) == bool(status)
    assert found == status or command == SELECT
    assert not (status and ((folder / "adv").exists() or (folder / "kept").exists()))


def test_images_matched_with_class_folders_have_their_names_labels(run, folder, monkeypatch):
    """What another program made of a folder, and that folder, without one of its classes."""
    monkeypatch.setattr(Classifier, "class_names", CIFAR10_CLASSES)
    for name in WITHOUT_HORSE:
        (folder / "in" / name).mkdir(parents=True)
        (folder / "in" / name / "a.png").write_bytes((folder / "nat/0.png").read_bytes())
    command = ATTACK.replace("/nat", "/in")
    assert run(f"{command}ten", x=folder)[0] == 0
    expected = {f"{n}_a.png": i for i, n in enumerate(CIFAR10_CLASSES) if n != "horse"}
    assert labels_of(folder / "adv") == expected
    answers = folder / "answers.csv"
    (folder / "adv/labels.csv").unlink()
    (folder / "adv/run.json").unlink()
    command = "evaluate --input-dir {x}/adv --nat-dir {x}/in --arch {x}/nets.py:ten --answers {a}"
    assert run(command, x=folder, a=answers)[0] == 0
    assert ",8," in answers.read_text().split("ship_a.png")[1].splitlines()[0]
