"""The language model: loading, encoding, training, gradients."""
