"""Whisper's architecture in plain PyTorch, for training.

Parameter names are Hugging Face's, so that a state dict loads there as it is. Beyond the published
model: a second first convolution for 128 mels (exported apart), a phoneme head for the encoder, and
scores of chosen cross-attention heads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

GUIDED_HEADS = ((1, 0), (1, 1), (2, 0))  # (decoder layer, head) that are taught where words are


@dataclass(frozen=True, slots=True)
class Shape:
    vocabulary: int
    width: int = 256
    heads: int = 4
    encoder_layers: int = 5
    decoder_layers: int = 4
    audio_positions: int = 1500
    text_positions: int = 448

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def sinusoids(length: int, channels: int) -> Tensor:
    """Whisper's fixed positions of the encoder: (length, channels)."""
    scales = torch.exp(
        -torch.arange(channels // 2) * (torch.log(torch.tensor(10_000.0)) / (channels // 2 - 1))
    )
    angles = torch.arange(length)[:, None] * scales[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, memory: Tensor, causal: bool, scored: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """x (b, t, d), memory (b, s, d) -> (b, t, d), and the first heads' scores before softmax
        (b, scored, t, s).
        """
        b, t, d = x.shape
        q = self.q_proj(x).view(b, t, self.heads, -1).transpose(1, 2)
        k = self.k_proj(memory).view(b, memory.shape[1], self.heads, -1).transpose(1, 2)
        v = self.v_proj(memory).view(b, memory.shape[1], self.heads, -1).transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        scores = (
            (q[:, :scored] @ k[:, :scored].transpose(2, 3)) * q.shape[-1] ** -0.5
            if scored
            else None
        )
        return self.out_proj(out.transpose(1, 2).reshape(b, t, d)), scores


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, False)[0]
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(width, heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, audio: Tensor, scored: int) -> tuple[Tensor, Tensor | None]:
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, True)[0]
        y, scores = self.encoder_attn(self.encoder_attn_layer_norm(x), audio, False, scored)
        x = x + y
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x)))), scores


class Encoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.width
        self.conv1 = nn.Conv1d(80, d, 3, padding=1)
        self.conv1_128 = nn.Conv1d(128, d, 3, padding=1)
        self.conv2 = nn.Conv1d(d, d, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(shape.audio_positions, d)
        self.embed_positions.weight = nn.Parameter(
            sinusoids(shape.audio_positions, d), requires_grad=False
        )
        self.layers = nn.ModuleList(
            [EncoderLayer(d, shape.heads) for _ in range(shape.encoder_layers)]
        )
        self.layer_norm = nn.LayerNorm(d)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (b, 80 or 128, 2 n) -> (b, n, d)."""
        first = self.conv1 if mel.shape[1] == 80 else self.conv1_128
        x = functional.gelu(self.conv2(functional.gelu(first(mel)))).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.width
        self.embed_tokens = nn.Embedding(shape.vocabulary, d)
        self.embed_positions = nn.Embedding(shape.text_positions, d)
        self.layers = nn.ModuleList(
            [DecoderLayer(d, shape.heads) for _ in range(shape.decoder_layers)]
        )
        self.layer_norm = nn.LayerNorm(d)

    def forward(self, ids: Tensor, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """ids (b, t), audio (b, n, d) -> hidden states (b, t, d), and the guided heads' scores (b,
        heads, t, n).
        """
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        x = x.to(audio.dtype)
        guided = []
        for i, layer in enumerate(self.layers):
            x, scores = layer(x, audio, sum(1 for number, _ in GUIDED_HEADS if number == i))
            if scores is not None:
                guided.append(scores)
        return self.layer_norm(x), guided


class Whisper(nn.Module):
    def __init__(self, shape: Shape, n_phonemes: int) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
        self.phonemes = nn.Linear(shape.width, n_phonemes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module.weight.requires_grad:
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def logits(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.decoder.embed_tokens.weight)
