"""How a model is scored."""
