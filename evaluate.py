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
    import committee
    import devices
    import images
    import models
    import ranks
    import report
    import runs

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
    for folder, listed in folders.items():
        for image in listed:
            if image.label is None or (made[folder].get("targeted") and image.target is None):
                raise ValueError(f"{folder} has no labels: it needs a {images.LABELS}")
            if naturals and image.name not in naturals:
                raise ValueError(f"{args.nat_dir} has no {image.name}, but {folder} has")
    targets = committee.Committee(archs, checkpoints, device, args.precision)

    for folder, run in made.items():
        known = set(run.get("weights", {}).values())
        crafted_on = run.get("options", {}).get("arch") or []
        # The same architecture with other weights is a target like others.
        same = [
            arch
            for arch, model in targets.networks.items()
            if arch in crafted_on and known >= set(model.digests.values())
        ]
        if same:
            logger.warning("%s was crafted on %s: white-box, no transfer", folder, ", ".join(same))

    answers, largest = classify(folders, naturals, targets, device, args)
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
                arch: count(listed, answers[folder][arch], answers[None][arch], run.get("targeted"))
                for arch in archs
            },
        }
        if naturals:
            result["largest_perturbation"] = largest[folder]
        results.append(result)
    rows = report.merge_repeats(results)

    if args.output:
        report.write(rows, args.output)
    if args.plot or args.gallery:
        draw(args, rows, folders, naturals, targets, device)
    print(report.json_text(rows) if args.json else report.text(rows))
    for result in results:
        budget = result["epsilon"]
        if naturals and budget is not None and result["largest_perturbation"] > budget:
            raise ValueError(
                f"{result['folder']}: a pixel is {result['largest_perturbation']}/255 from the "
                f"natural one, and run.json says epsilon {budget:g}/255"
            )


def classify(folders, naturals, targets, device, args):
    """Return by folder the targets' answers, and the largest perturbations, in 1/255.

    Answers are a dict by target of dicts by image name; those to the natural images have the folder
    None. Each image is read once, with those of its name in other folders.
    """
    import devices
    import images
    import pictures
    import ranks

    by_name = {
        folder: {image.name: image for image in listed} for folder, listed in folders.items()
    }
    names = sorted({name for shelf in by_name.values() for name in shelf})
    shelves = {None: naturals} | by_name
    batches = [
        (folder, batch)
        for part in ranks.share(
            images.batches(names, args.batch_size or devices.batch_size(device))
        )
        for folder, shelf in shelves.items()
        if (batch := [shelf[name] for name in part if name in shelf])
    ]
    total = sum(name in shelf for name in names for shelf in shelves.values())
    workers = devices.decoders() if args.workers is None else args.workers
    read = pictures.read_batches([batch for _, batch in batches], workers)

    answers = {folder: {arch: {} for arch in targets.networks} for folder in shelves}
    largest, natural = dict.fromkeys(folders, 0), {}
    answered = targets.answers(cli.progress(read, total))
    for (folder, _), (batch, own, classes) in zip(batches, answered, strict=True):
        for arch, mine in classes.items():
            answers[folder][arch] |= zip((image.name for image in batch), mine, strict=True)
        if folder is None:
            natural = dict(zip((image.name for image in batch), own, strict=True))
        for image, mine in zip(batch, own, strict=True) if natural and folder else ():
            change = pictures.perturbation(mine, natural[image.name], naturals[image.name].path)
            largest[folder] = max(largest[folder], change)
    return merge(ranks.gather((answers, largest)))


def merge(shares):
    """Return what `classify` found on all ranks as one."""
    answers, largest = shares[0]
    for more, larger in shares[1:]:
        for folder, by_arch in more.items():
            for arch, classes in by_arch.items():
                answers[folder][arch] |= classes
        largest = {folder: max(largest[folder], larger[folder]) for folder in largest}
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


def draw(args, rows, folders, naturals, targets, device) -> None:
    """Write the plot and the gallery that were asked for."""
    import plots

    if args.plot:
        plots.write_plot(rows, args.plot)
    if args.gallery:
        shown = folders[args.input_dir[-1]][: plots.GALLERY_ROWS]
        plots.write_gallery(examples(shown, naturals, targets, device), args.gallery)


def examples(listed, naturals, targets, device) -> list[dict]:
    """Return what the gallery shows of a few images: their pixels and each target's answers."""
    import torch

    import models
    import pictures

    names = models.class_names()
    shown = []
    for image in listed:
        pair = [
            pictures.to_pixels(pictures.read_image(i.path)) for i in (naturals[image.name], image)
        ]
        both = pictures.to_float(torch.stack(pair).to(device))
        answers = {}
        for arch, logits in targets.each(
            lambda model, both=both: models.logits(model, both)
        ).items():
            shares = logits.softmax(1)
            confidences, classes = shares.max(1)
            known = shares.shape[1] == len(names)  # a network of one's own may have others
            answers[arch] = [
                f"{names[c] if known else f'class {c}'} {100 * p:.0f} %"
                for c, p in zip(classes.tolist(), confidences.tolist(), strict=True)
            ]
        shown.append({"label": names[image.label], "pixels": pair, "answers": answers})
    return shown


if __name__ == "__main__":
    cli.run(main, get_parser())
