#!/bin/sh
# The paper's multi-step table and its combinations of attacks, with the paper's numbers beside ours.
#
#     DATA=ILSVRC2012/val sh scripts/paper_tables.sh
#     DEMO=1 sh scripts/paper_tables.sh             # on embedded networks and images, in minutes
#
# The first needs the networks' weights; attack_iter.py says which file is missing and where to put it.
set -eu

if [ "${DEMO:-}" ]; then
    DATA=${DATA:-embedded}
    SOURCES=${SOURCES:-efficientnet_lite0}
    TARGETS=${TARGETS:-efficientnet_lite1 efficientnet_lite2}
    NUM_IMAGES=${NUM_IMAGES-}
fi
DATA=${DATA:?set it to a folder of ImageNet images}
SOURCES=${SOURCES:-resnet152 densenet201}
TARGETS=${TARGETS:-paper}                         # all ten of the paper's
NUM_IMAGES=${NUM_IMAGES-5000}                     # all, if empty
NUM_STEPS=${NUM_STEPS:-10}
SEEDS=${SEEDS:-0}                                 # several give mean and standard deviation
EXTRA=${EXTRA:-}                                  # of every attack, for example --rand-init
OUT=${OUT:-paper_tables}
case $SEEDS in
    *\ *) EXTRA="$EXTRA --rand-init" ;;           # else the seed would change nothing but DI
esac

if [ "$DATA" = embedded ]; then set -- --data embedded; else set -- --input-dir "$DATA"; fi
# The lists of names and options are meant to be split into words.
# shellcheck disable=SC2086
python select_images.py "$@" --output-dir "$OUT/natural" --overwrite --arch $SOURCES \
    ${NUM_IMAGES:+--num-images $NUM_IMAGES}

attack() { # name, options of attack_iter.py
    name=$1
    shift
    for seed in $SEEDS; do
        # shellcheck disable=SC2086
        python attack_iter.py --input-dir "$OUT/natural" --output-dir "$OUT/$source/$name/$seed" \
            --arch "$source" --seed "$seed" --num-steps "$NUM_STEPS" $EXTRA "$@"
        folders="$folders $OUT/$source/$name/$seed"
    done
}

MI="--momentum 1"
DI="--di-prob 0.5 --di-resize 1.1"
TI="--ti-kernel 15 --ti-sigma 3"
for source in $SOURCES; do
    case $source in
        *resnet[0-9]*) SGM="--gamma 0.2" ;;
        *) SGM="--gamma 0.5" ;;
    esac
    folders=
    # shellcheck disable=SC2086
    {
        attack PGD
        attack TI $TI
        attack MI $MI
        attack DI $DI
        attack SGM $SGM
        attack TI+SGM $TI $SGM
        attack MI+SGM $MI $SGM
        attack DI+SGM $DI $SGM
        attack MI+DI $MI $DI
        attack MI+DI+SGM $MI $DI $SGM
        python evaluate.py --input-dir $folders --nat-dir "$OUT/natural" --arch $TARGETS \
            --published paper paper_rerun --output "$OUT/$source.json" --plot "$OUT/$source.png"
    }
done
