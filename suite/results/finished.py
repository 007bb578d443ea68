"""What attack_iter.py prints at the end of a run, as text and JSON."""

import json

from suite.results.report import attack_text, gamma_text


def run_text(run: dict, speeds: tuple[float, float] | None) -> str:
    """Return the attack, success and speed of a finished run as a few lines of text.

    Args:
        run: its run.json.
        speeds: images per second of the attack alone, and with reading and writing; None if nothing
            was left to do.
    """
    # A user's attack need not have a number of steps.
    steps = f", {run['num_steps']} steps" if run["num_steps"] else ""
    steps += f" of {run['step_size']:g}/255" if steps and run["step_size"] is not None else ""
    speed = "speed                 {:.1f} images/s, {:.1f} with reading and writing"
    speed = speed.format(*speeds) if speeds else "nothing was left to do"
    return (
        f"{attack_text(run)} on {run['source']}, gamma {gamma_text(run['gamma'])}, "
        f"epsilon {run['epsilon']:g}/255{steps}\n"
        f"images                {run['images']}\n"
        f"white-box success     {run['white_box_success']:.1f} %\n"
        f"largest perturbation  {run['largest_perturbation']}/255\n"
        f"{speed}"
    )


def run_json(run: dict, speeds: tuple[float, float] | None) -> str:
    """Return the same as a line of JSON."""
    summary = {key: run[key] for key in ("images", "white_box_success", "largest_perturbation")}
    alone, whole = speeds or (None, None)
    return json.dumps(summary | {"images_per_second": alone, "images_per_second_of_run": whole})
