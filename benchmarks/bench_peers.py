"""Time and memory of a step beside other libraries', and whether their images are equal.

    python benchmarks/bench_peers.py                      # ResNet-50 and DenseNet-121, batch 16
    python benchmarks/bench_peers.py --batch-size 4 --threads 1
    python benchmarks/bench_peers.py --equality           # in float64, on 32 pixels

Each attacks by PGD with SGM, on the same random weights with batch norms that fit them, images,
steps and settings of memory. torchattack (not torchattacks) has an SGM of its own; torchattacks,
foolbox and ART get the released hooks from utils_sgm.py. Networks are as torchvision returns them,
so that a library may compute gradients of the parameters, too; --freeze turns these off. Each runs
in a process of its own, in turn; medians are printed, and in how many rounds this suite was the
fastest. What is not installed is left out and named:

    pip install --no-deps torchattack==1.7.2 torchattacks==3.5.1

Needs what bench_attack.py needs.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

from bench_attack import advertorchs_pgd, ask, legacy_hooks, on_gpu

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SUITE = "this suite"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPSILON, STEP = 16 / 255, 2 / 255
# With the package that each needs.
PEERS = {
    "released code": "advertorch",
    "torchattack": "torchattack",
    "torchattacks": "torchattacks",
    "torchattacks, a network of this suite's": "torchattacks",
    "foolbox": "foolbox",
    "ART": "art",
}
FLOAT32 = ("torchattacks, a network of this suite's", "ART")  # they have no float64


def main() -> None:
    args = get_parser().parse_args()
    if args.child:
        child(args)
        return
    missing = {package for package in PEERS.values() if not importlib.util.find_spec(package)}
    ways = [SUITE, *(way for way, package in PEERS.items() if package not in missing)]
    if args.equality:
        print("| network | beside this suite | equal pixels |\n|---|---|---|")
    else:
        print("| network | way | a step | ratio | fastest in | peak memory |")
        print("|---|---|---|---|---|---|")
    for arch in args.arch:
        (compare if args.equality else measure)(arch, ways, args)
    for package in sorted(missing):
        print(f"{package} is not installed, and left out")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", nargs="+", default=["resnet50", "densenet121"])
    parser.add_argument("--gamma", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=2, help="of an attack that is timed")
    parser.add_argument("--rounds", type=int, default=7, help="attacks of each way")
    parser.add_argument("--threads", type=int, help="of torch; one for each core by default")
    parser.add_argument("--freeze", action="store_true", help="turn parameters' gradients off")
    parser.add_argument("--equality", action="store_true", help="compare images, not speed")
    parser.add_argument("--child", choices=(SUITE, *PEERS), help=argparse.SUPPRESS)
    return parser


def measure(arch: str, ways: list[str], args) -> None:
    """Run the ways in turn and print a line for each."""
    children = {way: start(arch, way, args) for way in ways}
    for process in children.values():
        process.stdout.readline()  # it is ready
    rounds = [{way: ask(process) for way, process in children.items()} for _ in range(args.rounds)]
    memory = {way: float(p.communicate("\n")[0]) for way, p in children.items()}
    for way in ways:
        seconds = statistics.median(each[way] for each in rounds) / args.num_steps
        ratio = statistics.median(each[way] / each[SUITE] for each in rounds)
        fastest = sum(min(each, key=each.get) == way for each in rounds)
        print(
            f"| {arch} | {way} | {1000 * seconds:.0f} ms | {ratio:.2f} "
            f"| {fastest} of {args.rounds} | {memory[way]:.2f} GB |",
            flush=True,
        )


def compare(arch: str, ways: list[str], args) -> None:
    """Print the share of pixels that are equal to this suite's after ten steps in float64."""
    import torch

    size, steps = 32, 10
    torch.manual_seed(0)
    pixels = torch.rand(args.batch_size, 3, size, size, dtype=torch.double)
    labels = torch.arange(args.batch_size)
    images = {}
    for way in ways:
        if way not in FLOAT32:
            network = calibrated(arch).double()
            images[way] = prepare(way, network, arch, args.gamma, steps, size)(pixels, labels)
    for way in list(images)[1:]:
        equal = (images[way] - images[SUITE]).abs() < 1e-6
        print(f"| {arch} | {way} | {100 * equal.double().mean():.2f} % |", flush=True)


