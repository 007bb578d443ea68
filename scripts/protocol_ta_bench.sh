#!/bin/sh
# TA-Bench's table of SGM: 100 steps on eight sources, each with its own gamma.
#
#     DATA=ILSVRC2012_img_val sh scripts/protocol_ta_bench.sh       # with rand_5000.csv beside it
#     DEMO=1 sh scripts/protocol_ta_bench.sh        # on embedded networks and images, in minutes
set -eu
# shellcheck source=scripts/protocol.sh
. "$(dirname "$0")/protocol.sh"

: "${SOURCES:=timm/resnet50.tv_in1k timm/convnext_base.fb_in1k
    timm/vit_base_patch16_224.augreg_in21k_ft_in1k timm/deit3_base_patch16_224.fb_in1k
    timm/beit_base_patch16_224.in22k_ft_in22k_in1k timm/mixer_b16_224.goog_in21k_ft_in1k
    timm/tf_efficientnetv2_m.in1k timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k}"
: "${TARGETS:=ta-bench}"                          # the sources among them are white-box
: "${OUT:=protocol_ta_bench}"
weights
: "${ATTACKS:=PGD SGM}"
: "${NUM_IMAGES=}"                                # all that the CSV file names, if empty
if [ "${DEMO:-}" ]; then : "${NUM_STEPS:=20}"; fi
: "${EPSILON:=8}" "${NUM_STEPS:=100}"
: "${STEP_SIZE:=$(step_size 1)}"

gamma() { # source
    case $1 in
        *efficientnetv2_m*) echo 0.1 ;;
        *resnet50* | *convnext* | *deit3*) echo 0.2 ;;
        *vit_base* | *beit* | *swin*) echo 0.4 ;;
        *) echo 0.6 ;;
    esac
}

for source in $SOURCES; do
    case $source in                               # the source's own size and interpolation
        *efficientnetv2_m*) natural "$OUT/natural_384" --all --size 384 --resize 384 --bicubic ;;
        *resnet50*) natural "$OUT/natural_bilinear" --all --resize 224 ;;
        *) natural "$OUT/natural" --all --resize 224 --bicubic ;;
    esac
    folders=
    for attack in $ATTACKS; do
        craft "$source" "$attack" "$(gamma "$source")"
    done
    table "$OUT/$source/table"
done
finish
