"""A tiny Something-Something: its own files, and real WebM videos."""

import json
from pathlib import Path

from helpers.videos import make_video

LABELS = {"Pushing something left": "1", "Holding something": "0", "Putting something on something": "2"}
TEMPLATES = ["Pushing [something] left", "Holding [something]", "Putting [something] on [something]"]


def write_something(root: Path, prefix: str = "something-something-v2-") -> Path:
    """The published layout: labels apart from the folder of <id>.webm files."""
    (root / "labels").mkdir(parents=True)
    (root / "videos").mkdir()
    for split, first, count in (("train", 10, 4), ("validation", 20, 2), ("test", 30, 1)):
        rows = [
            {
                "id": str(first + k),
                "label": "pushing a cup left",
                "template": TEMPLATES[k % 3],
                "placeholders": ["a cup"],
            }
            for k in range(count)
        ]
        rows = [{"id": row["id"]} for row in rows] if split == "test" else rows
        (root / "labels" / f"{prefix}{split}.json").write_text(json.dumps(rows))
        for k in range(count):
            frames = [83 * number for number in range(6 + k)]  # 12 frames a second
            video = make_video(frames, kind="webm", codec="libvpx-vp9", rate=12, options={"cpu-used": "8"})
            (root / "videos" / f"{first + k}.webm").write_bytes(video)
    (root / "labels" / f"{prefix}labels.json").write_text(json.dumps(LABELS))
    return root
