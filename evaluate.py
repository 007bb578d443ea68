"""Compute how well folders of adversarial images transfer to target networks.

    python evaluate.py --input-dir adv_images/gamma_1.0 adv_images/gamma_0.5 \
        --nat-dir nat_images --arch vgg19_bn senet154 --output results.csv

Success is the share of images that a target misclassifies or, for targeted attacks, assigns to the
target class. Folders that differ in the seed alone become one row.
"""

from pathlib import Path

from suite.running import cli, defended, published


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--input-dir", type=Path, nargs="+", required=True, help="folders of adversarial images")
    add("--arch", nargs="+", default=["efficientnet_lite1", "efficientnet_lite2"],
        help="target networks; paper, transferattack, ta-bench and tpami stand for a protocol's; "
        "with a defence in front: jpeg:75+resnet50")
    cli.add_checkpoint(add)
    add("--seed", type=int, default=0, help="of random defences")
    add("--nat-dir", type=Path,
        help="folder of the natural images; also gives the targets' accuracy on them, the success "
        "among those that a target classifies correctly, and the largest perturbation")
    add("--baseline", metavar="FOLDER",
        help="one of the input folders, with which the others are compared image by image; auto: "
        "for each the one of gamma 1 that differs in gamma alone")
    add("--published", type=published.file_of, nargs="+", metavar="NAME_OR_FILE",
        help=f"published rates to put beside ours: {', '.join(published.NAMES)}, or a CSV file")
    add("--quality", action="store_true",
        help="how visible the perturbations are: L2, PSNR, SSIM, LPIPS; needs --nat-dir")
    add("--output", type=Path, help="file to write the table to: .csv, .md, .json or .txt")
    add("--answers", type=Path,
        help="CSV file to write: each target's class for each image, and the label's probability")
    add("--plot", type=Path,
        help="PNG or PDF to draw: success over gamma, epsilon or the number of steps, else bars")
    add("--gallery", type=Path,
        help="PNG or PDF to draw: a few images of the last folder, with the targets' answers; "
        "needs --nat-dir")
    cli.add_running(add)
    add("--json", action="store_true", help="print the results as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    check(args)

    from suite import images, networks, results
    from suite.running import checks, devices, ranks, runs

    ranks.join()
    archs = networks.expanded(args.arch)
    checkpoints = defended.checkpoints(archs, args.checkpoint)
    numbers = results.read_published(args.published or [])
    device = devices.choose_device(args.no_cuda, args.precision)
    natural = images.list_images(args.nat_dir) if args.nat_dir else []
    naturals = {image.name: image for image in natural}
    folders = {f: images.matched(f, images.list_images(f), natural) for f in args.input_dir}
    made = {folder: runs.read(folder) for folder in folders}
    checks.refuse_unlike_repeats(made, folders)
    baselines = results.baselines(args.baseline, made) if args.baseline else {}
    for folder, baseline in baselines.items():
        checks.refuse_incomparable(folder, baseline, folders)
    for folder, run in made.items():
        checks.refuse_unfinished(folder, run)
    for folder, run in made.items():
        checks.warn_of_other_files(folders[folder][0].path, run.get("size"))
        checks.refuse_unlabelled(folder, folders[folder], run.get("targeted"))
        checks.refuse_unpaired(folder, folders[folder], args.nat_dir, naturals)
    targets = results.Committee(archs, checkpoints, device, args.precision, args.seed)
    for folder, run in made.items():
        checks.warn_of_white_box(folder, run, targets.networks)
        for arch, model in targets.networks.items():
            checks.refuse_other_classes(arch, model.classes, folders[folder])

    answers, changes = results.classify(
        folders,
        naturals,
        targets,
        devices.batch_size(device, args.batch_size),
        devices.decoders(args.workers),
        results.Visibility() if args.quality else None,
    )
    if ranks.rank():
        return
    fooled = {
        folder: {
            arch: results.successes(folders[folder], said, run.get("targeted"))
            for arch, said in answers[folder].items()
        }
        for folder, run in made.items()
    }
    largest = {
        folder: max(change["linf"] for change in by_name.values())
        for folder, by_name in changes.items()
        if by_name
    }
    counted = [
        {
            "folder": str(folder),
            "repeat": checks.repeat_of(folder, run),
            **{key: run.get(key) for key in ("source", "attack", "gamma", "epsilon", "num_steps")},
            "images": len(folders[folder]),
            "targets": {
                arch: results.count(folders[folder], by_name, answers[None][arch])
                for arch, by_name in fooled[folder].items()
            },
        }
        | ({"largest_perturbation": largest[folder]} if naturals else {})
        | ({"quality": results.mean_visibility(changes[folder])} if args.quality else {})
        for folder, run in made.items()
    ]
    rows = results.merge_repeats(counted)
    results.compare(rows, fooled, baselines)
    results.compare_published(rows, made, numbers, checkpoints)
    for arch, classes in answers[None].items() if naturals else ():
        known = [i for i in naturals.values() if i.name in classes and i.label is not None]
        records = [{"answer": classes[i.name].index, "label": i.label} for i in known]
        checks.warn_of_accuracy(arch, records)

    if args.output:
        results.write(rows, args.output)
    print(results.json_text(rows) if args.json else results.text(rows), flush=True)
    if args.answers:
        results.write_answers(answers, folders, naturals, args.nat_dir, args.answers)
    if args.plot:
        results.write_plot(rows, args.plot)
    if args.gallery:
        shown = folders[args.input_dir[-1]][: results.GALLERY_ROWS]
        results.write_gallery(results.examples(shown, naturals, targets, device), args.gallery)
    for folder, run in made.items():
        if run and naturals:
            checks.warn_of_natural(folder, largest[folder])
            checks.refuse_over_epsilon(folder, largest[folder], run.get("epsilon"))


def check(args) -> None:
    """Refuse options that do not go together, and files that could not be written at the end."""
    defended.refuse_unknown(args.arch)
    if args.gallery and not args.nat_dir:
        raise cli.UsageError("--gallery needs --nat-dir, the folder of the natural images")
    if args.quality and not args.nat_dir:
        raise cli.UsageError("--quality needs --nat-dir, the folder of the natural images")
    if args.baseline not in (None, "auto") and Path(args.baseline) not in args.input_dir:
        raise cli.UsageError(f"--baseline {args.baseline} is none of --input-dir, and not auto")
    for folder in args.input_dir:
        if args.input_dir.count(folder) > 1:
            raise cli.UsageError(f"{folder} stands twice in --input-dir")
    cli.refuse_unwritable(args.output, ".txt", ".csv", ".md", ".json")
    cli.refuse_unwritable(args.answers, ".csv")
    cli.refuse_unwritable(args.plot, ".png", ".pdf")
    cli.refuse_unwritable(args.gallery, ".png", ".pdf")


if __name__ == "__main__":
    cli.run(main, get_parser())
