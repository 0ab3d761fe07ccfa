"""The index of all experiments: the published row that each repeats, its network, clip, batch, length and cost.

Rows and published figures are read from the first lines of the experiments' files, the rest from what they compose to.
Billions of multiply-adds are counted on meta tensors, for one training clip, one image of 800 x 1088, or one crop.

    python benchmarks/experiments_table.py [--out benchmarks/results/experiments.json] [--page docs/experiments.md]
"""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from nlnet import build_model
from nlnet.config.compose import compose
from nlnet.data.segmentation.layouts import find_layout
from nlnet.models import describe
from nlnet.models.detection.build import build_detector
from nlnet.models.detection.summary import describe_detector
from nlnet.models.graphs.build import build_region_graph
from nlnet.models.probe import multiply_adds
from nlnet.models.segmentation.build import build_segmenter

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs" / "experiment"
IMAGE = (800, 1088)
CLASSES, PERSONS = 80, 1

SECTIONS = {
    "kinetics": "Kinetics",
    "charades": "Charades",
    "ssv1": "Something-Something v1",
    "coco": "COCO",
    "cityscapes": "Cityscapes: segmentation",
    "ade20k": "ADE20K: segmentation",
    "voc": "VOC: segmentation",
    "table2a": "Table 2a: pairwise functions",
    "table2b": "Table 2b: where the block is",
    "table2c": "Table 2c: how many blocks",
    "table2d": "Table 2d: space, time, or both",
    "table2e": "Table 2e: non-local blocks or 3D convolutions",
    "table2f": "Table 2f: both together",
    "table2g": "Table 2g: 128 frames",
    "table3": "Table 3: Kinetics",
    "table4": "Table 4: Charades",
    "table5": "Table 5: Mask R-CNN on COCO",
    "table6": "Table 6: Keypoint R-CNN on COCO",
}
LEFT_OUT = ("ablation_", "denoise_")
"""What experiments begin with that the index leaves out: those on built-in clips, which repeat no published row, and
those of docs/restoration.md."""

_ROW = r"(?:Table \d[a-g]?|Released|Long-Term Feature Banks|Space-Time Region Graphs|GCNet|mmsegmentation), [^:\n]+"
_FIGURE = r"(?:\d\d\.\d\d? (?:top-1|mAP|mIoU|(?:box|mask|keypoint) AP)|no figure)"
_SOURCE = rf"# ({_ROW}: {_FIGURE}(?:, {_FIGURE})*)\n"
_HEADER = re.compile(
    rf"# @package _global_\n(?P<sources>(?:{_SOURCE})+)"
    r"(?:(?:# [^\n]+\n)*defaults: \[(?P<alias>\w+)\]\n\Z|# (?P<what>[^\n]+\.)\n(?:# [^\n]+\n)*defaults:\n)"
)
_PATTERN = """\
# @package _global_
# SOURCE, ROW: FIGURE UNIT      (one line for each row that it repeats, such as "Table 2f, C2D R50: 71.8 top-1")
# What it is, in one line that ends with a full stop.      (then, where needed, more lines)
defaults:
or, for another name of an experiment, nothing but lines of comment and `defaults: [EXPERIMENT]` after the rows."""


@dataclass(frozen=True)
class Header:
    """The first lines of an experiment's file."""

    sources: list[str]
    """Such as "Table 2f, C2D R50: 71.8 top-1"."""
    what: str
    alias: str | None
    """The experiment that this is another name of."""


def header(experiment: str, folder: Path = FOLDER) -> Header:
    """Raises ValueError if the file does not begin as all do."""
    path = folder / f"{experiment}.yaml"
    match = _HEADER.match(path.read_text())
    if match is None:
        raise ValueError(f"{path.name}: its first lines have to be\n{_PATTERN}")
    return Header(re.findall(_SOURCE, match["sources"]), match["what"] or "", match["alias"])


