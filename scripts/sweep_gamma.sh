#!/bin/sh
# Success on the targets over gamma: images, table, plot and gallery. Edit the variables, or set them:
#
#     sh scripts/sweep_gamma.sh                     # on embedded networks and images, in minutes
#     DATA=ILSVRC2012/val NUM_IMAGES=5000 SOURCE=resnet152 TARGETS="vgg19_bn senet154" \
#         GAMMAS="1.0 0.8 0.6 0.4 0.2" sh scripts/sweep_gamma.sh
set -eu

DATA=${DATA:-embedded}                            # a folder of ImageNet images, or embedded
NUM_IMAGES=${NUM_IMAGES:-}                        # all, if empty
SOURCE=${SOURCE:-efficientnet_lite0}
TARGETS=${TARGETS:-efficientnet_lite1 efficientnet_lite2}
GAMMAS=${GAMMAS:-1.0 0.8 0.6 0.5 0.4 0.2}
ATTACK=${ATTACK:-}                                # further options of attack_iter.py
OUT=${OUT:-sweep}
RUN=${RUN:-python}                                # or torchrun --nproc-per-node 4, for four GPUs

if [ "$DATA" = embedded ]; then set -- --data embedded; else set -- --input-dir "$DATA"; fi
# The lists of names and options are meant to be split into words.
# shellcheck disable=SC2086
$RUN select_images.py "$@" --output-dir "$OUT/natural" --overwrite --arch $SOURCE $TARGETS \
    ${NUM_IMAGES:+--num-images $NUM_IMAGES}

set --
for gamma in $GAMMAS; do
    # shellcheck disable=SC2086
    $RUN attack_iter.py --input-dir "$OUT/natural" --output-dir "$OUT/gamma_$gamma" \
        --arch $SOURCE --gamma "$gamma" $ATTACK
    set -- "$@" "$OUT/gamma_$gamma"
done

# shellcheck disable=SC2086
$RUN evaluate.py --input-dir "$@" --nat-dir "$OUT/natural" --arch $TARGETS \
    --baseline auto --output "$OUT/table.csv" "$OUT/table.md" \
    --plot "$OUT/success_over_gamma.png" --gallery "$OUT/gallery.png"
