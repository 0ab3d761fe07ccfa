"""The figures of a results file as pycocotools alone computes them: a program of its own, without nlnet.

`python coco_process.py TRUTH RESULTS KIND [SIGMA ...]` prints them as JSON; KIND is bbox, segm or keypoints.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def judge(truth: Path, results: Path, kind: str, sigmas: Sequence[float] = ()) -> list[float]:
    """Run this file in a new process."""
    command = [sys.executable, __file__, str(truth), str(results), kind, *map(str, sigmas)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def main() -> None:
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results, kind, *sigmas = sys.argv[1:]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        entries = json.loads(Path(results).read_text())
        if kind == "segm":  # so that areas are those of the masks
            entries = [{name: value for name, value in entry.items() if name != "bbox"} for entry in entries]
        evaluation = COCOeval(coco, coco.loadRes(entries), kind)
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array([float(sigma) for sigma in sigmas])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    print(json.dumps([float(value) for value in evaluation.stats]))


if __name__ == "__main__":
    main()
