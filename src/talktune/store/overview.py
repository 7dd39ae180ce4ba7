"""Counts what a store holds, for `talktune status`.

Open it to add a number.
"""

import json
from typing import Any

from sqlalchemy import func, select

from talktune.store import schema
from talktune.store.store import Store


def overview(store: Store, updates: int = 200) -> dict[str, Any]:
    """Counts of turns, what waits, verdicts by reward, votes and their cost, and the metrics of the last updates."""
    t, v, o, f = schema.turns.c, schema.verdicts.c, schema.votes.c, schema.feedback.c

    def count(table: Any, *where: Any) -> int:
        return c.execute(select(func.count()).select_from(table).where(*where)).scalar() or 0

    with store.reading() as c:
        lost = select(t.lost, func.count()).where(t.lost.is_not(None), t.kind == "main").group_by(t.lost)
        reward = func.coalesce(f.score, v.reward)  # a person's own word overrules
        judged = schema.verdicts.outerjoin(schema.feedback, f.turn == v.turn)
        counted = select(reward, func.count()).select_from(judged).group_by(reward)
        rewards = {row[0]: row[1] for row in c.execute(counted)}
        cost = c.execute(select(func.sum(o.cost))).scalar() or 0.0
        u = schema.updates.c
        rows = c.execute(select(u.number, u.version, u.created, u.metrics).order_by(u.number.desc()).limit(updates))
        learned = [
            {"update": row.number, "version": row.version, "created": row.created} | json.loads(row.metrics)
            for row in rows
        ]
        return {
            "conversations": count(schema.conversations),
            "turns": count(schema.turns),
            "main": count(schema.turns, t.kind == "main"),
            "lost": {str(row[0]): row[1] for row in c.execute(lost)},
            "partial": count(schema.turns, t.state == "partial"),
            "feedback": count(schema.feedback),
            "without_reaction": count(
                schema.turns, t.kind == "main", t.state == "complete", t.continued == 0, t.id.not_in(select(f.turn))
            ),
            "waiting_for_judge": count(schema.judging),
            "judged": {f"{reward:+g}": number for reward, number in sorted(rewards.items())},
            "votes": count(schema.votes),
            "failed_votes": count(schema.votes, o.label.is_(None)),
            "judge_seconds": cost,
            "waiting_for_learner": count(schema.learning),
            "learned": c.execute(select(func.count(schema.update_turns.c.turn.distinct()))).scalar() or 0,
            "dropped": {row.why: row.turns for row in c.execute(select(schema.dropped))},
            "updates": count(schema.updates),
            "last_updates": list(reversed(learned)),
            "roles": {row.name: {"trouble": row.trouble, "told": row.told} for row in c.execute(select(schema.roles))},
        }
