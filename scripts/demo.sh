#!/bin/sh
# SGM at work on real ImageNet classifiers and images, all of which pip installs.
set -eu

python select_images.py --data embedded --output-dir demo/natural --overwrite \
    --arch efficientnet_lite0 efficientnet_lite1 efficientnet_lite2

for momentum in 0 1; do
    for gamma in 1 0.5; do
        python attack_iter.py --input-dir demo/natural \
            --output-dir "demo/momentum_${momentum}_gamma_$gamma" \
            --arch efficientnet_lite0 --momentum "$momentum" --gamma "$gamma"
    done
done

python evaluate.py --nat-dir demo/natural --arch efficientnet_lite1 efficientnet_lite2 \
    --input-dir demo/momentum_0_gamma_1 demo/momentum_0_gamma_0.5 \
        demo/momentum_1_gamma_1 demo/momentum_1_gamma_0.5 \
    --output demo/results.csv --gallery demo/gallery.png

echo
echo "Written: demo/results.csv and demo/gallery.png"
