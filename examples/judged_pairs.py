"""Shows what the judge kept and what it rejected, with its words: the first pairs of each kind, not chosen.

python examples/judged_pairs.py runs/demo/dataset docs/images/judged_pairs.png
"""

import sys
from itertools import groupby
from pathlib import Path

from dsd.images import contact_sheet
from dsd_world.demo_data import pair_views

SHOWN = 4  # of each kind

rows, labels = [], []
for kept, views in groupby(pair_views(Path(sys.argv[1])), key=lambda view: view.kept):
    some = list(views)[:SHOWN]
    rows.append([picture for view in some for picture in (view.first, view.second)])
    labels.append("kept" if kept else "rejected")
    for number, view in enumerate(some, start=1):
        print(f"{labels[-1]} {number}: " + "\n  ".join(f"{what}: {said}" for what, said in view.words.items() if said))
Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
contact_sheet(rows, labels=["first", "second"] * SHOWN, row_labels=labels).save(sys.argv[2])
