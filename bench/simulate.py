"""The live loop in one process, without HTTP: how fast does the shipped model become a scripted user's own?

16 real turns an update, one answer to each prompt, sampled from the policy as it is; the user judges (or the shipped
judge reads its words), and the learner takes its step, with fresh answers or without. Held-out questions and facts are
asked after so many turns. For development: every update is kept under `--keep`, so that a run that is stopped goes on.

arms   off        no learning
       today      the verdicts alone, one group an update
       fresh      and fresh answers, by the preference model's rewards and trust
       guided     a third of them sampled with the complaint before the question
       shuffled   as fresh, verdicts dealt out anew within each update
       random     as fresh, a user whose verdicts say nothing
       distill    as fresh, and a tenth of self-distillation from the complaints
       wanted     as fresh, and the user writes what they wanted in place of the first ten answers that they disliked
       memory     no learning: the last complaints stand in the system prompt
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from talktune.config import Config, FreshConfig, JudgeConfig, ModelConfig, SampleConfig, TrainConfig
from talktune.demo.loop import SHORTLY
from talktune.demo.user import NAMES, Name, Question, User, is_right
from talktune.judge.from_config import make_judge
from talktune.judge.panel import judge_turns
from talktune.learner.asker import Asker
from talktune.learner.hindsight import reaction_of
from talktune.learner.preference import Reading
from talktune.learner.samples import sample_of_answer, with_teacher, with_wanted
from talktune.learner.update import Learner
from talktune.policy.adapter import attach_adapter
from talktune.policy.load import Policy, load_policy
from talktune.policy.sample import sample_answers
from talktune.policy.tokens import decode_answer, end_ids, render_prompt
from talktune.types import Message, Sampled, Turn, Verdict, Vote

ARMS = ("off", "today", "fresh", "guided", "shuffled", "random", "distill", "wanted", "memory")
WANTED = 10
"""Answers that the user of `wanted` writes."""
REMEMBERED = 4
"""Complaints in the system prompt of `memory`."""
TOKENS: dict[Name, int] = {"short": 64, "plain": 64, "friendly": 48, "brief": 48}
"""Where this user's client stops an answer."""
FACT_TOKENS = 24
TEMPERATURE = 0.8
WRONG = 0.03
"""Share of the user's verdicts that arrive wrong."""
BATCH = 16
AT_ONCE = 64
"""Answers sampled side by side."""


