"""What --plot draws: curves over what the rows differ in, else bars."""

import PIL.Image
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_report import beside_published, compared, result

from suite.images.labels import printable
from suite.results import plots, rates

OVER = {
    "gamma": [{"gamma": 1.0}, {"gamma": 0.5}],
    "epsilon": [{"epsilon": e, "gamma": g} for e in (4, 8) for g in (1.0, 0.5)],
    "num_steps": [
        {"num_steps": n, "gamma": g, "attack": "FGSM" if n == 1 else "PGD"}
        for n in (1, 5, 10)
        for g in (1.0, 0.5)
    ],
}


@pytest.fixture
def drawn(monkeypatch):
    """By kind, the label, places, heights and options of everything that is drawn."""
    calls = {"bar": [], "errorbar": [], "plot": []}
    for kind, recorded in calls.items():
        draw = getattr(Axes, kind)

        def record(axes, x, y, *rest, draw=draw, recorded=recorded, label=None, **style):
            recorded.append((label, x, y, style))
            return draw(axes, x, y, *rest, label=label, **style)

        monkeypatch.setattr(Axes, kind, record)
    return calls


def rows_of(settings):
    return rates.merge_repeats([result(str(n), n, **s) for n, s in enumerate(settings)])


@pytest.mark.parametrize("over", OVER)
def test_plot_is_over_what_the_rows_differ_in(tmp_path, drawn, over):
    settings = OVER[over]
    plots.write_plot(rows_of(settings), tmp_path / "p.png")
    lines = {"vgg19": [(0.5, 5), (1, 0)]}
    if over != "gamma":
        points = [(s["gamma"], (s[over], 5 * n)) for n, s in enumerate(settings)]
        lines = {f"vgg19, γ {g:g}": [at for gamma, at in points if gamma == g] for g in (1, 0.5)}
    found = {label: list(zip(x, y, strict=True)) for label, x, y, _ in drawn["errorbar"]}
    assert found == lines
    assert not drawn["bar"]


@pytest.mark.parametrize(
    "settings",
    [
        [{"epsilon": 4, "num_steps": 5}, {"epsilon": 8, "num_steps": 10}],
        [{"epsilon": 4}, {"epsilon": 8, "attack": "MI-FGSM"}],
        [{"num_steps": 1, "attack": "FGSM"}, {"num_steps": None, "attack": "mine"}],
        [{}, {"attack": "MI-FGSM"}],
    ],
)
def test_plot_of_rows_that_differ_in_more_is_bars(tmp_path, drawn, settings):
    plots.write_plot(rows_of(settings), tmp_path / "p.png")
    assert [(label, x, y) for label, x, y, _ in drawn["bar"]] == [("vgg19", [0, 1], [0, 5])]
    assert {label for label, *_ in drawn["errorbar"]} == {"_nolegend_"}  # the bars' own


def test_targets_that_coincide_are_drawn_beside_each_other(tmp_path, drawn):
    counts = {"succeeded": 5, "correct": 10, "succeeded_on_correct": 5}
    targets = dict.fromkeys("abcdefghij", counts)
    plots.write_plot(
        rows_of([{"targets": targets, "gamma": g} for g in (1.0, 0.5, 0.3)]), tmp_path / "p.png"
    )
    places = [list(x) for _, x, *_ in drawn["errorbar"]]
    assert sorted(places) == places
    for found in zip(*places, strict=True):
        assert len(set(found)) == 10
        assert max(found) - min(found) < 0.6 * 0.2  # of the way to the next gamma
    styles = {tuple(s[what] for what in ("color", "marker")) for *_, s in drawn["errorbar"]}
    assert len(styles) == 10


def test_plot_says_what_its_rows_share_and_with_what_they_are_compared(tmp_path, monkeypatch):
    said = {}
    for method in ("set_title", "set_ylabel"):
        draw = getattr(Axes, method)

        def record(axes, text, *rest, draw=draw, method=method, **style):
            said[method] = text
            return draw(axes, text, *rest, **style)

        monkeypatch.setattr(Axes, method, record)
    rows = compared()
    plots.write_plot(rows, tmp_path / "p.png")
    assert said["set_title"] == "PGD on resnet50\n20 images, epsilon 16/255, 10 steps"
    assert said["set_ylabel"] == "difference to gamma 1 (points)"
    rows[0]["gamma"], rows[2]["attack"] = [0.2, 0.5], "MI-FGSM"
    rows[2]["epsilon"] = 8
    plots.write_plot(rows, tmp_path / "p.png")
    assert said["set_title"] == "20 images, 10 steps"
    assert said["set_ylabel"] == "difference to a (points)"


