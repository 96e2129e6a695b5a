"""Model folders as people have them: what is wrong is one line, and never random weights."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rdslib.errors import MEMORY, UserError
from rdslib.models import folder as folders
from rdslib.models.folder import contents_of, folder_of, point_to, pointed
from rdslib.models.loading import convert_gguf, fault, load_adapter, load_causal_lm, load_tokenizer
from tests.command import refused
from tests.gguf_file import write_gguf

GPTQ = {"quant_method": "gptq", "bits": 4}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A copy of the tiny model, to be changed."""
    return shutil.copytree(tiny_model, tmp_path / "copy")


def change_weights(folder, change):
    """Write what `change` makes of the weights by name; they are read before."""
    before = load_file(folder / "model.safetensors")
    save_file(change(dict(before)), folder / "model.safetensors", metadata={"format": "pt"})


def change_json(folder, name="config.json", **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_known_prefixes_are_taken_off_and_stay_off(copy, tiny_model, tmp_path, prefix):
    change_weights(copy, lambda weights: {prefix + name: each for name, each in weights.items()})
    found = load_causal_lm(copy, torch.float32)
    expected = load_causal_lm(tiny_model, torch.float32).state_dict()
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
    found.save_pretrained(tmp_path / "saved")
    assert not any(name.startswith(prefix) for name in load_file(tmp_path / "saved" / "model.safetensors"))


@pytest.mark.parametrize(
    ("change", "config", "expected"),
    [
        (lambda w: {k: v for k, v in w.items() if k != LAYER}, {}, rf"1 missing \({LAYER}\)"),
        (lambda w: w, {"tie_word_embeddings": False}, r"1 missing \(lm_head\.weight\)"),
        (lambda w: w, {"num_hidden_layers": 3}, r"9 missing \(model\.layers\.2\..*, \.\.\.\)"),
        (lambda w: w, {"num_hidden_layers": 1}, r"9 unexpected \(model\.layers\.1\."),
        (lambda w: {**w, "v_head.weight": torch.zeros(2)}, {}, r"1 unexpected \(v_head\.weight\)"),
        (lambda w: {**w, LAYER: torch.zeros(3, 4)}, {}, rf"1 mismatched \({LAYER}\)"),
        (lambda w: {"base." + k: v for k, v in w.items()}, {}, r"21 missing .*, 20 unexpected "),
        (lambda w: {**w, LAYER: w[LAYER] / 0}, {}, rf"weights {LAYER} are not all numbers"),
    ],
)
def test_weights_that_are_not_the_architectures_are_named(copy, change, config, expected):
    change_weights(copy, change)
    change_json(copy, **config)
    with pytest.raises(UserError, match=f"^model {copy}: .*{expected}") as error:
        load_causal_lm(copy)
    assert "\n" not in str(error.value)


def lfs(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def newer_tokenizer(folder):
    core = json.loads((folder / "tokenizer.json").read_text())
    change_json(folder, "tokenizer.json", model={**core["model"], "type": "Newer", "merges": 3})


def own_code(folder, what="config.json", **changes):
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    auto_map = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoTokenizer": ["mine.T", None]}
    change_json(folder, what, auto_map=auto_map, **(changes or {"model_type": "mine"}))


def own_tokenizer(folder):
    own_code(folder, "tokenizer_config.json", tokenizer_class="Mine")


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lfs, "model.safetensors is a Git LFS pointer; run `git lfs pull` there"),
        (cut_short, "copy or download the model again"),
        (newer_tokenizer, "pip install -U tokenizers"),
        (own_code, "runs code that comes with it"),
        (own_tokenizer, "runs code that comes with it"),
        (pickled, "save it with `save_pretrained`, which writes safetensors"),
        (lambda f: change_json(f, model_type="of_next_year"), "pip install -U transformers"),
        (lambda f: change_json(f, quantization_config=GPTQ), "install the package that its quantisation"),
        (lambda f: change_json(f, quantization_config=BNB), "install the package that its quantisation"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
        (lambda f: (f / "config.json").unlink(), "cannot be loaded"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "is a LoRA adapter; merge it"),
        (lambda f: shutil.rmtree(f), "there is no such folder"),
    ],
)
def test_faults_of_a_folder_are_one_line_with_a_cure(copy, spoil, expected, monkeypatch):
    def asked(*_):
        raise AssertionError("asked on standard input")

    monkeypatch.setattr("builtins.input", asked)
    spoil(copy)
    with pytest.raises(UserError, match=f"^model {copy}: .*{expected}") as error:  # noqa: PT012  # either
        load_tokenizer(copy)
        load_causal_lm(copy)
    assert "\n" not in str(error.value)
    assert not (copy / "ran").exists()