def columns(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What the index says of a composed experiment; its `data`, `model`, `trainer` and `epochs` are enough."""
    data, model, steps = recipe["data"], recipe["model"], recipe["trainer"]["max_steps"]
    return {
        "network": _network(model),
        "clip": _clip(data),
        "batch": f"{data['batch_size']}",
        "length": f"{steps // 1000}k, {recipe['epochs']}",
    }


def _clip(data: Mapping[str, Any]) -> str:
    if "crop" in data:
        return " x ".join(map(str, data["crop"]))
    if "short_sides" in data:
        return f"{data['short_sides'][-1]}"
    rate = f" at {data['fps']} fps" if data.get("fps") else ""
    return f"{data['frames']}x{data['stride']}{rate}, {data['size']}"


def _network(model: Mapping[str, Any]) -> str:
    parts = [" ".join([model["name"], *([model["backbone"]] if "backbone" in model else [])])]
    parts += [f"{model['graph']} graph"] if "graph" in model else []
    blocks, head = model.get("nonlocal_blocks", 0), model.get("head_blocks", 0)
    if blocks:
        parts.append(f"{blocks} NL" if isinstance(blocks, int) else f"NL in {blocks}")
    if head:
        parts.append(f"{head} NL in the head")
    return ", ".join(parts)


def gmacs(experiment: str) -> float:
    """Billions of multiply-adds for one clip or image of an experiment's network."""
    cfg = compose([f"experiment={experiment}"])
    options: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    del options["_target_"]
    with torch.device("meta"):
        if cfg.task.kind == "detection":
            detector = build_detector(**options, num_classes=PERSONS if cfg.data.keypoints else CLASSES)
            return round(describe_detector(detector, IMAGE).gmacs, 1)
        if cfg.task.kind == "segmentation":
            segmenter = build_segmenter(**options, num_classes=len(find_layout(ROOT, cfg.data.dataset).classes))
            return round(multiply_adds(segmenter, (1, 3, *cfg.data.crop)) / 1e9, 1)
        regions = [(cfg.data.region_frames, cfg.data.regions_per_frame, 4)] if "graph" in options else []
        network = build_region_graph(**options, num_classes=CLASSES) if regions else build_model(**options)
    return round(describe(network, (3, cfg.data.frames, cfg.data.size, cfg.data.size), *regions).gmacs, 1)


def markdown(headers: Mapping[str, Header], recipes: Mapping[str, Any], costs: Mapping[str, float]) -> str:
    """The page: a table for each section of `SECTIONS`."""
    text = _INTRODUCTION
    for prefix, title in SECTIONS.items():
        rows = [name for name in headers if name.split("_")[0] == prefix]
        text += f"\n## {title}\n\n| experiment | repeats | what it is | network | clip | batch | length | GMACs |\n"
        text += "| --- | --- | --- | --- | --- | ---: | --- | ---: |\n"
        for name in rows:
            cells = [f"`{name}`", "<br>".join(headers[name].sources)]
            if (alias := headers[name].alias) is not None:
                cells += [f"= `{alias}`", *[""] * 5]
            else:
                cells += [headers[name].what, *columns(recipes[name]).values(), f"{costs[name]:,.1f}"]
            text += f"| {' | '.join(cells)} |\n"
    return text


_INTRODUCTION = """# The experiments

`python src/train.py experiment=NAME` trains one. Made by `python benchmarks/experiments_table.py`.

- *repeats*: the rows of the paper's tables, or the released runs, whose recipe this is, with what their authors report.
  These are not results of this project.
- *what it is*: `= NAME` is another name of the same recipe, so that every row of a table can be called by its own.
- *network*: `model.name`, with its non-local blocks (NL).
- *clip*: frames x stride, the rate of the video where `data.fps` sets one, and the side of the training crop; for
  images the short side, for segmentation height x width of the crop. *batch* is that of all ranks.
- *length*: iterations, and about how many epochs that is (`length=epochs` trains so long).
- *GMACs*: billions of multiply-adds, forward, for one training clip, one image of 800 x 1088, or one crop.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "experiments.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "experiments.md")
    arguments = parser.parse_args()
    names = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith(LEFT_OUT))
    headers = {name: header(name) for name in names}
    distinct = [name for name in headers if headers[name].alias is None]
    costs = {name: gmacs(name) for name in distinct}
    recipes = {name: OmegaConf.to_container(compose([f"experiment={name}"]), resolve=True) for name in distinct}
    arguments.out.write_text(json.dumps({"counted_on": "meta tensors", "gmacs": costs}, indent=2) + "\n")
    arguments.page.write_text(markdown(headers, recipes, costs))


if __name__ == "__main__":
    main()
