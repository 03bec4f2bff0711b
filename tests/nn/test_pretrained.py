"""Models of the transformers library come back from a folder as they were."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from visgen.nn.pretrained import load_pretrained, save_pretrained


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_tied_weights_are_stored_once(tmp_path, dtype):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, tie_word_embeddings=True, **sizes))
    save_pretrained(model, tmp_path, dtype)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(tuple(tensor.shape) == (40, 16) for tensor in stored.values()) == 1
    assert {tensor.dtype for tensor in stored.values()} == {dtype or torch.float32}
    again = load_pretrained("LlamaForCausalLM", tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    for name, tensor in model.state_dict().items():
        assert torch.allclose(again.state_dict()[name], tensor, atol=1e-3)