@pytest.mark.parametrize("second", [{"gamma": 0.5}, {"attack": "MI-FGSM"}])
def test_plot_is_a_png_or_a_pdf(tmp_path, second):
    for suffix in ("png", "pdf"):
        plots.write_plot(rows_of([{}, second]), tmp_path / f"p.{suffix}")
    assert PIL.Image.open(tmp_path / "p.png").size[0] > 500
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("count", "places"), [(2, [0.5, 1]), (3, [0, 1])])
def test_plot_has_a_star_at_each_published_number(tmp_path, drawn, count, places):
    plots.write_plot(beside_published()[:count], tmp_path / "p.png")
    stars = [(x, y) for _, x, y, style in drawn["plot"] if style.get("markersize") == 10]
    assert stars == [(place, 45.5) for place in places]


@pytest.mark.parametrize(
    ("attack", "places", "heights", "errors"),
    [
        ("PGD", [0.2, 0.5], [40, 10], [[28, 31], [23, 30]]),
        ("MI-FGSM", [1, 2], [10, 40], [[31, 28], [30, 23]]),
    ],
)
def test_plot_has_whiskers_of_the_difference(tmp_path, drawn, attack, places, heights, errors):
    rows = compared()
    rows[2]["attack"] = attack
    plots.write_plot(rows, tmp_path / "p.png")
    _, x, y, style = drawn["errorbar"][-1]
    assert (list(x), list(y), [list(side) for side in style["yerr"]]) == (places, heights, errors)


def test_plot_bears_an_interval_that_rounding_put_past_its_middle(tmp_path):
    rows = compared()
    rows[1]["targets"]["vgg19"]["difference"] |= {"low": 10 + 1e-12, "high": 10 - 1e-12}
    plots.write_plot(rows, tmp_path / "p.png")
    assert (tmp_path / "p.png").is_file()


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "a_$b", "a\nb", "\udcff", r"\$"])
def test_names_are_drawn_as_they_are(tmp_path, monkeypatch, name):
    legends = []
    legend = Figure.legend
    monkeypatch.setattr(
        Figure, "legend", lambda *a, **style: legends.append(legend(*a, **style)) or legends[-1]
    )
    counts = {"succeeded": 5, "correct": 10, "succeeded_on_correct": 5}
    results = [
        result(name, 5, source=name, targets={name: counts}, gamma=gamma, attack=attack)
        for gamma, attack in ((1.0, "PGD"), (0.5, "PGD"))
    ]
    plots.write_plot(rates.merge_repeats(results), tmp_path / "curve.png")
    results[0]["attack"] = name
    plots.write_plot(rates.merge_repeats(results), tmp_path / "bars.pdf")
    results[0]["gamma"] = None
    plots.write_plot(rates.merge_repeats(results), tmp_path / "folders.png")
    shown = [text.get_text().strip() for each in legends for text in each.get_texts()]
    assert shown == [printable(name)] * 3


def test_gallery_says_what_was_attacked_and_marks_wrong_answers(tmp_path, monkeypatch):
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    answers = {"_n$": [("$x^$ 5 %", True), ("\udcff", False)]}
    example = {"label": "$a^$", "pixels": [pixels] * 2, "answers": answers}
    (row,) = rows_of([{"source": "$s", "gamma": 0.5}])
    shown = []
    for place, method in ((Axes, "annotate"), (Figure, "suptitle")):
        draw = getattr(place, method)

        def record(self, text, *rest, draw=draw, **style):
            shown.append((text, style.get("color")))
            return draw(self, text, *rest, **style)

        monkeypatch.setattr(place, method, record)
    plots.write_gallery([example], row, tmp_path / "g.png")
    assert (tmp_path / "g.png").is_file()
    right, wrong = plots.RIGHT[1], plots.WRONG[1]
    made = ("PGD+SGM on $s\ngamma 0.5, epsilon 16/255", None)
    assert shown == [made, ("✓ _n$: $x^$ 5 %", right), (printable("✗ _n$: \udcff"), wrong)]
