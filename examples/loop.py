"""The whole of talktune in one loop: binary feedback by words, GRPO-TCR, one policy. Read this first.

    python examples/loop.py                 ten updates of the shipped model: about four minutes on two cores

A user wants no lists and no bold, and never says so: they only react in words. A judge reads the words, m votes make a
reward, rewards become advantages within a group, and one AdamW step follows the clipped loss. Everything here is what
`talktune demo`, `train` and `serve` are made of; they add logs and stores, checkpoints, a gate before a version goes
live, length shaping, importance weights and much speed.
"""

import argparse
import random
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from talktune.config import JudgeConfig, ModelConfig, SampleConfig
from talktune.demo.user import Question, User
from talktune.judge.from_config import make_judge
from talktune.judge.panel import Judge, judge_turns
from talktune.learner.logprobs import Reader, make_reader
from talktune.learner.samples import sample_of_answer
from talktune.policy.adapter import adapter_off, attach_adapter
from talktune.policy.load import Policy, load_policy
from talktune.policy.sample import sample_answers
from talktune.policy.tokens import decode_answer, end_ids, render_prompt
from talktune.rl.advantage import compute_grpo_advantages, zero_variance
from talktune.rl.loss import grpo_tcr_loss
from talktune.rl.metrics import merge
from talktune.rl.packing import pack
from talktune.types import Message, Sample, Sampled, Turn

EPS_LOW, EPS_HIGH = 0.2, 0.28
"""Clip-higher: a good token may grow further than a bad one may shrink (DAPO, arXiv 2503.14476)."""
BETA = 0.02
"""Weight of the KL to the model without its adapter."""
SAMPLING = SampleConfig(temperature=1.0, max_new_tokens=64)


def ask(policy: Policy, questions: Sequence[Question], copies: int, seed: int) -> list[Sampled]:
    """`copies` answers to each question, with the token ids and log-probs that they were sampled with."""
    prompts = [render_prompt(policy.tokenizer, [Message("user", q.text)]) for q in questions]
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    return sample_answers(policy.model, prompts, SAMPLING, end_ids=ends, seed=seed, copies=copies)


def talk(policy: Policy, user: User, asked: Sequence[Question], copies: int, seed: int) -> list[Turn]:
    """Conversations: a question, an answer, and the next message, which is all that the judge will read."""
    rng = random.Random(seed)
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    turns: list[Turn] = []
    for i, sampled in enumerate(ask(policy, asked, copies, seed)):
        question = asked[i // copies]
        text = decode_answer(policy.tokenizer, list(sampled.answer_ids)).strip()
        opinion = user.judge(question, text, sampled.answer_ids[-1] in ends)
        reaction = user.react(opinion, question, rng)
        turns.append(
            Turn(
                conversation_id=f"{seed}-{i}",
                index=1,
                prompt=(Message("user", question.text),),
                answer=Message("assistant", text),
                next_state=(Message("user", reaction),),
                sampled=sampled,
            )
        )
    return turns


def score(judge: Judge, turns: Sequence[Turn]) -> list[Sample]:
    """Five votes a turn on the next message; their majority, −1, 0 or +1, is the reward. A tie says nothing."""
    verdicts = judge_turns(judge, turns, 5)
    return [
        sample_of_answer(turn.sampled, id=turn.conversation_id, reward=verdict.reward, group=turn.prompt[-1].content)
        for turn, verdict in zip(turns, verdicts, strict=True)
        if turn.sampled is not None and verdict.reward is not None
    ]


def learn(
    reader: Reader, model: torch.nn.Module, optimizer: torch.optim.Optimizer, samples: Sequence[Sample]
) -> dict[str, float]:
    """One update: advantages within each question's answers, packs of one pass each, one step.

    A = (r − mean of the group) / std of the group; a group whose rewards are all alike has none and teaches nothing.
    """
    rewards, groups = [s.reward for s in samples], [s.group for s in samples]
    advantages = compute_grpo_advantages(rewards, groups)
    kept = [i for i, alike in enumerate(zero_variance(rewards, groups).tolist()) if not alike]
    if not kept:
        return {}
    samples, advantages = [samples[i] for i in kept], advantages[kept]
    total = sum(len(s.answer_ids) for s in samples)  # token level: one mean over the whole update, not one a pack
    parts: list[dict[str, float]] = []
    for packed in pack(samples, 512):
        temperatures = torch.full((len(packed.target),), SAMPLING.temperature)
        with adapter_off(model), torch.no_grad():
            reference, _ = reader.read(packed, temperatures).chosen()
        now, entropy = reader.read(packed, temperatures).chosen()
        was = [torch.tensor(samples[i].rollout_logprobs) for i in packed.samples]

        def padded(flat: torch.Tensor) -> torch.Tensor:  # (K,) -> (B, T)
            return pad_sequence(packed.rows(flat), batch_first=True)  # noqa: B023

        loss, metrics = grpo_tcr_loss(
            padded(now),
            pad_sequence(was, batch_first=True),
            padded(reference),
            advantages[list(packed.samples)].float(),
            padded(torch.ones_like(now)),
            eps_low=EPS_LOW,
            eps_high=EPS_HIGH,
            beta=BETA,
            total=total,
            entropy=padded(entropy),
        )
        loss.backward()
        parts.append(metrics)
    torch.nn.utils.clip_grad_norm_((p for p in model.parameters() if p.requires_grad), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return merge(parts)


def satisfied(policy: Policy, user: User, questions: Sequence[Question]) -> float:
    """The share of held-out questions whose answer pleases."""
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    answers = ask(policy, questions, 1, seed=0)
    told = [(decode_answer(policy.tokenizer, list(a.answer_ids)).strip(), a.answer_ids[-1] in ends) for a in answers]
    return sum(user.judge(q, *one).label == 1 for q, one in zip(questions, told, strict=True)) / len(questions)


def main(arguments: Sequence[str] | None = None) -> float:
    """Learn from one user; prints each update, and returns the share of held-out answers that please at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--questions", type=int, default=6, help="of one update")
    parser.add_argument("--answers", type=int, default=8, help="to each question: a group")
    parser.add_argument("--held-out", type=int, default=24, help="questions that are never trained on")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    user = User("plain")
    policy = load_policy(ModelConfig(device="cpu"))
    judge = make_judge(JudgeConfig())
    policy.model = attach_adapter(policy.model, ModelConfig(), seed=0)
    optimizer = torch.optim.AdamW((p for p in policy.model.parameters() if p.requires_grad), lr=1e-3, weight_decay=0.0)
    reader = make_reader(policy.model)
    held_out, train = user.questions["held-out"][: args.held_out], list(user.questions["train"])
    random.Random(0).shuffle(train)
    print(f"before: {satisfied(policy, user, held_out):.0%} of {len(held_out)} held-out answers please")
    for update in range(args.updates):
        asked = [train[(update * args.questions + i) % len(train)] for i in range(args.questions)]
        samples = score(judge, talk(policy, user, asked, args.answers, seed=1 + update))
        reward = sum(s.reward for s in samples) / max(len(samples), 1)
        metrics = learn(reader, policy.model, optimizer, samples)
        told = ", ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "kl_ref", "entropy") if name in metrics)
        print(f"update {update + 1}: mean reward {reward:+.2f}, {told or 'nothing to learn from'}", flush=True)
    after = satisfied(policy, user, held_out)
    print(f"after: {after:.0%}")
    return after


if __name__ == "__main__":
    main()
