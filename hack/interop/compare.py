"""Loads a folder with transformers and compares what it computes with what bistro-worker wrote.

usage: compare.py DIR TEXT CONTEXT LOGITS EVALUATED PROMPT GENERATED
LOGITS is what `evaluate --logits` wrote, EVALUATED and GENERATED are the JSON of `evaluate` and `generate`.
Prints one line with the figures; a difference that is too large ends it with 1.
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

# Between logits, and between losses in nats per token.
TOLERANCE = 1e-4


def main():
    folder, text, context, logits, evaluated, prompt, generated = sys.argv[1:]
    context = int(context)
    text = open(text, newline="").read()
    evaluated = json.load(open(evaluated))[0]
    generated = json.load(open(generated))
    ours = load_file(logits)["logits"]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    assert tokenizer.decode(tokens) == text, "the tokenizer does not give the text back"

    with torch.no_grad():
        rows = [
            model(tokens[start : min(start + context, len(tokens) - 1)][None]).logits[0]
            for start in range(0, len(tokens) - 1, context)
        ]
    theirs = torch.cat(rows).float()
    assert theirs.shape == ours.shape, f"{tuple(theirs.shape)} and {tuple(ours.shape)}"
    difference = (theirs - ours).abs().max().item()
    losses = torch.nn.functional.cross_entropy(theirs.double(), tokens[1:], reduction="none")
    loss, accuracy = losses.mean().item(), (theirs.argmax(1) == tokens[1:]).double().mean().item()

    start = torch.tensor(tokenizer.encode(prompt, add_special_tokens=False))
    assert generated["prompt"] == start.tolist(), "the prompt has other tokens"
    count = len(generated["tokens"])
    with torch.no_grad():
        written = model.generate(
            start[None], attention_mask=torch.ones_like(start)[None], max_new_tokens=64, do_sample=False
        )
    written = written[0, len(start) :].tolist()
    same = written == generated["tokens"]

    spread = (theirs.max() - theirs.min()).item()
    print(
        f"BENCH interop difference={difference:.1e} spread={spread:.1f} loss={loss:.6f} ours={evaluated['loss']:.6f} "
        f"accuracy={accuracy:.4f} generated={count} same={same}"
    )
    assert difference < TOLERANCE and abs(loss - evaluated["loss"]) < TOLERANCE, "logits differ"
    assert evaluated["tokens"] == len(tokens) - 1 and abs(accuracy - evaluated["accuracy"]) < 1e-5, "counts differ"
    assert same and (count == 64 or generated["tokens"][-1] == model.generation_config.eos_token_id), written


main()
