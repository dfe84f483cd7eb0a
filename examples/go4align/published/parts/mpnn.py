"""The message passing network of QM9 (arXiv 1704.01212) on complete molecular graphs."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.utils import softmax

ATOM_FEATURES = 11
EDGE_FEATURES = 5  # four kinds of bonds, and the distance
ROUNDS = 3


class EdgeConvolution(nn.Module):
    """Messages whose matrix a small network computes from the edge; a node takes their mean.

    The same function as ``NNConv(width, width, edges, aggr="mean")`` of torch_geometric. The
    matrices are made apart from the messages, because all rounds use the same ones: at 64
    channels they are 16 kB per edge, by far the largest thing that a step computes and keeps.
    """

    def __init__(self, width: int, edge_features: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.edges = nn.Sequential(
            nn.Linear(edge_features, hidden), nn.ReLU(), nn.Linear(hidden, width * width)
        )
        self.root = nn.Linear(width, width)
        nn.init.zeros_(self.root.bias)

    def matrices(self, edge_attr: Tensor) -> Tensor:
        """Map edges ``(E, edge_features)`` to matrices ``(E, width, width)``."""
        return self.edges(edge_attr).view(-1, self.width, self.width)

    def forward(self, x: Tensor, edge_index: Tensor, matrices: Tensor) -> Tensor:
        """Return new node states ``(N, width)`` from old ones and int64 edges ``(2, E)``."""
        sender, receiver = edge_index
        messages = torch.bmm(x[sender].unsqueeze(1), matrices).squeeze(1)
        total = torch.zeros_like(x).index_add(0, receiver, messages)
        degree = x.new_zeros(len(x)).index_add(0, receiver, x.new_ones(len(receiver)))
        # A molecule of one atom has no edges, so nothing to divide.
        return total / degree.clamp(min=1).unsqueeze(1) + self.root(x)


class GatedUpdate(nn.GRUCell):
    """A recurrent unit with its equation written out.

    Methods that need a gradient per loss compute them in one batched backward pass, which the
    fused units of cuDNN and oneDNN cannot.
    """

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the new state from input and old state, all ``(N, width)``."""
        reset, update, new = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, dim=1)
        state_gates = F.linear(state, self.weight_hh, self.bias_hh).chunk(3, dim=1)
        candidate = torch.tanh(new + torch.sigmoid(reset + state_gates[0]) * state_gates[2])
        return torch.lerp(candidate, state, torch.sigmoid(update + state_gates[1]))


class Memory(nn.LSTMCell):
    """A long short-term memory with its equation written out, for the same reason."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return new output and new cell from input ``(N, inputs)``, old output and old cell."""
        output, cell = state
        gates = F.linear(x, self.weight_ih, self.bias_ih)
        gates = gates + F.linear(output, self.weight_hh, self.bias_hh)
        enter, forget, new, leave = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(leave) * torch.tanh(cell), cell


class ReadOut(nn.Module):
    """Set2Set: a memory that looks at a molecule's atoms three times (arXiv 1511.06391)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.memory = Memory(2 * width, width)

    def forward(self, x: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
        """Sum up atoms ``(N, width)`` of molecules numbered in ``(N,)`` to ``(n, 2 * width)``."""
        query, cell = x.new_zeros(2, n_molecules, x.shape[1])
        seen = torch.cat([query, cell], dim=1)
        for _ in range(ROUNDS):
            query, cell = self.memory(seen, (query, cell))
            match = (x * query[molecule]).sum(dim=1)
            weighted = softmax(match, molecule, num_nodes=n_molecules).unsqueeze(1) * x
            found = torch.zeros_like(query).index_add(0, molecule, weighted)
            seen = torch.cat([query, found], dim=1)
        return seen


class MessagePassing(nn.Module):
    """Three rounds of messages with a gated recurrent update, then a Set2Set read-out.

    Shape:
        input a torch_geometric ``Batch`` with ``x`` of shape ``(N, 11)``, ``edge_index``
        ``(2, E)``, ``edge_attr`` ``(E, 5)`` and ``batch`` ``(N,)``; outputs a mapping of task to
        predictions ``(molecules,)``, and the shared features ``(molecules, width)``.

    Args:
        tasks: names of the properties, in the order of the losses.
        width: channels of nodes and features, 64 as published.
    """

    def __init__(self, tasks: Sequence[str], width: int = 64) -> None:
        super().__init__()
        self.enter = nn.Linear(ATOM_FEATURES, width)
        self.convolution = EdgeConvolution(width, EDGE_FEATURES, hidden=2 * width)
        self.update = GatedUpdate(width, width)
        self.read_out = ReadOut(width)
        self.leave = nn.Linear(2 * width, width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in tasks)
        self.tasks = tuple(tasks)

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Yield all parameters but the heads'."""
        return (p for name, p in self.named_parameters() if not name.startswith("heads."))

    def forward(self, molecules: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return the predictions of all tasks, and the features that they share."""
        x = F.relu(self.enter(molecules.x))
        matrices = self.convolution.matrices(molecules.edge_attr)
        for _ in range(ROUNDS):
            message = F.relu(self.convolution(x, molecules.edge_index, matrices))
            x = self.update(message, x)
        seen = self.read_out(x, molecules.batch, molecules.num_graphs)
        features = F.relu(self.leave(seen))
        predictions = [head(features).squeeze(1) for head in self.heads]
        return dict(zip(self.tasks, predictions, strict=True)), features
