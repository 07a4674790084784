"""DreamBench++ (Peng et al., ICLR 2025, arXiv 2406.16855): read, drawn, judged, measured, and its table."""
