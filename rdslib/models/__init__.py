"""The language model: loading, encoding, training, gradients."""

import warnings

# Of peft's use of transformers, which nobody but they can change.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
