from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.judge.evaluate import TRAIN_LINES, load_judge_lines
from talktune.judge.exchange import Exchange, JudgeLine, head_tokens
from talktune.judge.head import (
    RIDGES,
    SHIPPED_HEAD,
    VOTERS,
    check_model,
    choose,
    fit_head,
    fit_voter,
    folds_of_hands,
    head_probabilities,
    load_head,
    predict,
    save_head,
)
from talktune.judge.hidden import pooled_states
from talktune.policy.load import load_policy


def tiny(hidden: int = 16, layers: int = 3) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_policy(ModelConfig(device="cpu")).tokenizer


@pytest.fixture(scope="module")
def lines() -> list[JudgeLine]:
    return [replace(line, hand="") for line in load_judge_lines(TRAIN_LINES)[:80]]


def test_pooled_states_are_the_models_own(tokenizer: PreTrainedTokenizerBase) -> None:
    model, exchange = tiny(), Exchange("why?", "because", "user", "that is no reason")
    ids, start = head_tokens(tokenizer, exchange)
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    got = pooled_states(model, tokenizer, [exchange], [2, 1, 2])
    for place, layer in enumerate((2, 1, 2)):
        state = states[layer][0]
        torch.testing.assert_close(got[0, place], torch.cat([state[start:].mean(0), state[-1]]))


def test_blocks_above_the_highest_layer_do_not_run(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny()
    seen: list[int] = []
    for number, block in enumerate(model.model.layers, start=1):
        block.register_forward_hook(lambda *_, number=number: seen.append(number))
    pooled_states(model, tokenizer, [Exchange("q", "a", "user", "b")], [1, 2])
    assert seen == [1, 2]


def test_a_row_does_not_depend_on_its_batch(tokenizer: PreTrainedTokenizerBase, lines: list[JudgeLine]) -> None:
    model, exchanges = tiny(), [line.exchange for line in lines]
    together = pooled_states(model, tokenizer, exchanges, [3])
    alone = torch.cat([pooled_states(model, tokenizer, [exchange], [3]) for exchange in exchanges])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_fit_voter_is_at_the_optimum_of_raw_features() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 30.0, 0.1, 1.0, 5.0])
    x += 7.0
    target = torch.arange(60) % 3
    weight, bias = fit_voter(x, target)
    scaled = (weight * x.std(0)).T.requires_grad_()
    offset = (bias + weight @ x.mean(0)).requires_grad_()
    z = (x - x.mean(0)) / x.std(0)
    ridge = 100.0 * 5 / 1152
    loss = torch.nn.functional.cross_entropy(z @ scaled + offset, target, reduction="sum")
    grads = torch.autograd.grad(loss + ridge * scaled.square().sum(), [scaled, offset])
    assert max(float(grad.abs().max()) for grad in grads) < 1e-4


def test_a_head_learns_reproduces_itself_and_survives_the_disk(
    tokenizer: PreTrainedTokenizerBase, lines: list[JudgeLine], tmp_path: Path
) -> None:
    model = tiny()
    told: list[tuple[int, int]] = []
    head = fit_head(model, tokenizer, lines, seed=3, progress=lambda done, total: told.append((done, total)))
    again = fit_head(model, tokenizer, lines, seed=3)
    assert torch.equal(head.weight, again.weight)
    assert not torch.equal(head.weight, fit_head(model, tokenizer, lines, seed=4).weight)
    assert told[-1] == (120, 120)
    assert head.voters == VOTERS
    assert not torch.equal(head.weight[0], head.weight[-1])
    save_head(head, tmp_path / "new" / "head.safetensors")
    back = load_head(tmp_path / "new" / "head.safetensors")
    check_model(back, model, tmp_path)
    exchanges = [line.exchange for line in lines]
    probs = head_probabilities(head, model, tokenizer, exchanges)
    assert torch.equal(probs, head_probabilities(back, model, tokenizer, exchanges))
    torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[..., 0]))
    right = probs[:, 0].argmax(-1) - 1 == torch.tensor([line.label for line in lines])
    assert right.double().mean() > 0.6


def test_predict_is_a_softmax_for_each_voter(tokenizer: PreTrainedTokenizerBase, lines: list[JudgeLine]) -> None:
    head = fit_head(tiny(), tokenizer, lines)
    x = torch.randn(2, VOTERS, 32, generator=torch.Generator().manual_seed(0))
    scores = torch.stack([x[1, v].double() @ head.weight[v].double().T + head.bias[v].double() for v in range(7)])
    torch.testing.assert_close(predict(head, x)[1], scores.softmax(-1))


def test_lines_that_cannot_teach_are_refused(tokenizer: PreTrainedTokenizerBase, lines: list[JudgeLine]) -> None:
    with pytest.raises(UserError, match="at least 30"):
        fit_head(tiny(), tokenizer, lines[:10])
    with pytest.raises(UserError, match="label 1"):
        fit_head(tiny(), tokenizer, [JudgeLine(line.exchange, 1) for line in lines])


def test_a_head_of_another_model_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="judge-train"):
        check_model(load_head(SHIPPED_HEAD), tiny(), SHIPPED_HEAD)


def test_files_that_are_no_head_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors"):
        load_head(tmp_path / "none.safetensors")
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match=r"bad\.safetensors"):
        load_head(path)
    save_file({"weight": torch.zeros(1)}, str(path))
    with pytest.raises(UserError, match="not a verdict head"):
        load_head(path)
    with pytest.raises(UserError, match="written"):
        save_head(load_head(SHIPPED_HEAD), path / "below" / "a-file")


def test_the_shipped_head_is_small() -> None:
    assert SHIPPED_HEAD.stat().st_size < 100_000
    assert load_head(SHIPPED_HEAD).voters == VOTERS


def test_layers_and_penalty_are_chosen_on_hands_that_were_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(120) % 3
    folds = torch.arange(120) // 3 % 4
    noise = torch.randn(120, 3, 8, generator=generator, dtype=torch.float64)
    meaning = torch.nn.functional.one_hot(target, 8).double()
    noise[:, 1] += 4 * meaning  # the same in all hands
    noise[:, 2] += 4 * torch.stack([meaning[i].roll(int(folds[i])) for i in range(120)])  # another in each hand
    _, best = choose(noise, target, folds, 120)
    assert best[0] == 1
    noise[:, 1, :] = torch.randn(120, 8, generator=generator, dtype=torch.float64)
    ridge, _ = choose(noise[:, [1]], target, folds, 120)
    assert ridge == max(RIDGES)


def test_a_head_reads_where_its_hands_say(tokenizer: PreTrainedTokenizerBase, lines: list[JudgeLine]) -> None:
    model = tiny()
    named = [replace(line, hand=f"hand-{i % 4}") for i, line in enumerate(lines)]
    assert folds_of_hands([replace(line, hand="") for line in lines]) is None
    assert set(folds_of_hands(named) or {}) == {f"hand-{i}" for i in range(4)}
    head = fit_head(model, tokenizer, named)
    assert head.voters == VOTERS
    assert set(head.layers) == {1, 2}
    assert torch.equal(head.weight, fit_head(model, tokenizer, named).weight)