def test_tokens_beyond_the_embedding_are_refused(copy):
    tokenizer = load_tokenizer(copy)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(UserError, match="its tokenizer has token 257, and it has 257 embeddings"):
        load_tokenizer(copy)
    shutil.copytree(copy, copy.with_name("eos"))
    change_json(copy.with_name("eos"), vocab_size=256)
    with pytest.raises(UserError, match="and it has 256 embeddings"):
        load_tokenizer(copy.with_name("eos"))


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def adapter(tiny_model, tmp_path):
    model = get_peft_model(load_causal_lm(tiny_model), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", ["default", "epoch-1"])
def test_a_sound_adapter_is_loaded_beside_others(adapter, tiny_model, name):
    model = load_adapter(load_causal_lm(tiny_model), adapter, name)
    assert load_adapter(model, adapter, "second") is model
    assert set(model.peft_config) == {name, "second"}


NOT_ITS = "its weights are not those of its adapter_config.json on this model: "


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: {k: v for k, v in w.items() if k != KEY}, f"{NOT_ITS}1 missing ({KEY})"),
        (lambda w: {**w, "other": w[KEY]}, f"{NOT_ITS}1 unexpected (other)"),
        (lambda w: {f"module.{k}": v for k, v in w.items()}, f"{NOT_ITS}4 missing ({KEY}"),
        (lambda w: {**w, KEY: w[KEY] / 0}, f"{NOT_ITS}{KEY} not all numbers (NaN)"),
        (lambda w: {**w, KEY: w[KEY][:1]}, "cannot be loaded (Error(s) in loading state_dict"),
        (lambda w: None, "cannot be loaded ("),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_that_does_not_match_is_one_line(adapter, tiny_model, tmp_path, change, expected, beside):
    model = load_causal_lm(tiny_model)
    if beside:
        model = load_adapter(model, adapter, "sound")
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    weights = change(load_file(adapter / "adapter_model.safetensors"))
    if weights is None:
        (broken / "adapter_model.safetensors").write_bytes(b"cut")
    else:
        save_file({key: each.clone() for key, each in weights.items()}, broken / "adapter_model.safetensors")
    with pytest.raises(UserError) as error:
        load_adapter(model, broken)
    assert f"adapter {broken}: {expected}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_command_ends_with_one_line(copy, tmp_path, capsys):
    change_weights(copy, lambda weights: {k: v for k, v in weights.items() if k != LAYER})
    (tmp_path / "pool.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    given = ("--pool", tmp_path / "pool.jsonl", "--model", copy, "-k", 1, "--method", "top_ppl")
    line = refused(capsys, "select", *given, "--out", tmp_path / "out.jsonl", home=tmp_path / "home")
    assert f"model {copy}: its weights are not those of LlamaForCausalLM: 1 missing ({LAYER})" in line
    assert not (tmp_path / "out.jsonl").exists()


def test_names_that_are_no_folder(monkeypatch, tmp_path):
    for name in ("./none", tmp_path / "none", "a/b/c", "none/"):
        with pytest.raises(UserError, match="there is no such folder"):
            folder_of(name)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"^model out/of-reach: is no folder here, and the hub is out of reach"
    ):
        folder_of("out/of-reach")
    assert contents_of("out/of-reach") == []


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "GatedRepo", "accept its terms on https://huggingface.co/{}, and set HF_TOKEN"),
        (401, "RepoNotFound", "see .* if it is private, set HF_TOKEN"),
        (404, "RepoNotFound", "see whether there is https://huggingface.co/{}"),
        (500, "", "try again later"),
    ],
)
def test_what_the_hub_refuses_names_the_page_or_the_token(monkeypatch, status, code, expected):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        name = f"an/answer-{status}"
        with pytest.raises(UserError, match=rf"status {status}\); {expected.format(name)}"):
            folder_of(name)
        server.shutdown()


