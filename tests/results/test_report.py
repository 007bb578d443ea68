"""Rates of folders, and the tables that are made of them."""

import csv
import json
import math

import pytest

from suite.results import rates, report


def result(folder, succeeded, repeat=None, **settings):
    return {
        "folder": folder,
        "repeat": repeat or folder,
        "source": "resnet50",
        "attack": "PGD",
        "gamma": 1.0,
        "epsilon": 16,
        "num_steps": 10,
        "images": 20,
        "largest_perturbation": 16,
        "targets": {"vgg19": {"succeeded": succeeded, "correct": 10, "succeeded_on_correct": 5}},
    } | settings


def test_single_run_gets_a_wilson_interval():
    (row,) = rates.merge_repeats([result("a", 16)])
    n, p, z = 20, 0.8, 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert row["targets"]["vgg19"]["success"] == {
        "rate": 80,
        "low": pytest.approx(100 * (middle - half), abs=1e-3),
        "high": pytest.approx(100 * (middle + half), abs=1e-3),
    }
    assert "80.0 [58, 92]" in report.table_text([row])


def test_repeats_become_mean_and_standard_deviation():
    rows = rates.merge_repeats([result("a", 10, "x"), result("b", 12, "x"), result("c", 20)])
    assert [row["folders"] for row in rows] == [["a", "b"], ["c"]]
    success = {"rate": 55, "std": pytest.approx(math.sqrt(50))}
    assert rows[0]["targets"]["vgg19"]["success"] == success
    assert "55.0 ± 7.1" in report.table_text(rows)


def plain():
    return rates.merge_repeats([result("a", 10), result("b", 12, gamma=[0.5, 0.2])])


def compared():
    """Return rows of three attacks, two of which were compared with the first one."""
    results = [result("a", 10), result("b", 12, gamma=0.5), result("c", 18, gamma=0.2)]
    rows = rates.merge_repeats(results)
    columns = ("points", "low", "high", "won", "lost", "p", "images")
    numbers = (10, -21, 40, 6, 4, 0.75, 20), (40, 12, 63, 9, 1, 0.021, 20)
    for row, each in zip(rows[1:], numbers, strict=True):
        row["baseline"] = "a"
        row["targets"]["vgg19"]["difference"] = dict(zip(columns, each, strict=True))
    return rows


def beside_published():
    """Return rows with published numbers that agree, disagree and are missing."""
    rows = rates.merge_repeats([result("a", 10), result("b", 12, gamma=0.5), result("c", 18)])
    number = {"mean": 45.5, "std": 1.25, "points": 4.5, "allowed": 20.25, "from": "Table 3"}
    found = [
        {"verdict": "agrees"} | number,
        {"verdict": "differs"} | number | {"std": None, "points": -34.5},
        {"verdict": "none published", "reason": "none on resnet50"},
    ]
    for row, each in zip(rows, found, strict=True):
        row["targets"]["vgg19"]["published"] = {"paper": each}
    return rows


