"""What --plot draws: curves over what the rows differ in, else bars."""

import pytest
from test_report import result

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


@pytest.mark.parametrize("over", OVER)
def test_plot_is_over_what_the_rows_differ_in(tmp_path, monkeypatch, over):
    from matplotlib.axes import Axes

    drawn, errorbar = {}, Axes.errorbar

    def recorded(axes, x, y, label=None, **style):
        drawn[label] = list(zip(x, y, strict=True))
        return errorbar(axes, x, y, label=label, **style)

    monkeypatch.setattr(Axes, "errorbar", recorded)
    settings = OVER[over]
    rows = rates.merge_repeats([result(str(n), n, **s) for n, s in enumerate(settings)])
    plots.write_plot(rows, tmp_path / "p.png")
    lines = {"vgg19": [(0.5, 5), (1, 0)]}
    if over != "gamma":
        lines = {
            f"vgg19, γ {gamma:g}": [
                (s[over], 5 * n) for n, s in enumerate(settings) if s["gamma"] == gamma
            ]
            for gamma in (1, 0.5)
        }
    assert drawn == lines


def test_plot_of_rows_that_differ_in_more_is_bars(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_draw_bars", lambda *_: drawn.append("bars"))
    several = [{"epsilon": 4, "num_steps": 5}, {"epsilon": 8, "num_steps": 10}]
    others = [{"epsilon": 4}, {"epsilon": 8, "attack": "MI-FGSM"}]
    own = [{"num_steps": 1, "attack": "FGSM"}, {"num_steps": None, "attack": "mine"}]
    for settings in (several, others, own):
        rows = rates.merge_repeats([result(str(n), n, **s) for n, s in enumerate(settings)])
        plots.write_plot(rows, tmp_path / "p.png")
    assert drawn == ["bars", "bars", "bars"]
