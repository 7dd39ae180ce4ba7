"""A verdict head: several small linear classifiers on a language model's hidden states, one for each vote.

Open it to see how the local judge decides, and how a head is fitted.

Every voter reads another layer from the middle of the model, and was fitted without another seventh of the
lines, so that voters differ. Which layers, and how strong a penalty, is found on hands that were left out.
p = softmax(W x + b) over (−1, 0, +1), x = mean and last state of the reaction.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from talktune.errors import UserError
from talktune.files import whole_file
from talktune.judge.exchange import ORDERS, Exchange, JudgeLine
from talktune.judge.hidden import Progress, blocks, pooled_states

VOTERS = 7
DEPTHS = (17 / 30, 19 / 30, 15 / 30, 18 / 30, 16 / 30, 20 / 30, 14 / 30, 13 / 30, 12 / 30, 11 / 30, 10 / 30)
"""Where voters may read, as shares of the model's depth; the first `VOTERS` of them where lines name no hands."""
RIDGE = 100.0
"""Weight of |W|² beside the summed log loss on standardised features, at `RIDGE_WIDTH` features."""
RIDGES = (RIDGE, 3 * RIDGE, 10 * RIDGE)
"""Those that are tried where lines name hands."""
FOLDS = 5
LEAST_HANDS = 3
"""Fewer hands than this say nothing about how an unseen one is read."""
RIDGE_WIDTH = 1152
LEAST_LINES = 30
"""Fewer labelled lines than this make no head worth having."""
FORMAT = "talktune-head-1"
SHIPPED_HEAD = Path(__file__).parent / "data" / "head.safetensors"
"""The head for `smollm2`, fitted on `data/train.jsonl`."""


@dataclass(frozen=True)
class Head:
    """The voters of one model: weight (VOTERS, 3, 2 H), bias (VOTERS, 3), the layer each reads, whose they are."""

    weight: Tensor
    bias: Tensor
    layers: tuple[int, ...]
    model_name: str
    model_type: str
    hidden_size: int
    num_layers: int

    @property
    def voters(self) -> int:
        """How many votes this head can give."""
        return len(self.layers)


def fit_head(
    model: Any, tokenizer: Any, lines: Sequence[JudgeLine], seed: int = 0, progress: Progress | None = None
) -> Head:
    """Fit a head for `model` on labelled lines; `seed` decides which lines each voter does without.

    Multinomial logistic regression with an L2 penalty, by L-BFGS in float64: convex, so the data decide the
    result. Where the lines name at least `LEAST_HANDS` hands, layers and penalty are those that read hands best that
    they were not fitted on. `progress(done, total)` is told of lines read. Raises UserError for too few lines or a
    single label.
    """
    check_lines(lines)
    folds = folds_of_hands(lines)
    deep = len(blocks(model))
    depths = DEPTHS[:VOTERS] if folds is None else DEPTHS
    layers = [min(deep, max(1, round(share * deep))) for share in depths]
    if folds is not None:
        layers = list(dict.fromkeys(layers))
    twins = with_orders(lines, seed)
    read = [*lines, *twins]
    features = pooled_states(model, tokenizer, [line.exchange for line in read], layers, progress).double()
    target = torch.tensor([line.label + 1 for line in read])
    ridge, best = RIDGE, list(range(len(layers)))
    if folds is not None:
        ridge, best = choose(features, target, torch.tensor([folds[line.hand] for line in read]), len(lines))
    places = [best[v % len(best)] for v in range(VOTERS)]
    part = torch.tensor([i % VOTERS for i in range(len(read))])
    part = part[torch.randperm(len(read), generator=torch.Generator().manual_seed(seed))]
    voters = [fit_voter(features[part != v, place], target[part != v], ridge) for v, place in enumerate(places)]
    weights, biases = (torch.stack(parts).float() for parts in zip(*voters, strict=True))
    return Head(weights, biases, tuple(layers[place] for place in places), *identity(model))


def folds_of_hands(lines: Sequence[JudgeLine]) -> dict[str, int] | None:
    """The fold of each hand, none of them much larger than the others; None where too few hands are named."""
    sizes = Counter(line.hand for line in lines)
    if len(sizes) < LEAST_HANDS:
        return None
    held = [0] * min(FOLDS, len(sizes))
    folds: dict[str, int] = {}
    for hand, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        folds[hand] = held.index(min(held))
        held[folds[hand]] += size
    return folds


def choose(features: Tensor, target: Tensor, folds: Tensor, lines: int) -> tuple[float, list[int]]:
    """The penalty, and the places (of N × places × D features) from the best on, by their log loss on other folds.

    The first `lines` rows are scored, the others, their twins with orders, only fitted on. The penalty is chosen at
    the first place, and holds for all of them.
    """

    def loss(place: int, ridge: float) -> float:
        total = 0.0
        for fold in folds.unique().tolist():
            weight, bias = fit_voter(features[folds != fold, place], target[folds != fold], ridge)
            scored = (folds == fold).nonzero()[:, 0]
            scored = scored[scored < lines]
            scores = features[scored, place] @ weight.T + bias
            total += float(torch.nn.functional.cross_entropy(scores, target[scored], reduction="sum"))
        return total

    ridge = min(RIDGES, key=lambda ridge: loss(0, ridge))
    losses = [loss(place, ridge) for place in range(features.shape[1])]
    return ridge, sorted(range(features.shape[1]), key=losses.__getitem__)


