from talktune.config import LabConfig
from talktune.lab.ablation import AIMS, FULL, VARIANTS, compare, jobs


def test_a_part_helps_only_if_it_does_on_every_seed() -> None:
    assert compare([0.5, 0.6], [0.4, 0.5]) == "helps"
    assert compare([0.5, 0.6], [0.6, 0.7]) == "hurts"
    assert compare([0.5, 0.6], [0.4, 0.7]) == "not clear"
    assert compare([0.5], [0.5]) == "not clear"


def test_each_variant_lacks_one_part_and_nothing_else() -> None:
    found = jobs(LabConfig(seeds=2))
    assert len(found) == 2 * len(VARIANTS)
    assert {job.seed for job in found} == {0, 1}
    assert VARIANTS["without T"].aggregation == "sequence"
    assert VARIANTS["without C"].eps_high == FULL.eps_low
    assert VARIANTS["without R"].L_max > FULL.L_max
    assert set(AIMS) == set(VARIANTS) - {"all of TCR"}
    rest = {(job.kinds, job.updates, job.passes, job.longest, job.learning_rate) for job in found}
    assert len(rest) == 1
