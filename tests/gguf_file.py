"""GGUF files of small models."""

from __future__ import annotations

import numpy as np


def write_gguf(path, model, **extra):
    """A model in GGUF's form, as llama.cpp writes it."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if "scaling" in extra:
        writer.add_rope_scaling_type(extra["scaling"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*(chr(33 + i) for i in range(config.vocab_size - 1)), "AB"])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["A B"])
    writer.add_eos_token_id(0)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
        "model.layers": "blk",
    }  # fmt: skip
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if "q_proj" in name or "k_proj" in name:  # rotary pairs lie side by side there
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            pairs = values.reshape(heads, 2, len(values) // heads // 2, -1)
            values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
        for theirs, short in names.items():
            name = name.replace(theirs, short)
        writer.add_tensor(name, values)
    if "divisors" in extra:
        writer.add_tensor("rope_freqs.weight", extra["divisors"].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
