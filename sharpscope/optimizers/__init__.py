"""Training rules, the names people know them by, and the one optimizer that runs them."""
