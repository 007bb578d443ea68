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
    parser.add_argument("--batch-size", type=cli.positive_int, default=16)
    parser.add_argument("--no-cuda", action="store_true", help="run on the CPU")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def main(args) -> None:
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

    import checks
    import images
    import models
    import plots
    import report
    import runs

    archs = [n for a in args.arch for n in (models.PAPER_TARGETS if a == "paper" else [a])]
    archs = list(dict.fromkeys(archs))
    checkpoints = cli.checkpoints(archs, args.checkpoint)
    device = models.choose_device(args.no_cuda)
    folders = {folder: images.list_images(folder) for folder in args.input_dir}
    made = {folder: runs.read(folder) for folder in folders}
    for folder, run in made.items():
        if run.get("status") == "running":
            raise ValueError(f"the run in {folder} is not finished: give its command again")
        if run:
            checks.warn_of_other_files(folders[folder][0].path, run.get("size"))
    naturals = {i.name: i for i in images.list_images(args.nat_dir)} if args.nat_dir else {}
    for folder, listed in folders.items():
        for image in listed:
            if image.label is None or (made[folder].get("targeted") and image.target is None):
                raise ValueError(f"{folder} has no labels: it needs a {images.LABELS}")
            if naturals and image.name not in naturals:
                raise ValueError(f"{args.nat_dir} has no {image.name}, but {folder} has")
    targets = {
        arch: models.load_model(arch, checkpoint=checkpoints.get(arch)).to(device) for arch in archs
    }

    for folder, run in made.items():
        known = set(run.get("weights", {}).values())
        crafted_on = run.get("options", {}).get("arch") or []
        # The same architecture with other weights is a target like others.
        same = [a for a in targets if a in crafted_on and known >= set(targets[a].digests.values())]
        if same:
            logger.warning("%s was crafted on %s: white-box, no transfer", folder, ", ".join(same))

    natural_answers, _ = classify(list(naturals.values()), targets, args.batch_size, device)
    results = []
    for folder, listed in folders.items():
        run = made[folder]
        answers, largest = classify(listed, targets, args.batch_size, device, naturals)
        result = {
            "folder": str(folder),
            "repeat": json.dumps(runs.settings(run) | {"seed": None}) if run else str(folder),
            **{key: run.get(key) for key in ("source", "attack", "gamma", "epsilon")},
            "images": len(listed),
            "targets": {
                arch: count(listed, answers[arch], natural_answers[arch], run.get("targeted"))
                for arch in targets
            },
        }
        if naturals:
            result["largest_perturbation"] = largest
        results.append(result)
    rows = report.merge_repeats(results)

    if args.output:
        report.write(rows, args.output)
    if args.plot:
        plots.write_plot(rows, args.plot)
    if args.gallery:
        shown = folders[args.input_dir[-1]][: plots.GALLERY_ROWS]
        plots.write_gallery(examples(shown, naturals, targets, device), args.gallery)
    print(report.json_text(rows) if args.json else report.text(rows))
    for result in results:
        budget = result["epsilon"]
        if naturals and budget is not None and result["largest_perturbation"] > budget:
            raise ValueError(
                f"{result['folder']}: a pixel is {result['largest_perturbation']}/255 from the "
                f"natural one, and run.json says epsilon {budget:g}/255"
            )


def classify(listed, targets, batch_size, device, naturals=None):
    """Return each target's answers, image name to class, and the largest perturbation, in 1/255.

    Each image is read once. Without `naturals`, by name, the perturbation is 0.
    """
    import images
    import models

    answers, largest = {arch: {} for arch in targets}, 0
    for batch, pixels in cli.progress(images.read_batches(listed, batch_size), len(listed)):
        floats = images.to_float(pixels.to(device))
        for arch, model in targets.items():
            classes = models.predict(model, floats).tolist()
            answers[arch].update(zip((image.name for image in batch), classes, strict=True))
        for image, own in zip(batch, pixels, strict=True) if naturals else ():
            largest = max(largest, images.perturbation(own, naturals[image.name]))
    return answers, largest


def count(listed, answers: dict[str, int], natural: dict[str, int], targeted: bool) -> dict:
    """Count an attack's successes on a target network, and more if `natural` is not empty."""
    succeeded = {
        image.name
        for image in listed
        if (answers[image.name] == image.target if targeted else answers[image.name] != image.label)
    }
    counts = {"succeeded": len(succeeded)}
    if natural:
        correct = {image.name for image in listed if natural[image.name] == image.label}
        counts["correct"] = len(correct)
        counts["succeeded_on_correct"] = len(succeeded & correct)
    return counts


def examples(listed, naturals, targets, device) -> list[dict]:
    """Return what the gallery shows of a few images: their pixels and each target's answers."""
    import torch

    import images
    import models

    names = models.class_names()
    shown = []
    for image in listed:
        pixels = [
            images.to_pixels(images.read_image(i.path)) for i in (naturals[image.name], image)
        ]
        both = images.to_float(torch.stack(pixels).to(device))
        answers = {}
        for arch, model in targets.items():
            with torch.no_grad():
                shares = model(both).softmax(1)
            confidences, classes = shares.max(1)
            known = shares.shape[1] == len(names)  # a network of one's own may have others
            answers[arch] = [
                f"{names[c] if known else f'class {c}'} {100 * p:.0f} %"
                for c, p in zip(classes.tolist(), confidences.tolist(), strict=True)
            ]
        shown.append({"label": names[image.label], "pixels": pixels, "answers": answers})
    return shown


if __name__ == "__main__":
    cli.run(main, get_parser())
