"""The papers' theorems on problems whose constants are known, measured with the real optimizer."""
