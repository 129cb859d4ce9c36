"""The text side: a small byte-level BPE in CLIP's format whose vocabulary is the captions' own words."""

import json
from collections import Counter
from pathlib import Path

import backgrounds
import torch
from compose import STYLES
from drawings import Record
from nouns import ANIMALS, with_article
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LENGTH = 16
VOCABULARY = 1024
START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = Regex(r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")


def _corpus(records: list[Record]) -> Counter[str]:
    """Captions and how much they count: whatever must become one token counts for thousands."""
    counts: Counter[str] = Counter({with_article(record.noun): 1 for record in records})
    places = "on a gradient background, in a field, in the sea, at night, on stripes, on dots, on checks, nothing"
    words = [*ANIMALS, *backgrounds.COLOURS, *places.replace(",", "").split(), *STYLES.values(), "style"]
    counts.update(dict.fromkeys(words, 2000))
    return counts


def train_tokenizer(records: list[Record], folder: Path) -> CLIPTokenizer:
    """Learn the merges with `tokenizers`, then lay the vocabulary out as CLIP does: bytes, bytes</w>, merges, marks."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4 * VOCABULARY, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    lines = [text for text, count in sorted(_corpus(records).items()) for _ in range(count)]
    tokenizer.train_from_iterator(lines, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(piece + "</w>" for piece in alphabet)]
    merges = merges[: VOCABULARY - len(pieces) - 2]
    vocabulary = [*pieces, *("".join(merge) for merge in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    result = CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)
    for animal in ANIMALS:
        assert len(result(animal).input_ids) == 3, f"{animal} is not one token"
    result.save_pretrained(folder)
    return result


def load_tokenizer(cache: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(cache / "tokenizer")


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(len(captions), LENGTH) int64: padded and cut exactly as `StableDiffusionPipeline.encode_prompt` does."""
    different = sorted(set(captions))
    ids = tokenizer(different, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    rows = {caption: row for row, caption in enumerate(different)}
    return torch.tensor(ids)[[rows[caption] for caption in captions]]


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of 128: half a million parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)