@pytest.mark.parametrize(
    ("rows", "suffix", "expected"),
    [
        (plain(), ".txt", ["50.0 [30, 70]", "60.0 [39, 78]", "0.5 0.2", "16/255"]),
        (plain(), ".md", ["| a | resnet50 | PGD | 1 | 20 | 16/255 | 50.0 [30, 70] |", "| --- |"]),
        (plain(), ".csv", ["b,resnet50,PGD+SGM,0.5 0.2,16,10,20,1,16,60.0,,38.65", "vgg19 low"]),
        (plain(), ".json", ['"rate": 60.0']),
        (
            compared(),
            ".txt",
            ["b       a         vgg19   +10.0 [-21.0, +40.0]  20      6    4     0.75", " 0.021"],
        ),
        (compared(), ".md", ["| c | a | vgg19 | +40.0 [+12.0, +63.0] | 20 | 9 | 1 | 0.021 |  |"]),
        (
            compared(),
            ".csv",
            ["vgg19 difference points", ",40,12,63,9,1,0.021,20\n", ",10,-21,40,6,4,0.75,20\n"],
        ),
        (compared(), ".json", ['"points": 40', '"baseline": "a"']),
        (
            beside_published(),
            ".txt",
            [
                "a       vgg19   50.00  45.50 ± 1.25    +4.50   20.25    agrees   paper: Table 3",
                "b       vgg19   60.00  45.50           -34.50  20.25    differs  paper: Table 3",
                "c       vgg19   90.00  none published                            paper: none on",
            ],
        ),
        (
            beside_published(),
            ".md",
            [
                "| b | vgg19 | 60.00 | 45.50 | -34.50 | 20.25 | differs | paper: Table 3 |",
                "| c | vgg19 | 90.00 | none published |  |  |  | paper: none on resnet50 |",
            ],
        ),
        (
            beside_published(),
            ".csv",
            [
                "vgg19 paper verdict,vgg19 paper mean,vgg19 paper std,vgg19 paper points",
                ",agrees,45.5,1.25,4.5,20.25,Table 3,",
                ",differs,45.5,,-34.5,20.25,Table 3,",
                ",none published,,,,,,none on resnet50",
            ],
        ),
        (beside_published(), ".json", ['"verdict": "none published"', '"points": -34.5']),
    ],
)
def test_every_format_has_every_number(tmp_path, rows, suffix, expected):
    file = tmp_path / f"r{suffix}"
    report.write_table(rows, file)
    for part in expected:
        assert part in file.read_text()
    if suffix == ".json":
        assert json.loads(file.read_text()) == rows


def test_what_no_target_has_a_number_for_is_one_line():
    rows = beside_published()
    for row in rows:
        row["targets"]["vgg16"] = row["targets"]["vgg19"]
    lines = report.table_text(rows).splitlines()
    assert sum("paper: none on resnet50" in line for line in lines) == 1
    assert "all 2 targets" in lines[-1]


def test_table_says_where_nothing_can_be_told_apart():
    lines = report.table_text(compared()).splitlines()
    told = {line.split()[0]: "nothing can be told apart" in line for line in lines[-2:]}
    assert told == {"b": True, "c": False}


def test_target_that_classifies_nothing_correctly_has_no_rate():
    counts = {"succeeded": 20, "correct": 0, "succeeded_on_correct": 0}
    rows = rates.merge_repeats([result("a", 20, targets={"vgg19": counts})])
    assert rows[0]["targets"]["vgg19"]["success_on_correct"] == {"rate": None}
    assert "16/255   -" in report.table_text(rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a|b", r"| a\|b |"),
        ("a<b>c&lt;", r"| a\<b>c\&lt; |"),
        ("_a_b_", r"| \_a_b\_ |"),
        ("*a* `b` ~~c~~", r"| \*a\* \`b\` \~\~c\~\~ |"),
        ("[a](b)", r"| [a]\(b) |"),
        ("a\\b", r"| a\\b |"),
        ("a\nb", r"| 'a\\nb' |"),
        ("gamma_1.0 [30, 70]", "| gamma_1.0 [30, 70] |"),
    ],
)
def test_markdown_shows_names_as_they_are(name, expected):
    assert expected in report.table_markdown(rates.merge_repeats([result(name, 10)]))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1+1", "@sum", "\ta"])
def test_names_are_no_formulas_in_csv(tmp_path, name):
    counts = {"succeeded": 20, "correct": 1, "succeeded_on_correct": 1}
    rows = rates.merge_repeats([result(name, 20, source=name, targets={name: counts})])
    report.write_table(rows, tmp_path / "r.csv")
    ((header, (line)),) = [list(csv.reader((tmp_path / "r.csv").open(newline="")))]
    cells = dict(zip(header, line, strict=True))
    assert cells["folder"] == cells["source"] == f"'{name}"
    assert cells[f"'{name}"] == "100.0"


def test_table_has_one_line_for_a_name_of_two():
    text = report.table_text(rates.merge_repeats([result("a\nb\udcff", 10)]))
    assert r"'a\nb\udcff'  resnet50" in text


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".md", ".json"])
def test_names_need_not_be_utf_8(tmp_path, suffix):
    report.write_table(rates.merge_repeats([result("a\udcff", 10)]), tmp_path / f"r{suffix}")
    content = (tmp_path / f"r{suffix}").read_bytes()
    assert (b"a\xff" if suffix == ".csv" else rb"udcff") in content