def test_a_hubs_model_is_its_commit(tiny_model, tmp_path, monkeypatch):
    """What was fetched before is used while the hub is out of reach, and another commit is another model."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(folders, "_commit", folders._commit.__wrapped__)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for commit in ("a" * 40, "b" * 40):
        there = cache / "models--some--model"
        shutil.copytree(tiny_model, there / "snapshots" / commit)
        (there / "refs").mkdir(exist_ok=True)
        (there / "refs" / "main").write_text(commit)
        assert contents_of("some/model") == [["commit", commit]]
        out = tmp_path / commit
        out.mkdir()
        point_to("some/model", out)
        assert pointed(out) == there / "snapshots" / commit
    assert pointed(tmp_path / ("a" * 40)).name == "a" * 40
    assert len(load_tokenizer("some/model")) == 257


def test_contents_are_what_files_hold(copy):
    """Another tokenizer, chat template or weight of the same size and time is another model."""
    seen = [contents_of(str(copy))]
    for name in ("tokenizer.json", "chat_template.jinja", "model.safetensors", "1_Pooling/config.json"):
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        before = path.stat() if path.exists() else None
        data = path.read_bytes() if before else b"first"
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        if before:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert path.stat().st_size == before.st_size
        seen.append(contents_of(str(copy)))
    (copy / "checkpoint-3").mkdir()
    (copy / "checkpoint-3" / "model.safetensors").touch()
    (copy / "optimizer.pt").touch()
    assert contents_of(str(copy)) == seen[-1]
    assert len({str(each) for each in seen}) == len(seen)


@pytest.fixture(scope="module")
def llama_3():
    """A tiny model with Llama 3.1's scaling of positions, and the divisors that its GGUF file has."""
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500_000.0,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=90, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=131_072, tie_word_embeddings=False,
        rope_parameters=scaling,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16).float()
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    return model, 500_000.0 ** -(np.arange(0, 32, 2) / 32) / scaled.numpy()


def test_a_gguf_keeps_its_scaling_of_positions(llama_3, tmp_path, capfd):
    model, divisors = llama_3
    assert np.ptp(divisors) > 6
    write_gguf(tmp_path / "m.gguf", model, divisors=divisors)
    convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert capfd.readouterr().err == "", "no bar beside the line of progress"
    found = load_causal_lm(tmp_path / "out", torch.float32)
    ids = torch.arange(60)[None] % 90
    far = torch.arange(60)[None] * 1000
    with torch.inference_mode():
        expected = model(ids, position_ids=far).logits
        torch.testing.assert_close(found(ids, position_ids=far).logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "extra", [{"divisors": np.linspace(1, 9, 16)}, {"scaling": "linear"}], ids=["others", "linear"]
)
def test_a_gguf_whose_scaling_is_not_known_is_refused(llama_3, tmp_path, extra):
    import gguf

    if "scaling" in extra:
        extra = {"scaling": gguf.RopeScalingType.LINEAR}
    write_gguf(tmp_path / "m.gguf", llama_3[0], **extra)
    with pytest.raises(UserError, match="scales positions in a way that is not read from a GGUF file"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


def change_gguf(path, key, skip, value):
    """Put other bytes behind a key of a header; where they end."""
    data = path.read_bytes()
    at = data.index(key.encode()) + len(key) + skip
    path.write_bytes(data[:at] + value + data[at + len(value) :])
    return at + len(value)


@pytest.mark.parametrize("key", ["block_count", "feed_forward_length"])
def test_a_gguf_that_says_it_is_larger_than_it_is_takes_no_memory(llama_3, tmp_path, key):
    write_gguf(tmp_path / "m.gguf", llama_3[0])
    change_gguf(tmp_path / "m.gguf", f"llama.{key}", 4, (2**30).to_bytes(4, "little"))
    with pytest.raises(UserError, match=r"it is said to have (1073741824 blocks|412,3.* weights), and has"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


def test_a_gguf_whose_list_goes_on_beyond_its_end_is_not_read_for_ever(llama_3, tmp_path):
    write_gguf(tmp_path / "m.gguf", llama_3[0])
    bytes_without_end = bytes(4) + (2**60).to_bytes(8, "little")
    end = change_gguf(tmp_path / "m.gguf", "tokenizer.ggml.token_type", 4, bytes_without_end)
    os.truncate(tmp_path / "m.gguf", end + 10)
    with pytest.raises(UserError, match="it is cut short"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.parametrize("text", MEMORY)
def test_a_model_that_memory_does_not_hold_says_so(text):
    assert "use a device with more memory" in str(fault("model x: cannot be loaded", RuntimeError(text)))
