"""Network architectures, one module per architecture."""
