"""What the embedded 64-pixel model makes of pictures that are not of its world: four emoji, two drawings each.

python examples/emoji.py docs/images/emoji.png
"""

import json
import sys
from pathlib import Path

import torch

from dsd.generate.two_frame import TwoFramePipeline
from dsd.images import contact_sheet, fit, load_image
from dsd.models import resolve

FOLDER = Path(__file__).parent / "pictures" / "emoji"
pipe = TwoFramePipeline.from_pretrained(resolve("embedded:tiny-flux"), adapter=resolve("embedded:tiny-student"))
jobs = [json.loads(line) for line in (FOLDER / "prompts.jsonl").read_text().splitlines()]
rows, labels = [], []
for job in jobs:
    reference, _ = fit(load_image(FOLDER / job["image"]), (64, 64), "pad")
    seeds = [torch.Generator().manual_seed(job["seed"] + number) for number in range(job["n"])]
    drawn = pipe([job["prompt"]] * job["n"], [[reference]] * job["n"], generator=seeds).images
    rows.append([reference, *drawn])
    labels.append(job["prompt"].partition(" in the middle ")[0])
sheet = contact_sheet(rows, labels=["reference", *[f"seed {jobs[0]['seed'] + n}" for n in range(2)]], row_labels=labels)
Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
sheet.save(sys.argv[1])
