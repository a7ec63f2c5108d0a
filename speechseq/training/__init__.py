"""Everything that needs PyTorch: features, networks, data, the training loop and export."""
