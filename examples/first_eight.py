"""Draws the first eight held-out individuals, not chosen: reference | four prompts by the student | truth of the last.

python examples/first_eight.py docs/images/first_eight.png
"""

import sys
import tempfile
from pathlib import Path

from dsd.baselines.dsd_method import TwoFrameStudent
from dsd.evaluate import pictures
from dsd.images import contact_sheet
from dsd_world.benchmark import DrawnBenchmark
from dsd_world.recipe import DRAWING

benchmark = DrawnBenchmark(subjects=8).build()
student = TwoFrameStudent.load("embedded:tiny-flux", "embedded:tiny-student", DRAWING)
with tempfile.TemporaryDirectory() as folder:
    drawn = pictures.read(benchmark, pictures.draw(benchmark, student, Path(folder)))
rows = [
    [subject.reference, *of_student.asked.images, subject.truths[-1]]
    for subject, of_student in zip(benchmark.subjects, drawn, strict=True)
]
labels = ["reference", "1", "2", "3", "4", "truth of 4"]
sheet = contact_sheet(rows, labels=labels, row_labels=[subject.subject for subject in benchmark.subjects])
Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
sheet.save(sys.argv[1])
for number, subject in enumerate(benchmark.subjects, start=1):
    print(number, " | ".join(subject.prompts))