def start(arch: str, way: str, args) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", way, "--arch", arch]
    for option in ("gamma", "batch_size", "num_steps", "threads"):
        if (value := getattr(args, option)) is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    command += ["--freeze"] * args.freeze
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def child(args) -> None:
    """Attack at each line of input, and print how long it took; at an empty one end."""
    warnings.simplefilter("ignore")
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the scripts do, before torch is there
    import torch

    from suite.running import devices

    device = devices.choose_device(False, "fp32")
    if args.threads:
        torch.set_num_threads(args.threads)
    (arch,) = args.arch
    network = calibrated(arch).requires_grad_(not args.freeze).to(device)
    attack = prepare(args.child, network, arch, args.gamma, args.num_steps, 224)
    pixels = torch.rand(args.batch_size, 3, 224, 224).to(device)
    labels = torch.arange(args.batch_size, device=device)
    synchronize = torch.cuda.synchronize if on_gpu() else lambda: None
    print("ready", flush=True)
    while sys.stdin.readline().strip():
        attack(pixels, labels)  # the first time, and after another process's work, it is slow
        synchronize()
        begin = time.perf_counter()
        attack(pixels, labels)
        synchronize()
        seconds = time.perf_counter() - begin
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)  # all ways together may not fit into memory
        print(seconds, flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if on_gpu():
        memory = torch.cuda.max_memory_allocated()
    print(json.dumps(memory / 1e9))


def calibrated(arch: str):
    """Return a network of torchvision with random weights and batch norms that fit them."""
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.get_model(arch)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # takes over the statistics of one batch
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 64, 64))
    return network.eval()


def prepare(way: str, network, arch: str, gamma: float, steps: int, size: int):
    """Return a way's attack, from pixels in [0, 1] and labels to adversarial pixels."""
    import torch
    from torchvision.transforms import Normalize

    from suite.attack.loop import GradientAttack
    from suite.attack.settings import Attack
    from suite.attack.sources import Source
    from suite.networks.classifier import Classifier
    from suite.networks.libraries import NetworkSpec
    from utils_sgm import register_sgm

    double = next(network.parameters()).dtype == torch.double
    if way == SUITE and double:
        network.requires_grad_(False)
    if "this suite" in way and not double:
        spec = NetworkSpec(None, (3, size, size), MEAN, STD, None)
        model = Classifier(network, spec, None).accelerate("fp32")
        Source(model, gamma, name=arch).register_sgm()
    else:
        # As a module, which every library takes.
        model = torch.nn.Sequential(Normalize(MEAN, STD), network).eval()
        if way == "released code":
            legacy_hooks(network, arch, gamma)
        elif way != "torchattack":
            register_sgm(network, arch, gamma)
    if way == SUITE:
        return GradientAttack(Attack(num_steps=steps), [model]).perturb
    if way == "released code":
        return advertorchs_pgd(model, steps)
    if way == "torchattack":
        from torchattack import SGM

        device = next(network.parameters()).device
        options = {"eps": EPSILON, "alpha": STEP, "steps": steps, "decay": 0.0, "gamma": gamma}
        return SGM(network, Normalize(MEAN, STD), device, hook_cfg=arch, **options)
    if way == "foolbox":
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=steps, random_start=False)
        bounded = foolbox.PyTorchModel(model, bounds=(0, 1))
        return lambda pixels, labels: attack(bounded, pixels, labels, epsilons=EPSILON)[1]
    if way == "ART":
        return arts_pgd(model, steps, size)
    import torchattacks

    return torchattacks.PGD(model, EPSILON, STEP, steps, random_start=False)


def arts_pgd(model, steps: int, size: int):
    import torch
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), (3, size, size), 1000, clip_values=(0, 1)
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=EPSILON, eps_step=STEP, max_iter=steps, batch_size=1024, verbose=False
    )
    return lambda pixels, labels: torch.from_numpy(
        attack.generate(pixels.cpu().numpy(), labels.cpu().numpy())
    )


if __name__ == "__main__":
    main()
