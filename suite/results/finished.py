"""What attack_iter.py prints of a finished run, as text and JSON."""

import json

from suite.results.report import gamma_text


def run_text(run: dict, speeds: tuple[float, float] | None) -> str:
    """Return what attack_iter.py prints of a finished run.json.

    Args:
        speeds: images per second of the attack alone, and with reading and writing; None if nothing
            was left to do.
    """
    # Of the user's attack only what it asks for is known.
    steps = f", {run['num_steps']} steps" if run["num_steps"] else ""
    steps += f" of {run['step_size']:g}/255" if steps and run["step_size"] is not None else ""
    return (
        f"{run['attack']} on {run['source']}, gamma {gamma_text(run['gamma'])}, "
        f"epsilon {run['epsilon']:g}/255{steps}\n"
        f"images                {run['images']}\n"
        f"white-box success     {run['white_box_success']:.1f} %\n"
        f"largest perturbation  {run['largest_perturbation']}/255\n"
    ) + (
        "speed                 {:.1f} images/s, {:.1f} with reading and writing".format(*speeds)
        if speeds
        else "nothing was left to do"
    )


def run_json(run: dict, speeds: tuple[float, float] | None) -> str:
    """Return the same as a line of JSON."""
    keys = ("images", "white_box_success", "largest_perturbation")
    alone, whole = speeds or (None, None)
    return json.dumps(
        {key: run[key] for key in keys}
        | {"images_per_second": alone, "images_per_second_of_run": whole}
    )
