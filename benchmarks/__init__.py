"""Speed as ratios to peers that are measured in the same run; ``make bench-NAME`` writes RESULTS.md."""
