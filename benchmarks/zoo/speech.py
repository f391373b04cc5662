"""Recurrent speech models: convolutions over frames, then LSTM or GRU layers."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Front(nn.Module):
    """Two convolutions over mel frames [batch, mels, frames], each of stride 2: [batch, frames / 4, width]."""

    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(mels, width, 5, 2, padding=2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, 2, padding=2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )

    def forward(self, mel: Tensor) -> Tensor:
        return self.layers(mel).transpose(1, 2)


class Recogniser(nn.Module):
    """Log-probabilities of symbols per frame, as in Deep Speech 2. `cell`: "LSTM" or "GRU", both directions."""

    def __init__(self, cell: str, mels: int, width: int, hidden: int, layers: int, symbols: int) -> None:
        super().__init__()
        self.front = Front(mels, width)
        kind = {"LSTM": nn.LSTM, "GRU": nn.GRU}[cell]
        self.recurrent = kind(width, hidden, layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, symbols)

    def forward(self, mel: Tensor) -> Tensor:
        x, _ = self.recurrent(self.front(mel))
        return F.log_softmax(self.head(x), dim=-1)


class StreamingRecogniser(nn.Module):
    """One direction, states given and returned [layers, batch, hidden], so that a stream can be cut anywhere."""

    def __init__(self, mels: int, hidden: int, layers: int, symbols: int) -> None:
        super().__init__()
        self.expand = nn.Linear(mels, hidden)
        self.recurrent = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, frames: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, (hidden, cell) = self.recurrent(torch.tanh(self.expand(frames)), (hidden, cell))
        return self.head(x), hidden, cell


class Tagger(nn.Module):
    """Sequences of given lengths, packed, through a plain recurrent network and a GRU of both directions."""

    def __init__(self, vocabulary: int, width: int, hidden: int, tags: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.first = nn.RNN(width, hidden, batch_first=True, nonlinearity="tanh")
        self.second = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, tags)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(self.words(input_ids), lengths, batch_first=True)
        x, last = self.second(self.first(packed)[0])
        x, _ = pad_packed_sequence(x, batch_first=True)
        return self.head(x), last