class Run:
    """One user, one seed, one arm."""

    def __init__(self, args: argparse.Namespace, policy: Policy) -> None:
        self.args = args
        self.user = User(args.user)
        self.tokenizer = policy.tokenizer
        self.ends = end_ids(policy.tokenizer, policy.model.generation_config)
        config = Config(
            model=ModelConfig(device="cpu"),
            train=TrainConfig(learning_rate=1e-3, microbatch_tokens=512, seed=args.seed),
        )
        if args.arm == "distill":
            config = replace(config, algorithm=replace(config.algorithm, distill=0.1))
        config = replace(config, algorithm=replace(config.algorithm, wanted=args.weight))
        self.wanted: list[Turn] = []
        self.complaints: list[str] = []
        self.model = attach_adapter(policy.model, config.model, args.seed)
        self.learner = Learner(self.model, config, total_updates=max(1, args.turns // BATCH))
        fresh = FreshConfig(args.count, args.guided if args.arm == "guided" else 0)
        self.asker = Asker(self.model, self.tokenizer, self.ends, config=fresh, max_tokens=2048)
        self.judge = make_judge(JudgeConfig()) if args.judge == "words" else None
        self.readings: list[Reading] = []
        self.labels: list[float] = []
        self.found: dict[str, Any] = {"user": args.user, "seed": args.seed, "arm": args.arm, "judge": args.judge}
        self.found |= {"points": {}, "updates": []}
        name = f"{args.user}-{args.seed}-{args.arm}{args.name}"
        self.state, self.json = args.keep / f"{name}.pt", args.keep / f"{name}.json"

    def resume(self) -> None:
        """Go on where the last run stopped."""
        if not self.state.exists():
            return
        kept = torch.load(self.state, weights_only=False)
        set_peft_model_state_dict(self.model, kept["adapter"])
        self.learner.optimizer.load_state_dict(kept["optimizer"])
        self.learner.update = kept["update"]
        self.readings, self.labels, self.found = kept["readings"], kept["labels"], kept["found"]
        self.complaints, self.wanted = kept.get("complaints", []), kept.get("wanted", [])

    def keep(self) -> None:
        """What there is so far."""
        kept = {
            "adapter": {name: value.clone() for name, value in get_peft_model_state_dict(self.model).items()},
            "optimizer": self.learner.optimizer.state_dict(),
            "update": self.learner.update,
            "readings": self.readings,
            "labels": self.labels,
            "complaints": self.complaints,
            "wanted": self.wanted,
            "found": self.found,
        }
        partial = self.state.with_suffix(".tmp")
        torch.save(kept, partial)
        partial.rename(self.state)
        self.json.write_text(json.dumps(self.found, indent=1) + "\n")

    def sample(self, prompts: Sequence[Sequence[int]], seed: int, most: int, temperature: float) -> list[Sampled]:
        """One answer to each prompt."""
        config = SampleConfig(temperature=temperature, max_new_tokens=most)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: list[Any] = [None] * len(prompts)
        for start in range(0, len(prompts), AT_ONCE):
            part = order[start : start + AT_ONCE]
            drawn = sample_answers(
                self.model, [prompts[i] for i in part], config, end_ids=self.ends, seed=seed * 64 + start // AT_ONCE
            )
            for i, one in zip(part, drawn, strict=True):
                found[i] = one
        return found

    def ask(self, texts: Sequence[str], seed: int, most: int, temperature: float) -> list[Sampled]:
        """Answers to questions."""
        told: list[Message] = []
        if self.args.arm == "memory" and self.complaints:
            last = "\n".join(f"- {complaint}" for complaint in self.complaints[-REMEMBERED:])
            told = [Message("system", f"What this user said to earlier answers:\n{last}")]
        prompts = [render_prompt(self.tokenizer, [*told, Message("user", text)]) for text in texts]
        return self.sample(prompts, seed, most, temperature)

    def text(self, answer: Sampled) -> tuple[str, bool]:
        """The answer's words, and whether the model ended it."""
        return decode_answer(self.tokenizer, list(answer.answer_ids)).strip(), answer.answer_ids[-1] in self.ends

    def exam(self, facts: bool) -> dict[str, Any]:
        """The held-out questions as the user asks them; the facts greedily."""
        questions = self.user.questions["held-out"]
        drawn = self.ask([q.text for q in questions], 1000, TOKENS[self.user.name], TEMPERATURE)
        told = [self.text(one) for one in drawn]
        opinions = [self.user.judge(q, *one) for q, one in zip(questions, told, strict=True)]
        row: dict[str, Any] = {
            "satisfied": sum(o.label == 1 for o in opinions) / len(opinions),
            "reasons": dict(Counter(o.reason for o in opinions)),
            "words": sum(len(text.split()) for text, _ in told) / len(told),
            "distinct": len({text for text, _ in told}),
        }
        if facts:
            asked = self.user.questions["fact"]
            answers = self.ask([q.text + SHORTLY for q in asked], 0, FACT_TOKENS, 0.0)
            row["facts"] = sum(is_right(q, self.text(one)[0]) for q, one in zip(asked, answers, strict=True))
        return row

    def questions(self, update: int) -> list[Question]:
        """The training questions are dealt out whole, in an order of its own each round."""
        pool = self.user.questions["train"]
        dealt: list[Question] = []
        for position in range(update * BATCH, (update + 1) * BATCH):
            turn, place = divmod(position, len(pool))
            order = random.Random(f"{self.args.seed}/questions/{turn}").sample(range(len(pool)), len(pool))
            dealt.append(pool[order[place]])
        return dealt

    def talk(self, update: int) -> tuple[list[Turn], list[int]]:
        """The real turns of one update, judged, and what the user really thought."""
        asked = self.questions(update)
        seed = self.args.seed * 100_003 + update
        drawn = self.ask([q.text for q in asked], seed, TOKENS[self.user.name], TEMPERATURE)
        rng = random.Random(f"{self.args.seed}/user/{update}")
        turns: list[Turn] = []
        truth: list[int] = []
        for i, (question, one) in enumerate(zip(asked, drawn, strict=True)):
            text, finished = self.text(one)
            opinion = self.user.judge(question, text, finished)
            truth.append(opinion.label)
            label: float = opinion.label
            if rng.random() < WRONG:
                label = rng.choice([other for other in (-1, 0, 1) if other != label])
            if self.args.arm == "random":
                label = rng.choice([-1, 0, 1])
            turns.append(
                Turn(
                    conversation_id=f"{update}-{i}",
                    index=1,
                    prompt=(Message("user", question.text),),
                    answer=Message("assistant", text),
                    next_state=(Message("user", self.user.react(opinion, question, rng)),),
                    sampled=replace(one, policy_version=self.learner.update),
                    verdict=Verdict((Vote(None),), label),
                )
            )
        if self.judge is not None:
            verdicts = judge_turns(self.judge, turns, 5)
            turns = [replace(turn, verdict=verdict) for turn, verdict in zip(turns, verdicts, strict=True)]
        if self.args.arm == "shuffled":
            rewards = [turn.verdict for turn in turns]
            rng.shuffle(rewards)
            turns = [replace(turn, verdict=verdict) for turn, verdict in zip(turns, rewards, strict=True)]
        if self.args.arm == "wanted":
            turns = [self.with_wanted(*one, rng) for one in zip(turns, asked, truth, strict=True)]
        judged = [i for i, turn in enumerate(turns) if turn.verdict and turn.verdict.reward is not None]
        return [turns[i] for i in judged], [truth[i] for i in judged]

    def with_wanted(self, turn: Turn, question: Question, label: int, rng: random.Random) -> Turn:
        """The turn with what the user wanted; feedback is their own word, so that its verdict is what they thought."""
        text = self.user.wants(question, turn.answer.content, rng) if label < 0 and len(self.wanted) < WANTED else None
        if text is None:
            return turn
        self.wanted.append(replace(turn, wanted=text, verdict=Verdict((), -1.0)))
        return self.wanted[-1]

    def update(self) -> dict[str, Any]:
        """One update; what it used and did."""
        began = time.monotonic()
        number = self.learner.update
        turns, truth = self.talk(number)
        rewards = [float(turn.verdict.reward or 0) for turn in turns if turn.verdict]
        samples = [
            sample_of_answer(turn.sampled, id=turn.conversation_id, reward=reward, group=turn.conversation_id)
            for turn, reward in zip(turns, rewards, strict=True)
            if turn.sampled is not None
        ]
        row: dict[str, Any] = {"labels": rewards, "truth": truth}
        if self.args.arm == "distill":
            samples = [with_teacher(s, t, self.tokenizer, 2048) for s, t in zip(samples, turns, strict=True)]
        samples = [with_wanted(s, t, self.tokenizer, 2048) for s, t in zip(samples, turns, strict=True)]
        if self.args.arm == "memory":
            self.complaints += [reaction for turn in turns if (reaction := reaction_of(turn))]
        if self.args.arm in ("off", "memory"):
            self.learner.update += 1
            return row
        if self.args.arm == "today":
            return row | {"metrics": self.learner.step(samples), "seconds": time.monotonic() - began}
        self.readings += self.asker.read(turns, samples)
        self.labels += rewards
        preference = self.asker.learn(self.readings, self.labels, self.wanted)
        fresh, found = self.asker.ask(turns, samples, preference, f"{self.args.seed}/{number}")
        row |= {**found, "weights": preference.weights.tolist(), **self.describe(fresh, number)}
        row["sampled"] = time.monotonic() - began
        row["metrics"] = self.learner.step(samples, fresh)
        return row | {"seconds": time.monotonic() - began}

    def describe(self, fresh: Sequence[Any], number: int) -> dict[str, Any]:
        """How well the foretold rewards agree with what the user would have said; for the report only."""
        questions = {f"{number}-{i}:1": q for i, q in enumerate(self.questions(number))}
        groups: dict[str, list[tuple[float, int]]] = {}
        guided: list[int] = []
        plain: list[int] = []
        for one in fresh:
            text, ended = self.text(Sampled(one.prompt_ids, one.answer_ids, None, 1.0))
            label = self.user.judge(questions[one.group], text, ended).label
            groups.setdefault(one.group, []).append((one.reward, label))
            (guided if one.rollout_logprobs is None else plain).append(label)
        pairs = [
            (a[0] > b[0]) + 0.5 * (a[0] == b[0])
            for group in groups.values()
            for a in group
            for b in group
            if a[1] > b[1]
        ]
        return {
            "auc_within": sum(pairs) / len(pairs) if pairs else None,
            "pairs": len(pairs),
            "plain_liked": sum(x == 1 for x in plain) / max(1, len(plain)),
            "guided_liked": sum(x == 1 for x in guided) / max(1, len(guided)),
            "guided": len(guided),
        }


def show(found: dict[str, Any]) -> None:
    """The run in a few lines."""
    print(f"{found['user']}, seed {found['seed']}, {found['arm']}")
    for turns, row in found["points"].items():
        print(f"  {turns:>3} turns: {row['satisfied']:.2f}, facts {row.get('facts', '')}, {row['words']:.0f} words,"
              f" {row['distinct']} distinct, {row['reasons']}")  # fmt: skip
    for i, row in enumerate(found["updates"], start=1):
        metrics = row.get("metrics", {})
        numbers = {
            k: metrics.get(k)
            for k in ("kl_ref", "fresh_kl_ref", "fresh_tokens", "wanted_loss", "wanted_answers", "grad_norm")
        }
        numbers |= {k: row.get(k) for k in ("trust", "gain", "auc_within", "plain_liked", "guided_liked", "seconds")}
        text = ", ".join(f"{k} {v:.3g}" for k, v in numbers.items() if v is not None)
        weights = " ".join(f"{w:.2f}" for w in row.get("weights", ()))
        print(f"  update {i}: labels {dict(Counter(row['labels']))}; {text}; experts {weights}")


def main() -> None:
    """One run, or the part of it that there is time for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", choices=(*NAMES, "brief"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", choices=ARMS, default="guided")
    parser.add_argument("--judge", choices=("truth", "words"), default="truth", help="who reads the verdicts")
    parser.add_argument("--turns", type=int, default=96)
    parser.add_argument("--points", type=int, nargs="*", default=[0, 16, 32, 48, 64, 96], help="turns at which to ask")
    parser.add_argument("--facts", type=int, nargs="*", help="points at which facts are asked too; all by default")
    parser.add_argument("--count", type=int, default=6, help="fresh answers to each prompt")
    parser.add_argument("--guided", type=int, default=2, help="of them, with the complaint")
    parser.add_argument("--weight", type=float, default=0.1, help="of a wanted answer in the loss")
    parser.add_argument("--seconds", type=float, default=420, help="stop (and go on another time) after so long")
    parser.add_argument(
        "--precision", choices=("highest", "medium"), default="medium", help="medium: bf16 where it can"
    )
    parser.add_argument("--keep", type=Path, default=Path("build/simulate"))
    parser.add_argument("--name", default="", help="added to the run's name")
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    torch.set_float32_matmul_precision(args.precision)
    run = Run(args, load_policy(ModelConfig(device="cpu")))
    run.resume()
    slowest = 0.0
    while True:
        turns = run.learner.update * BATCH
        if turns in args.points and str(turns) not in run.found["points"]:
            run.found["points"][str(turns)] = run.exam(args.facts is None or turns in args.facts)
            run.keep()
        if turns >= args.turns or time.monotonic() - began + slowest > args.seconds:
            break
        start = time.monotonic()
        run.found["updates"].append(run.update())
        run.keep()
        slowest = max(slowest, time.monotonic() - start)
    show(run.found)


if __name__ == "__main__":
    main()