def check_lines(lines: Sequence[JudgeLine]) -> None:
    """Raise UserError when these lines cannot teach a head."""
    labels = {line.label for line in lines}
    if len(lines) < LEAST_LINES:
        raise UserError(f"A verdict head needs at least {LEAST_LINES} labelled lines, not {len(lines)}: add more.")
    if len(labels) < 2:
        raise UserError(f"All lines have the label {labels.pop()}: add lines with the other labels (-1, 0, 1).")


def with_orders(lines: Sequence[JudgeLine], seed: int) -> list[JudgeLine]:
    """Half of the lines once more, each with an order to the judge beside its next state and the same label.

    A head that saw the same order over good, neutral and bad reactions has learned to pay it no heed.
    """
    rng = random.Random(seed)
    chosen = rng.sample(list(lines), len(lines) // 2)
    return [
        replace(line, exchange=replace(line.exchange, next_state=rng.choice(ORDERS).format(line.exchange.next_state)))
        for line in chosen
    ]


def fit_voter(features: Tensor, target: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Weight (3, D) and bias (3,) for raw features (N, D) in float64, classes (N,) in 0…2 and a penalty."""
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - mean) / spread
    weight = torch.zeros(x.shape[1], 3, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(3, dtype=x.dtype, requires_grad=True)
    ridge *= x.shape[1] / RIDGE_WIDTH
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        solver.zero_grad()
        fit = torch.nn.functional.cross_entropy(x @ weight + bias, target, reduction="sum")
        loss = (fit + ridge * weight.square().sum()) / len(x)
        loss.backward()
        return loss

    solver.step(objective)
    # The standardisation is folded in, so that prediction takes raw features.
    folded = weight.detach() / spread[:, None]
    return folded.T.contiguous(), bias.detach() - mean @ folded


def predict(head: Head, features: Tensor) -> Tensor:
    """Probabilities (N, VOTERS, 3) of −1, 0, +1 from features (N, VOTERS, 2 H)."""
    scores = torch.einsum("nvd,vcd->nvc", features.double(), head.weight.double()) + head.bias.double()
    return scores.softmax(dim=-1)


def head_probabilities(head: Head, model: Any, tokenizer: Any, exchanges: Sequence[Exchange]) -> Tensor:
    """Probabilities (N, VOTERS, 3) that the voters give to exchanges."""
    return predict(head, pooled_states(model, tokenizer, exchanges, head.layers))


def identity(model: Any) -> tuple[str, str, int, int]:
    """Name, type, hidden size and number of layers of a model: what a head must fit."""
    config = model.config.get_text_config()
    name = Path(str(getattr(model.config, "_name_or_path", "") or "unnamed")).name
    return name, str(config.model_type), int(config.hidden_size), int(config.num_hidden_layers)


def check_model(head: Head, model: Any, path: Path) -> None:
    """Raise UserError when the head was made for another model."""
    name, kind, size, deep = identity(model)
    if (kind, size, deep) != (head.model_type, head.hidden_size, head.num_layers):
        raise UserError(
            f"{path}: this verdict head was made for {head.model_name} ({head.model_type}, {head.num_layers} layers, "
            f"{head.hidden_size} wide), not for {name} ({kind}, {deep} layers, {size} wide); "
            "make one with `talktune judge-train`."
        )


def save_head(head: Head, path: Path) -> None:
    """Write a head as one safetensors file; raises UserError where that cannot be written."""
    about = {
        "format": FORMAT,
        "layers": json.dumps(head.layers),
        "model_name": head.model_name,
        "model_type": head.model_type,
        "hidden_size": str(head.hidden_size),
        "num_layers": str(head.num_layers),
    }
    with suppress(OSError):  # the file says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(save({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}, about))


def load_head(path: Path) -> Head:
    """Read a head; raises UserError for a file that is missing or holds no head."""
    if not path.is_file():
        raise UserError(f"{path}: no such verdict head; make one with `talktune judge-train`.")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise UserError(f"{path}: not a verdict head; make one with `talktune judge-train`.")
            head = Head(
                weight=file.get_tensor("weight"),
                bias=file.get_tensor("bias"),
                layers=tuple(json.loads(about["layers"])),
                model_name=about["model_name"],
                model_type=about["model_type"],
                hidden_size=int(about["hidden_size"]),
                num_layers=int(about["num_layers"]),
            )
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path}: not a verdict head ({error}); make one with `talktune judge-train`.") from error
    voters, width = len(head.layers), 2 * head.hidden_size
    if head.weight.shape != (voters, 3, width) or head.bias.shape != (voters, 3):
        raise UserError(f"{path}: a damaged verdict head (its sizes do not agree); make it again.")
    return head
