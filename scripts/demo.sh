#!/bin/sh
# SGM at work on real ImageNet classifiers and images, without a download but pip's.
set -eu

SOURCE=efficientnet_lite0
TARGETS="efficientnet_lite1 efficientnet_lite2"
GAMMAS="1.0 0.8 0.6 0.5 0.4 0.2"
RUN=${RUN:-python}

say() {
    printf '\n== %s\n' "$*" >&2
}

say "1. Select, of 100 images, those that all three networks classify correctly: on others a" \
    "success would say nothing."
# The lists of names are meant to be split into words.
# shellcheck disable=SC2086
$RUN select_images.py --data embedded --whole --output-dir demo/natural --overwrite \
    --arch $SOURCE $TARGETS

say "2. Attack $SOURCE by PGD, epsilon 16/255, 10 steps of 2/255. Gamma 1 is the plain attack;" \
    "the smaller gamma, the more the gradient goes through the skip connections (SGM)."
set --
for gamma in $GAMMAS; do
    $RUN attack_iter.py --input-dir demo/natural --output-dir "demo/gamma_$gamma" \
        --arch $SOURCE --gamma "$gamma"
    set -- "$@" "demo/gamma_$gamma"
done

say "3. Ask the two networks that the attack never saw. Each gamma is compared with gamma 1 on the" \
    "same images: won are those that fool a network with SGM alone, lost those without it alone."
# shellcheck disable=SC2086
$RUN evaluate.py --nat-dir demo/natural --arch $TARGETS --input-dir "$@" --baseline auto \
    --output demo/results.csv --plot demo/success_over_gamma.png --gallery demo/gallery.png

say "Written: demo/results.csv, demo/success_over_gamma.png and demo/gallery.png (the images of" \
    "gamma 0.2)"
