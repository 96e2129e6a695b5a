"""The language model: loading, encoding, training, gradients."""

import warnings

# peft asks transformers by a name that goes with its next major version; nobody who selects can use that.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
