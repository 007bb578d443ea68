"""What --plot draws: curves over what the rows differ in, else bars."""

import PIL.Image
import pytest
from matplotlib.axes import Axes
from test_report import beside_published, compared, result

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
