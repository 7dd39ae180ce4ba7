"""Whose files stay: what serves, what a rollback goes to, what is at the gate, what somebody needs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.errors import UserError
from talktune.live.pruning import prune_versions
from talktune.store.holds import HOLD_SECONDS, hold, needed
from talktune.store.policies import Policies, Version
from talktune.store.store import Store

from ..versions import name_versions


def version(number: int, parent: int | None, state: str = "published", lineage: str = "") -> Version:
    return Version(number, parent, lineage, Path(f"/p/{number}"), state, "", {}, {}, 0.0)  # pyright: ignore[reportArgumentType]


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(2, 5), st.data())
def test_what_is_needed_stays_and_the_rest_is_bounded(back: list[int], keep: int, data: st.DataObject) -> None:
    states = data.draw(st.lists(st.sampled_from(["published", "rejected"]), min_size=len(back), max_size=len(back)))
    versions = [version(i + 1, i - b if i > b else None, states[i]) for i, b in enumerate(back)]
    live = data.draw(st.sampled_from([None, *(one.number for one in versions)]))
    held = set(data.draw(st.lists(st.sampled_from([one.number for one in versions] or [1]), max_size=2)))
    stay = needed(versions, {"": live}, held, keep)
    assert held <= stay
    if live is not None:
        assert live in stay
        parent = versions[live - 1].parent
        assert parent is None or parent in stay
    assert len(stay) <= 2 * keep + len(held)


def test_candidates_and_other_lineages_stay() -> None:
    versions = [version(1, None, "candidate"), *(version(n, n - 1 if n > 2 else None) for n in range(2, 9))]
    versions += [version(9, None, lineage="ann")]
    assert needed(versions, {"": 8, "ann": 9}, (), 2) == {1, 7, 8, 9}


def test_files_go_when_nobody_holds_them(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "s.db"), tmp_path / "policies"
    name_versions(store, folder, 6)
    policies = Policies(store)
    for one in policies.versions():
        one.path.mkdir(parents=True)
        (one.path / "adapter.safetensors").touch()
    (folder / "checkpoints").mkdir()
    policies.promote(6)
    hold(store, "a server", [1], 0.0)
    prune_versions(store, folder, 2, 1.0)

    def there() -> list[str]:
        return sorted(path.name for path in folder.glob("policy-*"))

    assert there() == ["policy-000001", "policy-000005", "policy-000006"]
    with pytest.raises(UserError, match="--keep-versions"):
        policies.promote(2)
    assert policies.rollback() == policies.version(5)
    with pytest.raises(UserError, match="--keep-versions"):
        policies.rollback()
    live = policies.live()
    assert live is not None
    assert live.number == 5
    policies.version(3).path.mkdir()  # whoever pruned it was killed before its files were gone
    prune_versions(store, folder, 2, HOLD_SECONDS + 1)  # and the server is dead
    assert there() == ["policy-000005", "policy-000006"]
    store.close()


def test_a_store_has_a_name_of_its_own(tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("a.db", "a.db", "b.db")]
    names = [Policies(store).engine_name(17) for store in stores]
    assert names[0] == names[1] != names[2]
    assert names[0] == f"tt-{stores[0].name}-000017"
    for store in stores:
        store.close()
