"""Writes a small model with random parameters as transformers writes it, with a tokenizer.

usage: make.py FAMILY DTYPE DIR
FAMILY is llama, llama-tied, gpt2 or gpt2-untied; DTYPE float32, bfloat16 or float16.
"""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
# Twice what one test shows the model at once.
POSITIONS = 192
# Files so small that a model has several.
SHARD = "60KB"


def model(family):
    ends = dict(bos_token_id=None, eos_token_id=None)
    if family.startswith("llama"):
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=POSITIONS, rms_norm_eps=1e-5, rope_theta=50000.0,
            tie_word_embeddings=family.endswith("-tied"), initializer_range=0.15, **ends,
        )
        return LlamaForCausalLM(config)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=6, n_positions=POSITIONS,
        tie_word_embeddings=not family.endswith("-untied"), initializer_range=0.15, **ends,
    )
    return GPT2LMHeadModel(config)


def tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(open(__file__), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def main():
    family, dtype, to = sys.argv[1:]
    torch.manual_seed(7)
    made = model(family)
    # Norms and biases start as ones and zeros: then a mistake with them would not show.
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    made.to(getattr(torch, dtype)).save_pretrained(to, max_shard_size=SHARD)
    tokenizer().save_pretrained(to)


main()
