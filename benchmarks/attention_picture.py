"""The gallery of the README: what glyphs of built-in clips attend to in the demo's network, as a picture.

python benchmarks/attention_picture.py RUN docs/attention.png
"""

import io
import sys

import torch
from PIL import Image

from nlnet import from_pretrained
from nlnet.attention import explain
from nlnet.attention.pictures import figure, sharpest
from nlnet.data.batches.clip_transforms import prepare_clips
from nlnet.data.synthetic.clips import render

CLIPS, LINKS, WIDTH = (33, 35, 39), 6, 1200  # of the test split: clips whose first glyph is a diamond or a square


def main(run: str, target: str) -> None:
    net = from_pretrained(run)
    rows = []
    for index in CLIPS:
        frames, _ = render("test", index)
        inputs = prepare_clips([torch.from_numpy(frames)], torch.zeros(1, dtype=torch.bool), frames.shape[1])
        found = explain(net, inputs, kind="multilabel", deletion=False)
        block = found.blocks[-1]
        rows.append(Image.open(io.BytesIO(figure(found.frames, block, sharpest(block), LINKS))))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), (255, 255, 255))
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    small = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    small.quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
