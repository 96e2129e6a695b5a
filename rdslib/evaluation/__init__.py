"""How a model is scored: by likelihood, by the paper's protocols, and with intervals."""
