#!/usr/bin/env bash
# Every figure that needs a GPU, as JSON files and one Markdown page:
#
#   benchmarks/on_gpu.sh [--tiny] [--wheels FOLDER] [--out FOLDER] [PART ...]
#
# A part ends within nine minutes, so that a machine may be had for ten at a time: name those that are to run, or run all.
# What a part has printed is in FOLDER/PART.log. The exit code is 1 if a part failed; the others run all the same.
#   --wheels FOLDER   packages to install from files first, without a network and without what they need themselves
#   --out FOLDER      benchmarks/results without
#   --tiny            small sizes on a CPU, to see that everything runs
# A peer that is not installed is left out, and its column says so (mmaction2, mmcv, ffpa-attn, torchcodec).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PARTS=(attention ops block step_8x8 step_32x2 models detection decoding)
MOST_S=540
tiny=no
wheels=
out=benchmarks/results
chosen=()
while [ $# -gt 0 ]; do
    case $1 in
        --tiny) tiny=yes ;;
        --wheels) wheels=$2 && shift ;;
        --out) out=$2 && shift ;;
        -*) echo "on_gpu.sh: $1: there is no such option; --tiny, --wheels FOLDER, --out FOLDER" >&2 && exit 2 ;;
        *) chosen+=("$1") ;;
    esac
    shift
done
for part in ${chosen[@]+"${chosen[@]}"}; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || { echo "on_gpu.sh: $part: no such part; ${PARTS[*]}" >&2 && exit 2; }
done

python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
mkdir -p "$out"
BENCHMARK_RESULTS=$(cd "$out" && pwd)
export BENCHMARK_RESULTS PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl || exit 2
    PYTHONPATH="$PYTHONPATH:$site"
fi

arguments_of() { # what a part is called with
    case $1-$tiny in
        attention-no) echo "gpu_attention.py" ;;
        attention-yes) echo "gpu_attention.py --batch 2" ;;
        ops-no) echo "nonlocal_ops.py --device cuda --batch 8" ;;
        ops-yes) echo "nonlocal_ops.py --pairwise dot_product gaussian --frames 8 --rounds 1 --name nonlocal_ops_cuda" ;;
        block-no) echo "nonlocal_block.py --device cuda --dtype bfloat16" ;;
        block-yes) echo "nonlocal_block.py --stages res4 --frames 1 --rounds 1 --name nonlocal_block_cuda" ;;
        step_8x8-no) echo "training_step.py --device cuda --lengths 8x8 --out $BENCHMARK_RESULTS/training_step_8x8.json" ;;
        step_32x2-no) echo "training_step.py --device cuda --lengths 32x2 --steps 0 --out $BENCHMARK_RESULTS/training_step_32x2.json" ;;
        step_*-yes) echo "training_step.py --tiny --out $BENCHMARK_RESULTS/training_$1.json" ;;
        models-no) echo "video_models.py --device cuda" ;;
        models-yes) echo "video_models.py --tiny --out $BENCHMARK_RESULTS/video_models_cuda.json" ;;
        detection-no) echo "detection_training.py" ;;
        detection-yes) echo "detection_training.py --tiny" ;;
        decoding-no) echo "gpu_decoding.py --device cuda" ;;
        decoding-yes) echo "gpu_decoding.py --clips 2" ;;
    esac
}

if [ $tiny = yes ]; then export TRITON_INTERPRET=1; fi
[ ${#chosen[@]} -gt 0 ] || chosen=("${PARTS[@]}")
[ $tiny = no ] || chosen=("${chosen[@]/step_32x2/}") # the same small network
failed=()
for part in ${chosen[@]}; do # without quotes: a part that was taken out is an empty word
    read -ra words <<< "$(arguments_of "$part")"
    began=$SECONDS
    if timeout --kill-after=10 $MOST_S "$python" "benchmarks/${words[0]}" "${words[@]:1}" > "$out/$part.log" 2>&1; then
        echo "$part: done in $((SECONDS - began)) s"
    else
        echo "$part: failed with exit code $? after $((SECONDS - began)) s; the end of $out/$part.log:"
        tail -n 5 "$out/$part.log"
        failed+=("$part")
    fi
done
"$python" benchmarks/gpu_table.py "$out"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" && exit 1; }
