"""Compare our wrapper with pretrainedmodels' own preprocessing, on all of its 45 networks.

    python benchmarks/check_pretrainedmodels.py

Each has random weights. An image in the network's own size goes through our module, and through
pretrainedmodels' TransformImage and the bare network. Prints the largest difference in logits,
relative to their range; fails if a shape is not 1 x 1000, a logit not finite or a difference over
1e-5. Takes minutes and no downloads.
"""

import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pretrainedmodels
import torch
from pretrainedmodels.utils import TransformImage

from suite.images import pictures
from suite.images.folders import EMBEDDED, list_images
from suite.networks.classifier import load_model

LIMIT = 1e-5


@torch.no_grad()
def difference(name: str) -> float:
    """Return the largest difference in logits over their range; NaN if they are not usable."""
    torch.manual_seed(0)
    model = load_model(name, pretrained=False)
    settings = next(iter(pretrainedmodels.pretrained_settings[name].values()))
    _, height, width = settings["input_size"]
    picture = pictures.read_image(list_images(EMBEDDED)[0].path).resize((width, height))
    for key, value in settings.items():
        setattr(model.network, key, value)
    theirs = model.network(TransformImage(model.network, scale=1)(picture)[None]).flatten(1)
    ours = model(pictures.to_float(pictures.to_pixels(picture))[None])
    if ours.shape != (1, 1000) or not ours.isfinite().all():
        return float("nan")
    return ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()


def main():
    failed = []
    for name in pretrainedmodels.model_names:
        largest = difference(name)
        print(f"{name:<22} {largest:.1e}", flush=True)
        if not largest <= LIMIT:
            failed.append(name)
        gc.collect()
    print(f"{len(pretrainedmodels.model_names)} networks, {len(failed)} failed")
    if failed:
        sys.exit(f"over {LIMIT}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
