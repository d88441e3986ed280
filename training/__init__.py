"""The parts of a training run: losses, optimiser, schedule, log and files."""
