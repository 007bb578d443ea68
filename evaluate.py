"""Compute how well folders of adversarial images transfer to target networks.

    python evaluate.py --input-dir adv_images/gamma_1.0 adv_images/gamma_0.5 \
        --nat-dir nat_images --arch vgg19_bn senet154 --output results.csv

Success is the share of images that a target misclassifies or, for targeted attacks, assigns to the
target class. Folders that differ in the seed alone become one row.
"""

import json
import logging
from pathlib import Path

import cli

logger = logging.getLogger(__name__)


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--input-dir", type=Path, nargs="+", required=True, help="folders of adversarial images"
    )
    parser.add_argument(
        "--arch",
        nargs="+",
        default=["efficientnet_lite1", "efficientnet_lite2"],
        help="target networks; paper stands for the paper's ten",
    )
    cli.add_checkpoint(parser.add_argument)
    parser.add_argument(
        "--nat-dir",
        type=Path,
        help="folder of the natural images; also gives the targets' accuracy on them, the success "
        "among those that a target classifies correctly, and the largest perturbation",
    )
    parser.add_argument(
        "--output", type=Path, help="file to write the table to: .csv, .md, .json or .txt"
    )
    parser.add_argument(
        "--plot", type=Path, help="PNG or PDF to draw: success over gamma, else bars"
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        help="PNG or PDF to draw: a few images of the last folder, with the targets' answers; "
        "needs --nat-dir",
    )
    cli.add_running(parser.add_argument)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def main(args) -> None:
    check(args)

    import checks
    import committee
    import devices
    import images
    import models
    import ranks
    import report
    import runs
    import transfer

    ranks.join()
    archs = [n for a in args.arch for n in (models.PAPER_TARGETS if a == "paper" else [a])]
    archs = list(dict.fromkeys(archs))
    checkpoints = cli.checkpoints(archs, args.checkpoint)
    device = devices.choose_device(args.no_cuda, args.precision)
    folders = {folder: images.list_images(folder) for folder in args.input_dir}
    made = {folder: runs.read(folder) for folder in folders}
    for folder, run in made.items():
        if run.get("status") == "running":
            raise ValueError(f"the run in {folder} is not finished: give its command again")
        if run:
            checks.warn_of_other_files(folders[folder][0].path, run.get("size"))
    naturals = {i.name: i for i in images.list_images(args.nat_dir)} if args.nat_dir else {}
    refuse_unlabelled(folders, made, naturals, args)
    targets = committee.Committee(archs, checkpoints, device, args.precision)
    warn_of_white_box(made, targets.networks)

    answers, largest = transfer.classify(
        folders,
        naturals,
        targets,
        devices.batch_size(device, args.batch_size),
        devices.decoders(args.workers),
    )
    if ranks.rank():
        return
    results = []
    for folder, listed in folders.items():
        run = made[folder]
        result = {
            "folder": str(folder),
            "repeat": json.dumps(runs.settings(run) | {"seed": None}) if run else str(folder),
            **{key: run.get(key) for key in ("source", "attack", "gamma", "epsilon")},
            "images": len(listed),
            "targets": {
                arch: transfer.count(
                    listed, answers[folder][arch], answers[None][arch], run.get("targeted")
                )
                for arch in archs
            },
        }
        if naturals:
            result["largest_perturbation"] = largest[folder]
        results.append(result)
    rows = report.merge_repeats(results)

    if args.output:
        report.write(rows, args.output)
    print(report.json_text(rows) if args.json else report.text(rows), flush=True)
    if args.plot or args.gallery:
        draw(args, rows, folders, naturals, targets, device)
    refuse_over_epsilon(results)


def check(args) -> None:
    """Refuse options that do not go together, and files that could not be written at the end."""
    if args.gallery and not args.nat_dir:
        raise cli.UsageError("--gallery needs --nat-dir, the folder of the natural images")
    for file, suffixes in (
        (args.output, (".txt", ".csv", ".md", ".json")),
        (args.plot, (".png", ".pdf")),
        (args.gallery, (".png", ".pdf")),
    ):
        if file and file.suffix not in suffixes:
            raise cli.UsageError(f"{file} does not end in {' or '.join(suffixes)}")
        if file and not file.parent.is_dir():
            raise cli.UsageError(f"no such folder: {file.parent}")


def refuse_unlabelled(folders, made, naturals, args) -> None:
    """Raise a ValueError if what evaluation needs is missing: labels, or natural images."""
    import images

    for folder, listed in folders.items():
        for image in listed:
            if image.label is None or (made[folder].get("targeted") and image.target is None):
                raise ValueError(f"{folder} has no labels: it needs a {images.LABELS}")
            if naturals and image.name not in naturals:
                raise ValueError(f"{args.nat_dir} has no {image.name}, but {folder} has")


def warn_of_white_box(made, networks) -> None:
    """Log the targets that are the network that a folder's images were crafted on."""
    for folder, run in made.items():
        known = set(run.get("weights", {}).values())
        crafted_on = run.get("options", {}).get("arch") or []
        # The same architecture with other weights is a target like others.
        same = [
            arch
            for arch, model in networks.items()
            if arch in crafted_on and known >= set(model.digests.values())
        ]
        if same:
            logger.warning("%s was crafted on %s: white-box, no transfer", folder, ", ".join(same))


def refuse_over_epsilon(results) -> None:
    """Raise a ValueError if an image is further from the natural one than its run.json says."""
    for result in results:
        largest, epsilon = result.get("largest_perturbation"), result["epsilon"]
        if None not in (largest, epsilon) and largest > epsilon:
            raise ValueError(
                f"{result['folder']}: a pixel is {largest}/255 from the natural one, and run.json "
                f"says epsilon {epsilon:g}/255"
            )


def draw(args, rows, folders, naturals, targets, device) -> None:
    """Write the plot and the gallery that were asked for."""
    import plots
    import transfer

    if args.plot:
        plots.write_plot(rows, args.plot)
    if args.gallery:
        shown = folders[args.input_dir[-1]][: plots.GALLERY_ROWS]
        plots.write_gallery(transfer.examples(shown, naturals, targets, device), args.gallery)


if __name__ == "__main__":
    cli.run(main, get_parser())
