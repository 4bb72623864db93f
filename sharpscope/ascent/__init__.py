"""What a training rule climbs with: probes, perturbations, masks and their scores."""
