"""The theory's questions, asked of a real training run."""
